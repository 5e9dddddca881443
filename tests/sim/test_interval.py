"""Prediction intervals hold the truth as often as they say."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InputError
from policies.orca import Orca
from policies.run_to_completion import RunToCompletion
from sim.calibrated import Calibrated
from sim.calibration.catalogue import read_named
from sim.engine_constants import EngineConstants
from sim.hardware import Device
from sim.interval import BLOCK, LEVEL, Intervals, drawn, drawn_engine, intervals, require_errors, slowed
from sim.metrics import Summary
from sim.simulation import simulate
from tests.runs import random_requests
from workloads.streams import stream

MODEL = read_named("model", "llama3_8b")
VLLM: EngineConstants = read_named("engine", "vllm")
REQUESTS = random_requests(12, seed=1, longest=40)


def gpu(name: str) -> Calibrated:
    hardware = read_named("hardware", name).deployed(VLLM, 1)
    assert isinstance(hardware, Calibrated)
    return hardware


def summary(hardware: Device) -> Summary:
    return simulate(REQUESTS, Orca(max_batch=8), hardware, MODEL, kv_tokens=10_000).summary


def with_residuals(hardware: Calibrated, residuals: list[float]) -> Calibrated:
    """Return hardware all of whose tables err like this, and whose engine is known."""
    exact = replace(VLLM, standard_errors={})
    tables = {
        name: [replace(table, residuals=residuals) for table in getattr(hardware, name)]
        for name in ("decode", "prompts")
    }
    single = {
        name: replace(getattr(hardware, name), residuals=residuals) for name in ("matrices", "chunks", "elementwise")
    }
    return replace(hardware, **tables, **single, engine=exact)


def share_held(claimed: Intervals, truths: list[Summary], metric: str) -> float:
    low, high = claimed.metrics["orca"][metric]
    return float(np.mean([low <= float(truth[metric] or 0) <= high for truth in truths]))


@pytest.mark.parametrize("metric", ["output_throughput", "mean_ttft_ms", "mean_e2el_ms"])
def test_ninety_percent_intervals_hold_nine_truths_of_ten(metric: str) -> None:
    # Truth: kernels err as those of another GPU were seen to, a neighbourhood of its held-out shapes per kind of kernel.
    claimed = intervals({"orca": [summary(drawn(gpu("h100_sxm"), stream(0, f"claim {n}"))) for n in range(120)]})
    truths = [summary(drawn(gpu("h100_sxm"), stream(7, f"truth {n}"))) for n in range(150)]
    assert 0.85 <= share_held(claimed, truths, metric) <= 0.95


def test_errors_that_cancel_would_promise_too_much() -> None:
    # The negative control: were errors independent from kernel to kernel, long blocks of them would average out.
    errors = np.random.default_rng(0).normal(0, 0.1, 48).round(3).tolist()
    cancelling = [float(np.mean(errors))] * 48
    honest, naive = with_residuals(gpu("h100_sxm"), errors), with_residuals(gpu("h100_sxm"), cancelling)
    claimed = intervals({"orca": [summary(drawn(naive, stream(0, f"claim {n}"))) for n in range(20)]})
    truths = [summary(drawn(honest, stream(7, f"truth {n}"))) for n in range(60)]
    assert share_held(claimed, truths, "output_throughput") < 0.5


def test_hardware_without_error_has_a_point_for_an_interval() -> None:
    exact = with_residuals(gpu("h100_sxm"), [0.0] * BLOCK)
    result = intervals({"orca": [summary(drawn(exact, stream(0, str(n)))) for n in range(3)]})
    low, high = result.metrics["orca"]["mean_e2el_ms"]
    assert low == high == pytest.approx(summary(exact)["mean_e2el_ms"])


def test_all_kernels_twice_as_slow_take_twice_as_long() -> None:
    slow = with_residuals(gpu("h100_sxm"), [float(np.log(2))])
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
    (low, high), (slow, fast) = result.ratios["orca"], result.metrics["orca"]["output_throughput"]
    assert high / low < fast / slow
    assert result.ends("orca")["ratio_low"] == low


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
    assert LEVEL == 0.9
