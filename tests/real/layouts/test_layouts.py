"""Laws of the layouts: what is launched, what moves, what is never done."""

from collections import Counter
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from policies.baton import Baton
from policies.ledger.opening import make_ledger
from policies.orca import Orca
from policies.plan import CARRY_ON, Plan
from policies.policy import Policy
from policies.queue import declared
from policies.run_to_completion import RunToCompletion
from real.layouts import concatenated, executor_for, rectangle
from real.layouts.prefill import Apart, Store, prefill_group
from real.layouts.sequences import Sequences
from real.model.streams import Streams
from real.serving.engine import Engine
from sim.engine.arrivals import chunks_of
from sim.engine.replay import replay
from sim.metrics.request_columns import request_columns
from tests.real.models import network
from tests.real.runs import differences, real_run
from tests.real.test_exact import a_dozen
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

SDPA = "aten::scaled_dot_product_attention"


def operators_of_a_decode_step(policy: Policy, rows: int) -> Counter[str]:
    """Prefill so many rows, and count the operators that one decode step of them launches."""
    requests = requests_of([(0.0, 5 + row, 9) for row in range(rows)])
    ledger = make_ledger(policy, 4000, declared)
    sequences = Sequences([[1] * (5 + row) for row in range(rows)])
    executor = executor_for(policy, network("tiny_llama"), ledger, sequences)
    jobs = next(chunks_of(requests))
    ledger.submit(jobs)
    plan = Plan(prefill=jobs)
    ledger.begin(0, plan)
    sequences.extend(executor.run(0, plan).tokens)
    ledger.commit(0, [])
    ledger.begin(0, CARRY_ON)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        executor.run(0, CARRY_ON)
    return Counter({event.key: event.count for event in profiler.key_averages()})


def test_a_fused_layout_launches_as_many_kernels_whatever_the_rows() -> None:
    orca = Orca(max_batch=16)
    few, many = operators_of_a_decode_step(orca, 2), operators_of_a_decode_step(orca, 16)
    linear = "mkldnn::_linear_pointwise" if torch.backends.mkldnn.is_available() else "aten::linear"
    per_layer = [linear, "aten::index_select", "aten::index_copy_", "aten::index_add_", "aten::scatter_reduce_"]
    assert all(few[name] >= network("tiny_llama").dimensions.layers for name in per_layer)
    compute = [*per_layer, SDPA, "aten::mul", "aten::sum", "aten::exp", "aten::sub", "aten::div", "aten::mm"]
    assert {name: few[name] for name in compute} == {name: many[name] for name in compute}


def test_a_layout_by_request_launches_one_kernel_per_row_and_layer() -> None:
    orca = Orca(max_batch=16, attention="per_request")
    layers = network("tiny_llama").dimensions.layers
    assert operators_of_a_decode_step(orca, 2)[SDPA] == 2 * layers
    assert operators_of_a_decode_step(orca, 16)[SDPA] == 16 * layers


def test_a_rectangle_launches_as_many_kernels_whatever_the_rows() -> None:
    few, many = (operators_of_a_decode_step(Baton(max_batch=16), rows) for rows in (2, 16))
    assert few[SDPA] == many[SDPA] == network("tiny_llama").dimensions.layers
    assert few["aten::index_put_"] == many["aten::index_put_"]


@pytest.mark.parametrize("name", [name for name in ONE_DEVICE if name.startswith("baton")])
def test_an_answer_of_one_token_is_never_inserted(name: str) -> None:
    requests = a_dozen(seed=2)
    short = set((requests.output_tokens == 1).nonzero()[0].tolist())
    run = real_run(requests, ONE_DEVICE[name])
    inserted = {request for event in run.tape for request in getattr(event, "plan", Plan()).insert}
    assert short
    assert not inserted & short
    assert all(len(run.engine.generated[request]) == 1 for request in short)


@pytest.mark.parametrize("embedding", ["in_place", "concatenate"])
def test_the_allocator_hears_of_every_tensor_that_crosses_lanes(
    embedding: Literal["in_place", "concatenate"], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, crossed = set[int](), set[int]()

    def group(executor: Any, prompts: Any, store: Store, lane: int) -> Any:
        if lane == 1:
            tensors = store.places if isinstance(store, Apart) else [executor._buffer]
            made.update(tensor.untyped_storage().data_ptr() for tensor in tensors)
        return prefill_group(executor, prompts, store, lane)

    def hear(tensor: Tensor) -> Tensor:
        crossed.add(tensor.untyped_storage().data_ptr())
        return tensor

    for module in (rectangle, concatenated):
        monkeypatch.setattr(module, "prefill_group", group)
        monkeypatch.setattr(module, "crossing", hear)
    requests = requests_of([(float(place), 6, 9) for place in range(5)])
    real_run(requests, Baton(max_batch=4, prefill="overlapped", embedding=embedding))
    assert made
    assert made <= crossed


def test_lanes_have_the_same_streams_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[bool] = []
    monkeypatch.setattr(Streams, "settle", lambda streams: settled.append(True))
    monkeypatch.setattr(Streams, "__init__", None)  # none is made
    for run in (1, 2):
        real_run(requests_of([(0.0, 3, 2)]), Orca(max_batch=2))
        assert len(settled) == run


def test_only_what_the_layout_must_copy_is_copied() -> None:
    requests = requests_of([(0.0, 10, 40), (0.0, 10, 40), (6.0, 12, 20), (9.0, 9, 4)])
    copied = {
        embedding: real_run(requests, Baton(max_batch=4, embedding=embedding)).records["kv_copied"].sum()
        for embedding in ("direct", "in_place", "concatenate")
    }
    assert copied["direct"] == 0
    assert copied["in_place"] == 12 + 9
    assert copied["concatenate"] > 40 * copied["in_place"]


def test_held_rows_are_really_computed() -> None:
    requests = requests_of([(0.0, 5, 2), (0.0, 5, 20)])
    run = real_run(requests, ONE_DEVICE["run_to_completion"])
    assert run.records["held_rows"].sum() == 18
    assert len(run.logits[0]) == 20
    assert len(run.engine.generated[0]) == 2


def test_answers_that_have_not_left_with_their_batch_are_unfinished() -> None:
    requests = requests_of([(0.0, 5, 2), (0.0, 5, 20), (0.0, 5, 3)])
    engines: list[Engine] = []

    def stop(engine: Engine) -> None:
        engines.append(engine)
        if sum(map(len, engine.generated.values())) >= 10:
            raise KeyboardInterrupt

    policy = RunToCompletion(max_batch=2)
    with pytest.raises(KeyboardInterrupt):
        real_run(requests, policy, watch=stop)
    request_log = engines[-1].request_log
    assert len(engines[-1].generated[0]) == 2
    assert request_log.finished == 0
    status = request_columns(requests, request_log, policy.traits.release_with_batch)["status"]
    assert status.tolist() == ["unfinished"] * 3
    whole = real_run(requests, policy).engine.request_log
    assert whole.finish_s[0] == whole.finish_s[1] < whole.finish_s[2]


def test_clients_of_a_closed_loop_send_as_their_answers_come() -> None:
    requests = requests_of([(0.0, 5, 2), (0.0, 5, 9), (0.0, 5, 3), (0.0, 5, 2)], concurrency=2)
    run = real_run(requests, Orca(max_batch=4))
    request_log = run.engine.request_log
    assert request_log.finished == 4
    assert run.records["rows"].max() == 2
    # The first two are there at once; the third comes as the first has ended, the fourth as the third has.
    assert list(request_log.arrival_s) == [0.0, 0.0, request_log.finish_s[0], request_log.finish_s[2]]
    assert not differences(run, "tiny_llama")
    assert replay(run.tape, Orca(max_batch=4), 4000) == []


@pytest.mark.parametrize("concurrency", [None, 1])
def test_what_never_fits_is_rejected_and_holds_nobody_up(concurrency: int | None) -> None:
    requests = requests_of([(0.0, 5, 3), (0.0, 90, 20), (0.0, 6, 2)], concurrency=concurrency)
    for policy in (Orca(max_batch=2), Baton(max_batch=2), RunToCompletion(max_batch=2)):
        run = real_run(requests, policy, kv_tokens=100)
        request_log = run.engine.request_log
        assert request_log.rejected == {1}
        assert request_log.finished == 2
        assert set(run.engine.generated) == {0, 2}
        assert request_columns(run.engine.served(), request_log, False)["status"][1] == "rejected"
        assert not differences(run, "tiny_llama")


def test_kv_memory_begins_with_zeros() -> None:
    executor = real_run(requests_of([(0.0, 3, 2)]), Baton(max_batch=2)).engine.executor
    assert not bool(torch.count_nonzero(executor.zeros(2, 3)))
