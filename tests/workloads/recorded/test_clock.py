"""The clock of a recording is found in its times; arrivals are spread within its ticks and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.demand import Demand
from workloads.recorded.clock import find_tick, spread_within_ticks
from workloads.requests import FloatArray


def spread(*times: float) -> list[float]:
    """Return arrivals after ticks were looked for and spread."""
    ones = np.ones(len(times), dtype=np.int64)
    demand = spread_within_ticks(Demand(ones, ones, np.array(times, dtype=np.float64)))
    assert demand.recorded_s is not None
    return [round(time, 9) for time in demand.recorded_s.tolist()]


def ticked(tick: float, count: int, size: int = 4) -> FloatArray:
    """Return so many ticks of so many requests each."""
    return np.repeat(np.arange(count) * tick, size)


@pytest.mark.parametrize("tick", [0.01, 0.1, 0.5, 1.0, 3.0, 7.0, 60.0])
def test_a_clock_is_found_by_its_ticks(tick: float) -> None:
    assert find_tick(ticked(tick, 40)) == pytest.approx(tick)


@given(st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 3.0, 5.0]), st.sampled_from([0.05, 0.2, 0.35]))
def test_a_minority_of_times_off_the_grid_does_not_hide_it(seed: int, tick: float, off: float) -> None:
    times = ticked(tick, 100)
    strays = np.random.default_rng(seed).uniform(0, times[-1], round(100 * off / (1 - off)))
    assert find_tick(np.sort(np.concatenate([times, strays.round(3)]))) == pytest.approx(tick)


@given(st.integers(0, 2**32), st.floats(0.5, 30))
def test_a_clock_of_whole_seconds_ticks_every_second_however_sparse(seed: int, gap: float) -> None:
    times = np.floor(np.cumsum(np.random.default_rng(seed).exponential(gap, 60)))
    assert find_tick(times) == 1


@given(st.integers(0, 2**32))
def test_a_fine_clock_has_no_coarse_tick(seed: int) -> None:
    times = np.cumsum(np.random.default_rng(seed).exponential(0.2, 300))
    assert find_tick(times) is None and find_tick(times.round(3)) is None


def test_ticks_may_jitter_by_milliseconds() -> None:
    jitter = np.random.default_rng(0).integers(-2, 3, 200) / 1000
    assert find_tick(np.repeat(np.arange(200) * 3 + jitter, 5)) == 3


def test_jobs_of_every_minute_do_not_hide_the_second() -> None:
    others = np.floor(np.random.default_rng(0).uniform(0, 3600, 300))
    assert find_tick(np.sort(np.concatenate([ticked(60, 60, 50), others]))) == 1


@pytest.mark.parametrize("times", [[0, 0, 0], [0, 2, 2, 2]])
def test_one_gap_is_no_clock(times: list[float]) -> None:
    assert find_tick(np.array(times, dtype=np.float64)) is None


def test_an_idle_gap_is_never_filled() -> None:
    idle = spread(0, 0, 2, 2, 2, 2, 4, 4, 7204, 7204, 7204, 7204)
    assert idle == [0, 1, 2, 2.5, 3, 3.5, 4, 5, 7204, 7204.5, 7205, 7205.5]


def test_times_off_the_grid_are_exact_and_stay() -> None:
    assert spread(0, 0, 3, 3, 4.123, 6, 6, 9, 9) == [0, 1.5, 3, 4.123, 4.5, 6, 7.5, 9, 10.5]


@given(st.integers(0, 2**32), st.sampled_from([0.25, 1.0, 3.0]))
def test_every_request_stays_in_its_tick_and_in_order(seed: int, tick: float) -> None:
    times = np.floor(np.cumsum(np.random.default_rng(seed).exponential(tick / 2, 200)) / tick) * tick
    after = np.array(spread(*times))
    assert (after >= times - 1e-9).all() and (after < times + tick + 1e-9).all()
    assert (np.diff(after) >= 0).all() and len(np.unique(after)) == 200


def test_requests_of_a_fine_clock_are_left_alone() -> None:
    assert spread(0, 0, 0.021, 0.037) == [0, 0, 0.021, 0.037]
