"""Memory is checked before it is taken, to the byte."""

import weakref
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policies.baton import Baton
from policies.checks import InputError
from policies.chunked_prefill import ChunkedPrefill
from policies.ledger.opening import make_ledger
from policies.orca import Orca
from policies.policy import Policy
from policies.queue import declared
from real.layouts import executor_for
from real.layouts.sequences import Sequences
from real.model.network import Network, random_network
from real.serving.engine import Engine
from real.serving.memory import kv_tokens_within, needs_of
from real.serving.prompts import random_prompts
from sim.cost.profile import layout_of
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import IterationLog
from tests.real.models import dimensions, network, original
from tests.real.runs import memory_is_sound, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

REQUESTS = requests_of([(0.0, 40, 10), (0.0, 30, 20), (0.0, 20, 30)])
NEEDS = needs_of(network("tiny_llama"), [Orca(max_batch=2)], REQUESTS)


def test_kv_memory_asked_for_is_given_to_the_last_byte_and_refused_one_below() -> None:
    limit = NEEDS.total(500)
    assert kv_tokens_within(NEEDS, limit, given=500) == 500
    assert kv_tokens_within(NEEDS, limit + 1, given=500) == 500
    with pytest.raises(InputError, match=f"would need {limit:,} bytes and may use {limit - 1:,}; 499 KV tokens fit"):
        kv_tokens_within(NEEDS, limit - 1, given=500)


def test_otherwise_the_batch_is_scaled_down_until_no_request_fits() -> None:
    limit = NEEDS.total(300)
    assert kv_tokens_within(NEEDS, limit) == 300
    assert kv_tokens_within(NEEDS, limit - 1) == 299
    smallest = NEEDS.total(50)
    assert kv_tokens_within(NEEDS, smallest) == 50
    with pytest.raises(InputError, match="for its smallest request"):
        kv_tokens_within(NEEDS, smallest - 1)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(1, 1 << 27),
    rows=st.integers(1, 64),
    recorded=st.booleans(),
    policy=st.sampled_from([*ONE_DEVICE.values()]),
)
def test_the_most_kv_memory_that_fits_is_taken(budget: int, rows: int, recorded: bool, policy: Policy) -> None:
    model = network("tiny_llama", execution=GRAPHS if recorded else EAGER)
    needs = needs_of(model, [replace(policy, max_batch=rows)], REQUESTS)
    try:
        kv_tokens = kv_tokens_within(needs, budget)
    except InputError:
        assert needs.total(needs.smallest) > budget
        return
    assert needs.total(kv_tokens) <= budget
    assert needs.total(kv_tokens + 1) > budget or kv_tokens == 4 * rows * 50


# on a GPU, whose kernels hold neither scores nor copies


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real.model.streams.has_kernels", lambda tensor: True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("policy", [Orca(max_batch=4), Baton(max_batch=4)])
def test_a_gpu_holds_no_scores_and_no_copies_of_what_its_kernels_read(policy: Policy) -> None:
    model = wide("bfloat16", "sdpa")
    needs, shape = needs_of(model, [policy], REQUESTS), model.dimensions
    activations = (4 * shape.hidden + 2 * (16 + 2 * 2) * 16 + 3 * shape.intermediate) * 2
    assert needs.slot == activations + 50 * (4 + 8 * 5)  # a mask for the 8 queries that share a head of keys
    assert needs.read == 32
    for layouts in (Baton(max_batch=4, embedding="concatenate"), ChunkedPrefill(max_batch=4, prefix_caching=False)):
        assert needs_of(model, [policy, layouts], REQUESTS).read == 32 + 2 * 2 * 16 * 2 + 4 + 8 * 5


@pytest.mark.parametrize(("name", "attention"), [("tiny_llama", "eager"), ("tiny_bloom", "sdpa")])
def test_attention_that_is_eager_or_biased_holds_scores_there_too(
    name: str, attention: str, request: pytest.FixtureRequest
) -> None:
    model = network(name, attention)
    cpu = needs_of(model, [Orca(max_batch=2)], REQUESTS)
    request.getfixturevalue("on_gpu")
    gpu = needs_of(model, [Orca(max_batch=2)], REQUESTS)
    assert gpu.slot == cpu.slot
    assert (gpu.read == cpu.read) == (attention == "eager")  # a bias is no reason to copy keys and values


def test_memory_that_no_batch_can_fill_is_not_taken() -> None:
    assert kv_tokens_within(NEEDS, 1 << 50) == 4 * 2 * 50


def test_weights_and_kv_are_those_of_the_tensors() -> None:
    model = network("tiny_llama").dimensions
    weights = sum(tensor.untyped_storage().nbytes() for tensor in original("tiny_llama").parameters())
    assert NEEDS.weights == weights >= model.weight_bytes
    assert NEEDS.token == torch.zeros(model.layers, 2, model.kv_heads, model.head_dim).untyped_storage().nbytes()


@pytest.mark.parametrize("policy", ONE_DEVICE.values(), ids=ONE_DEVICE)
def test_a_run_at_its_limit_takes_no_more(policy: Policy) -> None:
    rng = np.random.default_rng(0)
    rows = [(0.0, int(rng.integers(1, 30)), int(rng.integers(2, 12))) for _ in range(10)]
    requests = requests_of(rows, max_new=12)
    limit = needs_of(network("tiny_llama"), [policy], requests).total(100)
    kv_tokens = kv_tokens_within(needs_of(network("tiny_llama"), [policy], requests), limit)
    run = real_run(requests, policy, kv_tokens=kv_tokens, watch=memory_is_sound)
    assert run.engine.request_log.finished == len(requests)
    assert run.records["kv_tokens"].max() <= kv_tokens == 100


class Live(TorchDispatchMode):
    """Sums up the storage of all tensors that operators have made and that are still there.

    Attributes:
        peak: The most bytes there ever were.
    """

    def __init__(self, apart_from: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in apart_from), 0)
        self.peak = 0

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = operator(*given, **(named or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._sizes.pop, storage._cdata)
            self.peak = max(self.peak, sum(self._sizes.values()))


@cache
def wide(dtype: str, attention: str, execution: Execution = EAGER) -> Network:
    """Return a model with many queries to a key: what attention copies is most of what it needs."""
    shape = replace(dimensions("tiny_llama"), heads=16, kv_heads=2)
    return random_network(shape, dtype=dtype, attention=attention, execution=execution)


LAYOUTS = {
    "_".join((layout_of(policy.traits), policy.traits.memory, policy.traits.reserve)): policy
    for policy in ONE_DEVICE.values()
    if policy.traits.lanes == "one"
}
SHAPES = {"long answers": [(0.0, 2, 24)] * 4 + [(0.0, 2, 5)], "long prompts": [(0.0, 40, 3)] * 4}


@pytest.mark.parametrize(
    ("dtype", "attention", "shape", "execution"),
    [
        ("float32", "sdpa", "long answers", EAGER),
        ("bfloat16", "sdpa", "long answers", EAGER),
        ("float32", "eager", "long answers", EAGER),
        ("float32", "sdpa", "long prompts", EAGER),
        ("float32", "sdpa", "long answers", GRAPHS),
        ("float32", "eager", "long answers", GRAPHS),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_never_hold_more_than_was_said(
    layout: str, dtype: str, attention: str, shape: str, execution: Execution
) -> None:
    model, requests = wide(dtype, attention, execution), requests_of(SHAPES[shape])
    policy = replace(LAYOUTS[layout], max_batch=4)
    prompts = random_prompts(requests, model.dimensions.vocabulary, 0)
    needs = needs_of(model, [policy], requests)
    kv_tokens = 4 * needs.longest * (2 if policy.traits.memory == "rectangle" else 1)
    with Live(model.module.parameters()) as live:
        engine = Engine(requests, policy, model, prompts, IterationLog(), kv_tokens)
        engine.run()
    assert engine.request_log.finished == len(requests)
    assert kv_tokens * needs.token / 4 < live.peak <= needs.total(kv_tokens) - needs.weights


def test_two_workloads_are_served_within_one_budget() -> None:
    policies = [Orca(max_batch=8)]
    prompts, request_log = requests_of([(0.0, 1000, 50)] * 16), requests_of([(0.0, 50, 500)] * 16)
    tiny = network("tiny_llama")
    both = needs_of(tiny, policies, prompts, request_log)
    alone = [needs_of(tiny, policies, each) for each in (prompts, request_log)]
    budget = both.total(1200)
    kv_tokens = kv_tokens_within(both, budget)
    assert all(needs.total(kv_tokens) <= budget for needs in alone)
    assert max(kv_tokens_within(needs, budget) for needs in alone) > kv_tokens >= both.smallest == 1050


def test_more_than_the_machine_has_is_refused() -> None:
    model = network("tiny_llama")
    ledger = make_ledger(Orca(max_batch=2), 1 << 45, declared)
    with pytest.raises(InputError, match=r"the machine has no [\d,]+ bytes for KV memory; give less, kv_tokens="):
        executor_for(Orca(max_batch=2), model, ledger, Sequences([]))


def test_a_second_lane_computes_at_the_same_time() -> None:
    alone = needs_of(network("tiny_llama"), [Baton(max_batch=2)], REQUESTS)
    beside = needs_of(network("tiny_llama"), [Baton(max_batch=2, prefill="overlapped")], REQUESTS)
    assert beside.total(100) > alone.total(100)
