"""Whether a run kept up with its arrivals."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.orca import Orca
from sim.metrics.keeping_up import Lag, lag
from sim.metrics.metrics import Summary
from sim.simulation.simulation import simulate
from tests.runs import LLAMA3_8B, ONE_SECOND_PER_ITERATION, requests_of


def one_by_one(gap_s: float, tokens: int, count: int = 60, **requests: Any) -> Summary:
    """Serve requests of so many tokens, thus of so many seconds, one at a time; one arrives every `gap_s`."""
    rows = [(gap_s * place, 1, tokens) for place in range(count)]
    arriving = requests_of(rows, **requests)
    return simulate(arriving, Orca(max_batch=1), ONE_SECOND_PER_ITERATION, LLAMA3_8B, kv_tokens=1000).summary


@given(gap_s=st.integers(1, 12), tokens=st.integers(1, 12))
def test_latency_grows_by_what_is_offered_over_what_can_be_served(gap_s: int, tokens: int) -> None:
    """D/D/1: n requests, one every a seconds, each served for s > a seconds, end at a, s + s, ...: n (s - a) late."""
    summary = one_by_one(gap_s, tokens)
    assert summary["offered_request_rate"] == pytest.approx(1 / gap_s)
    assert summary["latency_growth"] == pytest.approx(max(tokens / gap_s - 1, 0), abs=1e-9)
    assert summary["falls_behind"] is (tokens > 1.05 * gap_s)
    assert summary["drain_s"] == pytest.approx(max(60 * tokens - 59 * gap_s, tokens))


def test_a_queue_that_is_not_always_there_still_grows() -> None:
    """Nobody waits for a third of the run; then one request arrives per second and one is served every two."""
    rows = [(10.0 * place, 1, 2) for place in range(10)] + [(100.0 + place, 1, 2) for place in range(200)]
    summary = simulate(
        requests_of(rows), Orca(max_batch=1), ONE_SECOND_PER_ITERATION, LLAMA3_8B, kv_tokens=1000
    ).summary
    assert summary["saturated"] is False
    assert summary["falls_behind"] is True and summary["latency_growth"] == pytest.approx(1.0, rel=0.01)


def columns(arrival: Any, e2e: Any, queue: Any = 0.0, status: str = "finished") -> dict[str, Any]:
    arrival = np.asarray(arrival, dtype=np.float64)
    every = np.broadcast_to(np.asarray(e2e, dtype=np.float64), arrival.shape)
    return {"arrival_s": arrival, "e2e_s": every, "queue_s": np.zeros(len(arrival)) + queue,
            "status": np.full(len(arrival), status)}  # fmt: skip


def test_rows_that_are_served_slower_and_slower_fall_behind_without_a_queue() -> None:
    arrival = np.arange(100.0)
    found = lag(columns(arrival, 1 + 0.5 * arrival), 150.5, 100 / 150.5, by_the_clock=True)
    assert found.falls_behind is True and found.growth == pytest.approx(0.5)


def test_the_first_half_in_which_the_system_fills_up_tells_nothing() -> None:
    arrival = np.arange(100.0)
    found = lag(columns(arrival, np.minimum(1 + arrival, 20)), 119.0, 100 / 119, by_the_clock=True)
    assert found.falls_behind is False and found.growth == pytest.approx(0.0)


def told(runs: Iterable[Lag]) -> Counter[bool | None]:
    """How many runs fall behind (True), keep up (False), or cannot tell (None)."""
    return Counter(run.falls_behind for run in runs)


def wandering(growth: float, seed: int, persistence: float = 0.9, count: int = 200) -> dict[str, Any]:
    """Latencies that grow by so many seconds per second, with noise x' = persistence x + e: neighbours are alike."""
    noise = np.random.default_rng(seed).normal(0, 2, count)
    for place in range(1, count):
        noise[place] += persistence * noise[place - 1]
    arrival = np.arange(float(count))
    latency = 30 + growth * arrival + noise
    return columns(arrival, latency, latency - 1)


def by_single_requests(columns: dict[str, Any]) -> bool:
    """What a line through single requests of the second half says: it grew by more than 5 %, and two errors."""
    second = slice(len(columns["arrival_s"]) // 2, None)
    time, latency = columns["arrival_s"][second], columns["e2e_s"][second]
    (slope, _), covariance = np.polyfit(time, latency, 1, cov=True)
    return bool(slope > max(0.05, 2 * np.sqrt(covariance[0, 0])))


def test_noise_is_no_growth_though_neighbours_are_alike() -> None:
    """Of latencies that do not grow at most one run in twenty is said to; single requests err in one of six."""
    runs = [wandering(0.0, seed) for seed in range(400)]
    found = told(lag(run, 260.0, 200 / 260, by_the_clock=True) for run in runs)
    assert 0 < found[True] < 20
    assert found[None] > 100
    assert sum(map(by_single_requests, runs)) > 400 / 6


def test_growth_is_seldom_denied_and_is_found_in_time() -> None:
    slowly = told(lag(wandering(0.1, seed), 260.0, 200 / 260, by_the_clock=True) for seed in range(200))
    fast = told(lag(wandering(1.0, seed), 460.0, 200 / 460, by_the_clock=True) for seed in range(200))
    assert slowly[False] < 10 < slowly[None]
    assert fast == {True: 200}


def single_server(load: float, count: int, seed: int) -> Lag:
    """M/M/1 from empty, by Lindley's recursion: the lag of a run of so many requests, served for 1 s on average."""
    rng = np.random.default_rng(seed)
    gap, service, wait = rng.exponential(1 / load, count), rng.exponential(1, count), np.zeros(count)
    for place in range(1, count):
        wait[place] = max(wait[place - 1] + service[place - 1] - gap[place], 0)
    arrival = np.cumsum(gap)
    end_s = float((arrival + wait + service).max())
    return lag(columns(arrival, wait + service, wait), end_s, count / end_s, by_the_clock=True)


@pytest.mark.parametrize(("load", "count", "wrong"), [(0.8, 50, True), (0.9, 100, True), (1.3, 100, False)])
def test_a_random_queue_is_seldom_called_what_it_is_not(load: float, count: int, wrong: bool) -> None:
    found = told(single_server(load, count, seed) for seed in range(200))
    assert found[wrong] <= 15
    assert found[None] > 20


@pytest.mark.parametrize("count, service", [(10, 1.0), (100, 30.0)])
def test_a_run_that_is_short_beside_its_answers_tells_nothing(count: int, service: float) -> None:
    found = lag(columns(np.arange(float(count)), service), count + service, 0.5, by_the_clock=True)
    assert found.falls_behind is None and found.growth is None and found.offered_rate == pytest.approx(1.0)


def test_where_requests_do_not_come_by_the_clock_there_is_nothing_to_fall_behind() -> None:
    closed = one_by_one(0, 3, concurrency=2)
    at_once = one_by_one(0, 3)
    unfinished = lag(columns(np.arange(9.0), np.nan, status="unfinished"), 9.0, 0.0, by_the_clock=True)
    assert closed["falls_behind"] is at_once["falls_behind"] is unfinished.falls_behind is None
    assert closed["offered_request_rate"] is at_once["offered_request_rate"] is None
    assert lag(columns(np.arange(9.0), np.nan, status="rejected"), 0.0, None, by_the_clock=True).drain_s is None
