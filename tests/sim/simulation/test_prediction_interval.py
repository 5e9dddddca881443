"""Prediction intervals hold the truth as often as they say.

The truths are made another way than the intervals, of errors that the intervals do not know: each table's residuals are
split, every second neighbourhood of held-out shapes to the one and to the other, and a true GPU errs kernel by kernel:
each matrix of the model, each row count, each number of prompt heads by an error of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from policies.checks import InputError
from policies.orca import Orca
from policies.run_to_completion import RunToCompletion
from sim.calibration.command import read_named
from sim.cost.device import Array
from sim.cost.engine_constants import EngineConstants
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.kernels.shard import shard_of
from sim.cost.kernels.tables import MatrixProduct, Table
from sim.metrics.metrics import Summary
from sim.simulation.prediction_interval import (
    BLOCK,
    DRAWS,
    Intervals,
    drawn,
    drawn_engine,
    intervals,
    require_errors,
    slowed,
)
from sim.simulation.simulation import simulate
from tests.runs import random_requests
from workloads.streams import stream

MODEL = read_named("model", "llama3_8b")
VLLM: EngineConstants = read_named("engine", "vllm")
REQUESTS = random_requests(12, seed=1, longest=40)
GPUS = ("a100_sxm", "h100_sxm", "rtx_pro_6000")
TRUTHS = 40
METRICS = ("output_throughput", "mean_ttft_ms", "mean_e2el_ms")
NEIGHBOURHOOD = 12
SINGLE, SEVERAL = ("matrices", "chunks", "elementwise"), ("decode", "prompts")


def gpu(name: str) -> Calibrated:
    hardware = read_named("hardware", name).deployed(VLLM, 1)
    assert isinstance(hardware, Calibrated)
    return hardware


def summary(hardware: Calibrated) -> Summary:
    return simulate(REQUESTS, Orca(max_batch=8), hardware, MODEL, kv_tokens=10_000, engine=hardware.engine).summary


def with_residuals(hardware: Calibrated, change: Any) -> Calibrated:
    """Return hardware whose tables' residuals are what `change` makes of them."""

    def changed(table: Table) -> Table:
        return replace(table, residuals=change(table.residuals))

    tables: dict[str, Any] = {name: changed(getattr(hardware, name)) for name in SINGLE}
    tables |= {name: [changed(table) for table in getattr(hardware, name)] for name in SEVERAL}
    return replace(hardware, **tables)


def every_second(residuals: Sequence[float], first: int) -> list[float]:
    return [one for place, one in enumerate(residuals) if place // NEIGHBOURHOOD % 2 == first]


@dataclass(frozen=True, kw_only=True)
class OwnErrors(MatrixProduct):
    """Matrix products each of which errs by itself, whatever its neighbours on the grid do."""

    factors: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def seconds(self, outputs: int, inputs: int, flops: float, bandwidth: float) -> Array:
        return self.factors[outputs, inputs] * super().seconds(outputs, inputs, flops, bandwidth)


def true_gpu(unseen: Calibrated, rng: np.random.Generator) -> Calibrated:
    """Return a GPU each of whose kernels errs by itself, by one of these residuals."""
    pooled = [one for table in (unseen.matrices, *unseen.decode, *unseen.prompts) for one in table.residuals]

    def factors(table: Table, count: int) -> Array:
        return np.asarray(np.exp(rng.choice(table.residuals or pooled, count)))

    def by_row(table: Any) -> Any:
        seconds = np.array(table.seconds)
        return replace(table, seconds=(seconds * factors(table, len(seconds))[:, None]).tolist())

    shapes = [*shard_of(MODEL, 1).matrices, (MODEL.vocabulary, MODEL.hidden)]
    own = dict(zip(shapes, factors(unseen.matrices, len(shapes)).tolist(), strict=True))
    return replace(
        unseen,
        matrices=OwnErrors(**vars(unseen.matrices), factors=own),
        decode=[by_row(table) for table in unseen.decode],
        prompts=[by_row(table) for table in unseen.prompts],
        elementwise=slowed(unseen.elementwise, float(factors(unseen.elementwise, 1)[0])),
        engine=drawn_engine(VLLM, rng),
    )


def claim(hardware: Calibrated) -> Intervals:
    return intervals({"orca": [summary(drawn(hardware, stream(0, f"claim {n}"))) for n in range(DRAWS)]})


@pytest.fixture(scope="module")
def truths() -> dict[str, list[Summary]]:
    found = {}
    for name in GPUS:
        unseen = with_residuals(gpu(name), lambda residuals: every_second(residuals, 1))
        found[name] = [summary(true_gpu(unseen, stream(7, f"{name} {n}"))) for n in range(TRUTHS)]
    return found


def share_held(claims: Mapping[str, Intervals], truths: Mapping[str, list[Summary]], metric: str) -> float:
    held = []
    for name, claimed in claims.items():
        low, high = claimed.metrics["orca"][metric]
        held += [low <= float(truth[metric] or 0) <= high for truth in truths[name]]
    return float(np.mean(held))


def test_ninety_percent_intervals_hold_nine_truths_of_ten(truths: dict[str, list[Summary]]) -> None:
    seen = {name: with_residuals(gpu(name), lambda residuals: every_second(residuals, 0)) for name in GPUS}
    claims = {name: claim(hardware) for name, hardware in seen.items()}
    shares = {metric: share_held(claims, truths, metric) for metric in METRICS}
    assert all(0.85 <= share <= 0.95 for share in shares.values()), shares


def test_errors_that_cancel_would_promise_too_much(truths: dict[str, list[Summary]]) -> None:
    # The negative control: were errors independent from iteration to iteration, their mean alone would be left.
    naive = with_residuals(gpu("h100_sxm"), lambda residuals: [float(np.mean(residuals))] if residuals else [])
    claims = {"h100_sxm": claim(replace(naive, engine=replace(VLLM, standard_errors={})))}
    assert share_held(claims, truths, "output_throughput") < 0.5


def test_hardware_without_error_has_a_point_for_an_interval() -> None:
    exact = with_residuals(gpu("h100_sxm"), lambda _: [0.0] * BLOCK)
    exact = replace(exact, engine=replace(VLLM, standard_errors={}))
    result = intervals({"orca": [summary(drawn(exact, stream(0, str(n)))) for n in range(3)]})
    low, high = result.metrics["orca"]["mean_e2el_ms"]
    assert low == high == pytest.approx(summary(exact)["mean_e2el_ms"])


def test_all_kernels_twice_as_slow_take_twice_as_long() -> None:
    slow = with_residuals(gpu("h100_sxm"), lambda _: [float(np.log(2))])
    free = replace(VLLM, step_overhead_s=0, frontend_latency_s=0, standard_errors={})
    once, twice = replace(gpu("h100_sxm"), engine=free), replace(drawn(slow, stream(0, "")), engine=free)
    assert summary(twice)["duration_s"] == pytest.approx(2 * float(summary(once)["duration_s"] or 0), rel=0.02)
    matrices = gpu("h100_sxm").matrices
    assert slowed(matrices, 2.0).seconds(4096, 4096, 1e15, 3e12) == pytest.approx(
        2 * matrices.seconds(4096, 4096, 1e15, 3e12)
    )


def test_a_ratio_is_surer_than_what_it_divides() -> None:
    policies = {"run_to_completion": RunToCompletion(max_batch=8), "orca": Orca(max_batch=8)}
    draws: dict[str, list[Summary]] = {name: [] for name in policies}
    for number in range(20):
        truth = drawn(gpu("h100_sxm"), stream(0, str(number)))
        for name, policy in policies.items():
            draws[name].append(simulate(REQUESTS, policy, truth, MODEL, kv_tokens=10_000).summary)
    result = intervals(draws)
    (low, high), (slow, fast) = result.ratios["orca"]["output_throughput"], result.metrics["orca"]["output_throughput"]
    assert high / low < fast / slow
    assert result.ends("orca")["output_throughput_ratio_low"] == low


def test_constants_are_drawn_within_their_errors_and_their_range() -> None:
    engine = replace(VLLM, standard_errors={"matrix_factor": 0.02, "step_overhead_s": 1.0})
    many = [drawn_engine(engine, stream(0, str(n))) for n in range(400)]
    factors = [each.matrix_factor for each in many]
    assert np.mean(factors) == pytest.approx(engine.matrix_factor, abs=0.005)
    assert np.std(factors) == pytest.approx(0.02, rel=0.15)
    assert min(each.step_overhead_s for each in many) == 0
    assert {each.mixed_factor for each in many} == {engine.mixed_factor}


def test_hardware_whose_errors_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="interval=true: the errors of hardware=h100_sxm_datasheet are not known"):
        require_errors(read_named("hardware", "h100_sxm_datasheet"))
