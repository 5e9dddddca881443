"""Costs on a calibrated GPU: worked out by hand, laws that any model obeys, stretches, tensor parallelism, range."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.baton import Baton
from policies.checks import InputError
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from sim.calibration.command import read_named
from sim.cost.engine_constants import IDEAL, EngineConstants
from sim.cost.kernels.calibrated import Calibrated, CalibratedCost
from sim.cost.kernels.tables import (
    AllReduce,
    ChunkAttention,
    DecodeAttention,
    Elementwise,
    MatrixProduct,
    PromptAttention,
)
from sim.cost.memory import kv_capacity
from sim.cost.model import Model
from sim.cost.work import Work
from sim.engine.execution import Execution
from sim.reporting.caveats import warnings
from sim.simulation.context import Context
from sim.simulation.simulation import simulate
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests

TRAITS = Orca().traits
VLLM = read_named("engine", "vllm")
EAGER = EngineConstants(name="eager", source="test", step_overhead_s=1e-3, host_layer_s=3e-4)
GPUS = {name: read_named("hardware", name) for name in ("h100_sxm", "rtx4090", "rtx_pro_6000")}
MODELS = {name: read_named("model", name) for name in ("llama2_7b", "llama3_8b", "codellama_34b", "opt_13b")}
COSTS = {
    (gpu, model, engine.name): GPUS[gpu].deployed(engine, 1).cost_model(MODELS[model], TRAITS)
    for gpu in GPUS
    for model in MODELS
    for engine in (VLLM, EAGER)
}
costs = st.sampled_from(list(COSTS)).map(COSTS.__getitem__)

TABLE: Any = {"source": "made up"}
TINY_GPU = Calibrated(
    name="tiny",
    source="made up",
    license="none",
    peak_flops=1e15,
    memory_bandwidth=1e12,
    memory_bytes=1e9,
    host_bandwidth=1e9,
    gpu_bandwidth=1e9,
    attention_launch_s=1e-5,
    matrices=MatrixProduct(
        **TABLE, tokens=[1, 1000], outputs=[1, 10**6], inputs=[1, 10**6], share=[[[0.5, 0.5]] * 2] * 2
    ),
    decode=[
        DecodeAttention(
            **TABLE,
            kv_heads=8,
            mha=False,
            rows=[1, 2],
            context=[100, 200, 400],
            seconds=[[1e-5, 2e-5, 4e-5], [2e-5, 4e-5, 8e-5]],
            most=800,
        )
    ],
    prompts=[
        PromptAttention(**TABLE, group=4, heads=[32, 64], tokens=[10, 1000], seconds=[[1e-6, 1e-2], [2e-6, 2e-2]])
    ],
    chunks=ChunkAttention(**TABLE, walk_context=[10, 1000], walk_seconds=[1e-6, 1e-4]),
    elementwise=Elementwise(**TABLE, bytes_moved=[1, 1e9], seconds=[1e-6, 1e-6]),
    all_reduce=AllReduce(**TABLE, message=[1, 10**9], seconds={2: [1e-5, 1e-5]}),
)
MODEL = Model(
    name="made_up", source="made up", layers=10, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=8192,
    gated=True, vocabulary=32000, tied_embeddings=False, max_positions=4096,
)  # fmt: skip


def tiny(engine: EngineConstants = IDEAL, gpus: int = 1) -> CalibratedCost:
    return TINY_GPU.deployed(engine, gpus).cost_model(MODEL, TRAITS)


def matrices_s(tokens: int, *shapes: tuple[int, int]) -> float:
    """Twice the roofline: 2mnk FLOPs at 1e15/s, or 2(nk + m(n + k)) bytes at 1e12/s."""
    return sum(2 * max(2 * tokens * n * k / 1e15, 2 * (n * k + tokens * (n + k)) / 1e12) for n, k in shapes)


LAYER = ((6144, 4096), (4096, 4096), (16384, 4096), (4096, 8192))
HEAD = (32000, 4096)


def test_a_decode_step_worked_out_by_hand() -> None:
    # One row of 150 tokens: halfway between 1e-5 and 2e-5 s, in each of ten layers.
    expected = 10 * (matrices_s(1, *LAYER) + 1e-6 + 1.5e-5) + matrices_s(1, HEAD)
    assert tiny().seconds(Work(rows=1, kv_read=150, attention_launches=1)) == pytest.approx(expected, rel=1e-9)


def test_an_engine_adds_its_constants_where_they_belong() -> None:
    engine = EngineConstants(
        name="e", source="", step_overhead_s=1e-3, matrix_factor=2.0, mixed_factor=3.0, frontend_latency_s=9.0
    )
    decode = Work(rows=1, kv_read=150, attention_launches=1)
    matrices = 10 * matrices_s(1, *LAYER) + matrices_s(1, HEAD)
    assert tiny(engine).seconds(decode) - tiny().seconds(decode) == pytest.approx(1e-3 + matrices, rel=1e-9)
    mixed = decode._replace(prefill_rows=1, prefill_tokens=9, prefill_pairs=45)
    matrices = 10 * matrices_s(10, *LAYER) + matrices_s(2, HEAD)
    attention = 10 * 2 * 1.5e-5
    assert tiny(engine).seconds(mixed) - tiny().seconds(mixed) == pytest.approx(1e-3 + matrices + attention, rel=1e-6)


def test_a_late_host_hides_the_device_and_is_not_added_to_it() -> None:
    late = EngineConstants(name="late", source="", step_overhead_s=1e-3, host_layer_s=1.0)
    assert tiny(late).seconds(Work(rows=1, kv_read=150, attention_launches=1)) == pytest.approx(10.0 + 1e-3)


def test_a_whole_prompt_and_a_chunk_worked_out_by_hand() -> None:
    whole = Work(prefill_rows=1, prefill_tokens=1000, prefill_pairs=500_500, attention_launches=1)
    rest = 10 * (matrices_s(1000, *LAYER) + 1e-6) + matrices_s(1, HEAD)
    assert tiny().seconds(whole) == pytest.approx(rest + 10 * 1e-2, rel=1e-9)
    # 100 tokens after 900 others: what 1000 take (1e-2 s) longer than 900 (proportional to their square).
    chunk = Work(prefill_rows=1, prefill_tokens=100, prefill_pairs=100 * 900 + 5050, prefill_kv=900)
    attention = tiny().seconds(chunk) - tiny().seconds(chunk._replace(prefill_pairs=0))
    assert attention == pytest.approx(10 * (1e-2 - 1e-2 * 0.9**2), rel=1e-6)


def test_two_gpus_share_the_layers_and_talk_twice_in_each() -> None:
    halves = ((3072, 4096), (4096, 2048), (8192, 4096), (4096, 4096))
    # 8 KV heads are 4 on each: one row counts as half a row, the table's least.
    expected = 10 * (matrices_s(1, *halves) + 1e-6 + 1.5e-5 + 2e-5) + matrices_s(1, (16000, 4096))
    assert tiny(gpus=2).seconds(Work(rows=1, kv_read=150, attention_launches=1)) == pytest.approx(expected, rel=1e-9)


chunks = st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 4000)), max_size=6)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Iterations that can be: decode rows over their KV, and chunks over their past."""
    rows, parts = draw(st.integers(0, 300)), draw(chunks)
    length = draw(st.integers(1, 6000))
    return Work(
        rows=rows,
        kv_read=rows * length,
        kv_padding=draw(st.integers(0, 1000)) if rows else 0,
        dummy_rows=draw(st.integers(0, 7)) if rows else 0,
        kv_dummy=draw(st.integers(0, 1000)) if rows else 0,
        prefill_rows=len(parts),
        prefill_tokens=sum(c for c, _ in parts),
        prefill_pairs=sum(c * p + c * (c + 1) // 2 for c, p in parts),
        prefill_kv=sum(p for _, p in parts),
        kv_copied=draw(st.integers(0, 1000)),
        kv_host=draw(st.integers(0, 1000)),
        attention_launches=draw(st.integers(0, 5)),
    )


@given(costs, st.lists(works(), min_size=1, max_size=8))
def test_one_iteration_costs_what_it_costs_among_many(cost: CalibratedCost, some: list[Work]) -> None:
    columns = Work(*(np.array(column) for column in zip(*some, strict=True)))  # type: ignore[arg-type]
    np.testing.assert_allclose(cost.seconds_each(columns), [cost.seconds(work) for work in some], rtol=1e-9)


@given(costs, works())
def test_no_iteration_beats_the_gpu(cost: CalibratedCost, work: Work) -> None:
    seconds, demand = cost.seconds(work), cost.demand(work)
    assert demand.flops_s <= seconds * (1 + 1e-12)
    assert demand.traffic_s <= seconds * (1 + 1e-12)
    rounding = 1.01  # tables have three digits
    assert cost.useful_flops(work) / cost.hardware.peak_flops <= demand.flops_s * rounding
    assert cost.moved_bytes(work) / cost.hardware.memory_bandwidth <= demand.traffic_s * rounding


@given(costs, st.integers(1, 256), st.integers(1, 5000), st.integers(0, 3000), st.integers(0, 7))
def test_stretches_take_what_their_steps_take_and_end_where_the_table_bends(
    cost: CalibratedCost, live: int, length: int, steps: int, dummies: int
) -> None:
    rows, kv = live + dummies, live * length + dummies
    first, growth, alike = cost.decode_steps(rows, kv, live)
    assert alike >= 1
    later = int(min(steps, alike - 1))
    step, *_ = cost.decode_steps(rows, kv + later * live, live)
    assert step == pytest.approx(first + later * growth, rel=1e-9)


@pytest.mark.parametrize(("dummies", "alike"), [(0, 51), (3, 81)])
def test_a_stretch_with_dummies_ends_where_the_mean_context_meets_the_next_point(dummies: int, alike: int) -> None:
    """Eight rows, 150 tokens each on average; the next point is 200. Five live ones lengthen it by 5/8 per step."""
    cost = TINY_GPU.deployed(IDEAL, 1).cost_model(LLAMA3_8B, TRAITS)
    assert cost.decode_steps(8, 8 * 150, 8 - dummies)[2] == alike


@pytest.mark.parametrize("policy", [ChunkedPrefill(max_batch=8), Orca(max_batch=8), Baton(max_batch=8)])
@pytest.mark.parametrize("engine", [VLLM, EAGER], ids=["vllm", "eager"])
@pytest.mark.parametrize("execution", [Execution("eager"), Execution("graphs")], ids=lambda execution: execution.name)
def test_results_do_not_depend_on_stretching(policy: Policy, engine: EngineConstants, execution: Execution) -> None:
    cost = GPUS["h100_sxm"].deployed(engine, 1).cost_model(LLAMA3_8B, policy.traits)
    requests = random_requests(40, rate=20.0, longest=600)
    one, log = logged_run(requests, policy, cost, 100_000, execution=execution)
    other, steps = logged_run(requests, policy, cost, 100_000, execution=execution, stretch=False)
    assert list(one.request_log.finish_s) == pytest.approx(list(other.request_log.finish_s), rel=1e-9)
    assert log["steps"].sum() == len(steps) > 2 * len(log)


@pytest.mark.parametrize("policy", [Orca(max_batch=8), Baton(max_batch=8), RunToCompletion(max_batch=8)])
@pytest.mark.parametrize("execution", [Execution("eager"), Execution("graphs")], ids=lambda execution: execution.name)
def test_idle_time_by_cause_hardly_depends_on_stretching(policy: Policy, execution: Execution) -> None:
    """Times are the same; the mean iteration of a stretch misses what a bend of the table does to its waste."""
    requests = random_requests(40, rate=20.0, longest=600)
    one, other = (
        simulate(requests, policy, GPUS["h100_sxm"], LLAMA3_8B, stretch=stretch, execution=execution).summary
        for stretch in (True, False)
    )
    assert one["duration_s"] == pytest.approx(other["duration_s"], rel=1e-9)
    shares = [name for name in other if name.startswith("idle_time_fraction") and other[name]]
    assert shares
    for name in shares:
        assert one[name] == pytest.approx(other[name], abs=1e-4), name


def test_the_frontend_delays_what_the_scheduler_sees_and_counts_as_waiting() -> None:
    requests = random_requests(20, rate=1.0)
    gpu = GPUS["h100_sxm"].deployed(IDEAL, 1)
    at_once = simulate(requests, Orca(), gpu, LLAMA3_8B).columns
    delayed = simulate(requests, Orca(), gpu, LLAMA3_8B, engine=replace(VLLM, frontend_latency_s=0.25)).columns
    assert delayed["arrival_s"].tolist() == requests.arrival_s.tolist()
    for latency in ("ttft_s", "e2e_s"):
        np.testing.assert_allclose(delayed[latency], at_once[latency] + 0.25, rtol=1e-9)


def test_memory_and_utilisation_are_those_of_all_gpus() -> None:
    gpu = GPUS["h100_sxm"]
    two = gpu.deployed(VLLM, 2)
    weights = LLAMA3_8B.weight_bytes
    assert kv_capacity(two, LLAMA3_8B) == int((2 * 0.9 * gpu.memory_bytes - weights) // 131_072)
    requests = random_requests(20)
    one = simulate(requests, Orca(), gpu.deployed(VLLM, 1), LLAMA3_8B).summary
    both = simulate(requests, Orca(), two, LLAMA3_8B).summary
    assert (one["gpus"], both["gpus"]) == (1, 2)
    assert float(both["gpu_busy_fraction"] or 0) == pytest.approx(1.0)
    ratio = float(one["busy_s"] or 0) / float(both["busy_s"] or 0)
    assert 1.2 < ratio < 2.0
    assert float(both["mfu"] or 0) == pytest.approx(float(one["mfu"] or 0) * ratio / 2)


def context(hardware: str) -> Context:
    return Context(
        workload="test", requests=1, arrivals="", declared="", hardware=hardware, model="", kv_tokens=1, max_positions=1
    )


@pytest.mark.parametrize("kv_tokens, share", [(700, 0.0), (2000, 1.0)])
def test_leaving_the_measured_range_is_said(kv_tokens: int, share: float) -> None:
    # Two rows were measured with 400 tokens each at most.
    cost = tiny()
    inside: Any = Work(*(np.array([value]) for value in Work(rows=2, kv_read=kv_tokens)))  # type: ignore[arg-type]
    assert cost.beyond(inside).mean() == share
    lines = list(warnings({"orca": {"beyond_calibration": share}}, context("tiny")))
    expected = ["Iterations larger than any measured on tiny, with times extrapolated: orca 100.0%."]
    assert lines == (expected if share else [])


def test_a_run_beyond_the_range_says_so_in_its_summary() -> None:
    summary = simulate(random_requests(10, longest=500), Orca(max_batch=8), TINY_GPU, MODEL, kv_tokens=10_000).summary
    assert 0 < float(summary["beyond_calibration"] or 0) <= 1
    assert simulate(random_requests(2), Orca(), H100, LLAMA3_8B).summary["beyond_calibration"] is None


def test_what_was_not_measured_is_named() -> None:
    mha = GPUS["rtx4090"].cost_model(MODELS["llama2_7b"], TRAITS)
    assert "decode attention with this many query heads per KV head" in mha.extrapolated
    assert GPUS["h100_sxm"].cost_model(MODELS["llama2_7b"], TRAITS).extrapolated == ()
    narrow = GPUS["h100_sxm"].cost_model(replace(LLAMA3_8B, head_dim=64), TRAITS)
    assert "attention heads of width 64" in narrow.extrapolated


@pytest.mark.parametrize(
    "gpu, model, gpus, message",
    [
        ("h100_sxm", replace(LLAMA3_8B, bytes_per_value=1), 1, "use hardware=h100_sxm_datasheet"),
        ("h100_sxm", replace(LLAMA3_8B, kv_heads=1), 2, "tensor_parallel=2: must divide model.kv_heads=1"),
        ("h100_sxm", LLAMA3_8B, 3, "communication of hardware=h100_sxm was not measured; it was for 2, 4, 8 GPUs"),
        ("rtx4090", LLAMA3_8B, 2, "communication of hardware=rtx4090 was not measured; use tensor_parallel=1"),
        ("h100_sxm_datasheet", LLAMA3_8B, 2, "has no figures for communication between GPUs"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line(gpu: str, model: Model, gpus: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_named("hardware", gpu).deployed(VLLM, gpus).cost_model(model, TRAITS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "table, changes, message",
    [
        (TINY_GPU.matrices, {"tokens": [2, 1]}, "MatrixProduct.tokens must be a list of ascending positive numbers"),
        (TINY_GPU.matrices, {"share": [[[0.5]] * 2] * 2}, "MatrixProduct: share must be lists of positive numbers, 2"),
        (TINY_GPU.decode[0], {"seconds": [[1e-5, -1.0, 1e-5]] * 2}, "DecodeAttention: seconds holds -1.0"),
        (TINY_GPU.prompts[0], {"heads": [32]}, "PromptAttention: heads and tokens must have two places or more"),
        (TINY_GPU.all_reduce, {"seconds": [1, 2]}, "AllReduce: seconds must be a list for each number of GPUs"),
    ],
)
def test_a_table_that_is_none_is_refused(table: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(table, **changes)


def test_what_is_extrapolated_of_a_model_is_said_of_that_model_alone() -> None:
    gpu = read_named("hardware", "rtx4090")
    extrapolated = {
        name: gpu.cost_model(read_named("model", name), Orca().traits).extrapolated
        for name in ("llama3_8b", "llama2_7b")
    }
    assert not any("matrices" in text for text in extrapolated["llama3_8b"])
    assert "matrices other than those of Llama 3 8B" in extrapolated["llama2_7b"]
