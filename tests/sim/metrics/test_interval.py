"""Confidence intervals: they hold the truth as often as they say, and say no more than they know."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from policies.run_to_completion import RunToCompletion
from sim.metrics.interval import Interval, in_words, interval, ratio_interval, t_quantile, verdict
from sim.simulation.simulation import simulate
from tests.runs import LLAMA3_8B, ONE_SECOND_PER_ITERATION, requests_of

Array = npt.NDArray[np.float64]

SEEDS, REPLICATIONS, CUSTOMERS, WARM_UP = 2000, 8, 1000, 100
RATE, LOW, HIGH = 0.4, 0.5, 1.5
MEAN_WAIT = RATE * (1 + (HIGH - LOW) ** 2 / 12) / (2 * (1 - RATE))
"""Pollaczek and Khinchine: rate times the second moment of service over 2 (1 - load); the mean service is 1 s."""


def waits(gaps: Array, service: Array) -> Array:
    """Lindley's recursion along the last axis: the wait of every customer of a queue with one server."""
    steps = np.cumsum(service[..., :-1] - gaps[..., 1:], axis=-1)
    reached = np.concatenate([np.zeros((*steps.shape[:-1], 1)), steps], axis=-1)
    return np.asarray(reached - np.minimum.accumulate(reached, axis=-1))


def coverage(quantile: float | None = None) -> float:
    """Share of the seeds whose interval for the mean wait holds the true one; a quantile replaces Student's."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(SEEDS // 100):
        shape = (100, REPLICATIONS, CUSTOMERS)
        each = waits(rng.exponential(1 / RATE, shape), rng.uniform(LOW, HIGH, shape))[..., WARM_UP:].mean(axis=-1)
        for replications in each:
            found = interval(replications.tolist())
            half = found.half_width * (1 if quantile is None else quantile / t_quantile(0.95, REPLICATIONS - 1))
            held += abs(found.estimate - MEAN_WAIT) <= half
    return held / SEEDS


def test_the_interval_of_a_queue_holds_the_true_wait_in_95_percent_of_2000_seeds() -> None:
    assert 0.93 <= coverage() <= 0.97


def test_an_interval_by_the_normal_distribution_would_not() -> None:
    assert coverage(quantile=1.96) < 0.93


def test_the_simulator_is_that_queue_with_one_row_and_a_constant_cost() -> None:
    rng = np.random.default_rng(1)
    gaps, service = rng.exponential(4.0, 300), rng.integers(1, 6, 300)
    rows = [(float(at), 1, int(tokens)) for at, tokens in zip(np.cumsum(gaps), service, strict=True)]
    policy = RunToCompletion(max_batch=1, release="early")
    result = simulate(requests_of(rows), policy, ONE_SECOND_PER_ITERATION, LLAMA3_8B, kv_tokens=100)
    np.testing.assert_allclose(result.columns["queue_s"], waits(gaps, service.astype(float)), atol=1e-9)


@given(st.integers(1, 300), st.floats(0.5, 0.999))
def test_students_quantile_is_that_of_the_tables(freedom: int, confidence: float) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_an_interval_by_hand() -> None:
    """Mean 12, standard deviation 2; t(0.975, 2) = 4.303."""
    found = interval([10, 12, 14])
    assert found.estimate == 12
    assert found.half_width == pytest.approx(4.3027 * 2 / math.sqrt(3), rel=1e-4)
    trace = interval([10, 12, 14], resampled=True)
    assert trace.half_width == pytest.approx(4.3027 * 2 * math.sqrt(1 + 1 / 3), rel=1e-4)
    assert interval([3.0]) == Interval(3.0, -math.inf, math.inf)


def test_more_replications_of_one_trace_are_no_new_evidence() -> None:
    drawn = np.random.default_rng(0).normal(size=400).tolist()
    widths = [(interval(drawn[:n]).half_width, interval(drawn[:n], resampled=True).half_width) for n in (100, 400)]
    assert widths[1][0] < 0.6 * widths[0][0]
    assert widths[1][1] == pytest.approx(widths[0][1], rel=0.1)


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(2)
    load = rng.lognormal(sigma=1.0, size=20)
    base, better = load, 1.3 * load * rng.lognormal(sigma=0.01, size=20)
    found = ratio_interval(better.tolist(), base.tolist())
    assert found is not None and found.low < 1.3 < found.high and found.high - found.low < 0.03
    shuffled = ratio_interval(better.tolist(), base[::-1].tolist())
    assert shuffled is not None and verdict(shuffled) == "not distinguished"


def test_the_ratio_of_ratios_is_turned_over_with_its_policies() -> None:
    one, other = [1.0, 2.0, 4.0], [2.0, 3.0, 9.0]
    found, turned = ratio_interval(one, other), ratio_interval(other, one)
    assert found is not None and turned is not None
    assert (1 / turned.estimate, 1 / turned.high, 1 / turned.low) == pytest.approx(
        (found.estimate, found.low, found.high)
    )
    assert ratio_interval([0.0, 1.0], [1.0, 1.0]) is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.27, 1.35, "higher"),
        (0.7, 0.97, "lower"),
        (0.9, 1.3, "not distinguished"),
        (0.99, 1.03, "not distinguished"),
        (0.985, 1.015, "equal within 2 %"),
        (1.005, 1.015, "equal within 2 %"),
        (1.01, 1.03, "higher"),
    ],
)
def test_what_an_interval_lets_one_say(low: float, high: float, said: str) -> None:
    ratio = Interval((low + high) / 2, low, high)
    assert verdict(ratio) == said
    assert in_words(ratio).endswith(f": {said}") == (said not in ("higher", "lower"))


def test_a_ratio_in_words() -> None:
    assert in_words(Interval(1.31, 1.27, 1.35)) == "1.31, 95 % CI 1.27 to 1.35"
    assert in_words(Interval(1.0004, 0.999, 1.002)) == "1.0004, 95 % CI 0.9990 to 1.0020: equal within 2 %"
    assert in_words(Interval(1, 1, 1)) == "1.00, 95 % CI 1.00 to 1.00: equal within 2 %"
