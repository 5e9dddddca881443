"""Whether a run kept up with its arrivals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.orca import Orca
from sim.lag import lag
from sim.metrics import Summary
from sim.simulation import simulate
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


def test_noise_is_no_growth() -> None:
    """Latencies of one distribution: beyond two standard errors, and 5 %, in about one run of forty at most."""
    rng, arrival = np.random.default_rng(0), np.arange(100.0)
    runs = [lag(columns(arrival, rng.exponential(10, 100)), 130.0, 100 / 130, by_the_clock=True) for _ in range(400)]
    assert 0 < sum(run.falls_behind is True for run in runs) < 20


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
