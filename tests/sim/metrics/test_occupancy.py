"""Occupancy over time: time-weighted means that keep every integral, whatever the bins and slices."""

import numpy as np
import pytest

from sim.engine.iteration_log import DTYPE, Slice
from sim.metrics.occupancy import BINS, Occupancy, Series
from tests.sim.small_run import POLICIES, make_requests, run


def records(*rows: dict[str, float]) -> Slice:
    made = np.zeros(len(rows), dtype=DTYPE)
    for place, row in enumerate(rows):
        for name, value in row.items():
            made[name][place] = value
    return made


def series_of(log: Slice, size: int) -> Series:
    occupancy = Occupancy()
    for start in range(0, len(log), size):
        occupancy(log[start : start + size])
    return occupancy.series()


def test_a_gap_counts_as_empty_and_a_bin_that_is_crossed_gets_its_share() -> None:
    series = series_of(
        records(
            {"start_s": 0, "duration_s": 600, "live_rows": 4, "waiting": 7, "kv_tokens": 100},
            {"start_s": 800, "duration_s": 224, "live_rows": 2, "held_rows": 3, "prefill_rows": 1},
        ),
        size=2,
    )
    np.testing.assert_array_equal(series.edges_s, np.arange(1025))
    expected = np.repeat([4.0, 0.0, 2.0], [600, 200, 224])
    np.testing.assert_allclose(series.live_rows, expected, atol=1e-9)
    np.testing.assert_allclose(series.waiting, np.repeat([7.0, 0.0], [600, 424]), atol=1e-9)
    np.testing.assert_allclose(series.kv_tokens, np.repeat([100.0, 0.0], [600, 424]), atol=1e-7)
    np.testing.assert_allclose(series.held_rows, np.repeat([0.0, 3.0], [800, 224]), atol=1e-9)
    np.testing.assert_allclose(series.prefill_rows, np.repeat([0.0, 1.0], [800, 224]), atol=1e-9)
    halved = series_of(records({"start_s": 0.5, "duration_s": 1023.5, "live_rows": 4}), size=1)
    np.testing.assert_allclose(halved.live_rows, [2, *[4] * 1023])


def test_lanes_that_overlap_are_not_counted_twice() -> None:
    series = series_of(
        records(
            {"lane": 1, "start_s": 0, "duration_s": 512, "live_rows": 4, "waiting": 7, "prefill_rows": 2},
            {"lane": 0, "start_s": 0, "duration_s": 768, "live_rows": 4, "waiting": 7},
            {"lane": 1, "start_s": 768, "duration_s": 256, "waiting": 9, "prefill_rows": 3},
        ),
        size=3,
    )
    np.testing.assert_allclose(series.live_rows, np.repeat([4.0, 0.0], [768, 256]), atol=1e-9)
    np.testing.assert_allclose(series.waiting, np.repeat([7.0, 9.0], [768, 256]))
    np.testing.assert_allclose(series.prefill_rows, np.repeat([2.0, 0.0, 3.0], [512, 256, 256]), atol=1e-9)


@pytest.mark.parametrize("size", [1, 17, 10_000])
@pytest.mark.parametrize("policy", ["run_to_completion", "orca", "baton"])
def test_integrals_are_those_of_the_log(policy: str, size: int) -> None:
    log = run(POLICIES[policy], make_requests()).log
    series = series_of(log, size)
    width = np.diff(series.edges_s)
    assert BINS / 2 <= len(width) <= BINS
    assert series.edges_s[-1] == pytest.approx((log["start_s"] + log["duration_s"]).max())
    for name in ("live_rows", "held_rows", "prefill_rows", "waiting", "kv_tokens"):
        assert np.dot(getattr(series, name), width) == pytest.approx(np.dot(log[name], log["duration_s"])), name
    assert series.kv_peak_tokens.max() == log["kv_tokens"].max()
    assert (series.kv_peak_tokens >= series.kv_tokens - 1e-6).all()


@pytest.mark.parametrize("size", [1, 3])
def test_the_most_kv_memory_of_a_bin_is_kept_however_short_it_was_taken(size: int) -> None:
    series = series_of(
        records(
            {"start_s": 0.5, "duration_s": 2.25, "kv_tokens": 100},
            {"start_s": 2.75, "duration_s": 0.125, "kv_tokens": 900},
            {"start_s": 2.875, "duration_s": 0.125, "kv_tokens": 50},
            {"start_s": 5, "duration_s": 1019, "kv_tokens": 7},
        ),
        size,
    )
    assert series.kv_peak_tokens.tolist() == [100, 100, 900, 0, 0, *[7] * 1019]


def test_a_run_without_iterations_has_an_empty_series() -> None:
    series = Occupancy().series()
    assert series.edges_s.tolist() == [0]
    assert len(series.live_rows) == 0
