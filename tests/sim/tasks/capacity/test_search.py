"""The search for capacity, on attainments that are known."""

import math

import numpy as np
import pytest

from policies.checks import InputError
from sim.metrics.metrics import Summary
from sim.tasks.capacity.search import MEETS, UNDECIDED, Capacity, Search, looks, unit_rate
from workloads import Fixed, ShareGPT, Synthetic, Trace

SEED = 4


def search(
    limit: float, noise: float = 0.0, saturated: float = 10.0, replications: int = 32
) -> tuple[Capacity, Search]:
    """Search where all requests meet the SLO below `limit` and half do above; `noise` shifts it by replication."""
    shifts = np.random.default_rng(SEED).normal(size=replications) * noise

    def simulate(rate: float, replication: int) -> Summary:
        return {"slo_attainment": 1.0 if rate <= limit * math.exp(shifts[replication]) else 0.5}

    made = Search(simulate, saturated, 0.9, 0.02, replications, counted=1000)
    return made.run(), made


@pytest.mark.parametrize("limit", [0.02, 0.5, 3.0, 7.77, 9.9])
def test_the_highest_rate_is_found_to_a_step_in_few_runs(limit: float) -> None:
    found, made = search(limit)
    assert found.rate <= limit < found.rate * 1.02
    assert found.low == found.rate and found.high == pytest.approx(1.02 * found.rate)
    assert made.runs <= 8 * 11, "eight runs decide a rate where all agree, and bisection needs nine of 350 rates"


def test_noise_widens_what_is_said_not_the_answer() -> None:
    """0.9 of the requests meet the SLO where a fifth of the replications is past its limit: at 5 exp(-0.84 * noise)."""
    sure, few = search(5.0)
    found, many = search(5.0, noise=0.2)
    assert found.high / found.low > sure.high / sure.low
    assert found.low < found.rate < found.high
    assert found.rate == pytest.approx(5 * math.exp(-0.84 * 0.2), rel=0.1)
    limits = 5.0 * np.exp(np.random.default_rng(SEED).normal(size=32) * 0.2)
    grid = 10 * 1.02 ** -np.arange(350.0)
    assert found.rate == max(rate for rate in grid if np.mean(np.where(rate <= limits, 1, 0.5)) >= 0.9)
    assert many.runs > few.runs


def test_a_rate_of_the_curve_that_was_tried_is_not_tried_twice() -> None:
    found, made = search(5.0)
    runs, point = made.runs, found.points[len(found.points) // 2]
    assert made.fill(point.rate * (1 + 1e-12), around=100 * point.rate) is point and made.runs == runs
    assert made.fill(point.rate, around=point.rate) is point and len(point.runs) == 32
    assert made.fill(point.rate * 1.001, around=100 * point.rate) is not point


def test_an_slo_that_is_always_met_is_met_up_to_the_throughput() -> None:
    found, _ = search(math.inf)
    assert (found.rate, found.low, found.high) == (10, 10, math.inf)
    assert found.limited_by_throughput


def test_an_slo_that_is_never_met_has_no_capacity() -> None:
    found, _ = search(0.0)
    assert (found.rate, found.low) == (0, 0)
    assert found.points[0].rate < 0.0101


def test_a_top_rate_that_is_undecided_is_not_called_met() -> None:
    """Attainments around what is asked, the same at every rate: their mean meets it, their interval holds it."""
    shares = (0.9 + 0.05 * np.random.default_rng(SEED).normal(size=32)).clip(0, 1)
    shares += 0.905 - shares.mean()
    found = Search(lambda _, each: {"slo_attainment": float(shares[each])}, 10.0, 0.9, 0.02, 32, counted=1000).run()
    assert (found.rate, found.low, found.high) == (10.0, 0.0, math.inf)
    assert not found.limited_by_throughput
    assert search(20.0)[0].limited_by_throughput and not search(0.0)[0].limited_by_throughput


def test_what_is_resampled_is_judged_by_wider_intervals() -> None:
    """32 shares of 0.9 +- 0.02 around 0.91: of independent draws they decide, of one trace's resamples they do not."""
    shares = [0.91 + (0.02 if each % 2 else -0.02) for each in range(32)]

    def judged(resampled: bool) -> int:
        return Search(lambda _, each: {"slo_attainment": shares[each]}, 1.0, 0.9, 0.02, 32, 1000, resampled).judge(0)

    assert (judged(False), judged(True)) == (MEETS, UNDECIDED)


def test_looks_double_up_to_the_most() -> None:
    assert looks(32) == [8, 16, 32]
    assert looks(20) == [8, 16, 20]
    assert looks(2) == [2]


def test_few_requests_that_all_meet_the_slo_are_no_proof() -> None:
    def simulate(_: float, __: int) -> Summary:
        return {"slo_attainment": 1.0}

    few, many = (Search(simulate, 1.0, 0.99, 0.02, 8, counted=counted) for counted in (30, 1000))
    assert few.judge(0) == UNDECIDED and many.judge(0) == MEETS


def test_a_search_that_looks_often_is_rarely_sure_and_wrong() -> None:
    """At a rate whose true attainment is exactly what is asked, either verdict is wrong: both together in 5 %."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(1000):
        values = rng.normal(0.9, 0.02, 32).tolist()

        def simulate(_: float, replication: int, values: list[float] = values) -> Summary:
            return {"slo_attainment": values[replication]}

        made = Search(simulate, 1.0, 0.9, 0.02, 32, counted=1000)
        wrong += made.judge(0) != 0
    assert wrong / 1000 <= 0.06


def test_workloads_are_brought_to_one_request_per_second() -> None:
    lengths = {"prompt": Fixed(tokens=10), "output": Fixed(tokens=5), "num_requests": 20}
    for options in (
        {},
        {"rate": 7.0},
        {"arrival": "gamma", "rate": 3.0, "cv": 2.0},
        {"arrival": "constant", "rate": 4.0},
    ):
        made = unit_rate(Synthetic(**(lengths | options)))  # type: ignore[arg-type]
        assert isinstance(made, Synthetic)
        assert made.rate == 1.0 and (made.arrival or "poisson") == options.get("arrival", "poisson")
    assert unit_rate(Trace(path="x.csv", rate_multiplier=2.0)) == Trace(path="x.csv")
    with pytest.raises(InputError, match="closed_loop has no rate"):
        unit_rate(ShareGPT(num_requests=5, arrival="closed_loop", concurrency=3))
