"""Whatever the policy, layout and architecture: logits and tokens are those of each request run alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from real.layouts.rectangle import Rectangular
from real.model.attention import Attention
from real.model.network import Network
from tests.real.models import TINY
from tests.real.runs import differences, memory_is_sound, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of
from workloads.requests import Requests

POLICIES = pytest.mark.parametrize("policy", ONE_DEVICE.values(), ids=ONE_DEVICE)


def a_dozen(seed: int) -> Requests:
    """Twelve requests of mixed lengths, some of one token, arriving while others run."""
    rng = np.random.default_rng(seed)
    arrivals = np.sort(rng.integers(0, 60, 12))
    return requests_of([(float(a), int(rng.integers(1, 24)), int(rng.integers(1, 14))) for a in arrivals], max_new=14)


def served(requests: Requests) -> list[int]:
    return list(range(len(requests)))


@POLICIES
@pytest.mark.parametrize("model", TINY)
def test_every_request_is_answered_as_if_alone(model: str, policy: Policy) -> None:
    requests = a_dozen(seed=TINY.index(model))
    run = real_run(requests, policy, model, watch=memory_is_sound)
    assert sorted(run.engine.generated) == served(requests)
    assert [len(run.engine.generated[r]) for r in served(requests)] == requests.output_tokens.tolist()
    assert differences(run, model) == []


@POLICIES
def test_with_memory_for_few(policy: Policy) -> None:
    requests = a_dozen(seed=7)
    run = real_run(requests, policy, kv_tokens=90, watch=memory_is_sound)
    assert sorted(run.engine.generated) == served(requests)
    assert differences(run, "tiny_llama") == []
    assert run.engine.ledger.book.used == 0


@pytest.mark.parametrize("embedding", ["in_place", "direct"])
@pytest.mark.parametrize("model", TINY)
def test_parked_rows_resume_where_they_were_without_a_second_prefill(
    model: str, embedding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.ledger.rectangle.HEADROOM", 4)
    requests = requests_of([(0.0, 4, 30), (0.0, 5, 25), (0.0, 6, 20)])
    policy = Baton(max_batch=3, reserve="window", embedding=embedding)
    run = real_run(requests, policy, model, kv_tokens=100, watch=memory_is_sound)
    assert run.engine.request_log.preemptions
    assert differences(run, model) == []
    assert run.records["prefill_tokens"].sum() == requests.prompt_tokens.sum()
    assert run.records["recomputed_tokens"].sum() == 0
    assert run.records["kv_host"].sum() > 0


@pytest.mark.parametrize("model", TINY)
def test_dropped_rows_are_recomputed(model: str) -> None:
    requests = requests_of([(0.0, 10, 40), (0.0, 10, 40), (0.0, 10, 40)])
    run = real_run(requests, PrefillFirst(max_batch=3), model, kv_tokens=96, watch=memory_is_sound)
    assert run.engine.request_log.preemptions
    assert differences(run, model) == []
    assert run.records["recomputed_tokens"].sum() > 0


@pytest.mark.parametrize("model", TINY)
def test_chunks_that_were_dropped_are_recomputed(model: str) -> None:
    requests = requests_of([(0.0, 10, 40), (0.0, 20, 40), (5.0, 30, 10)])
    policy = ChunkedPrefill(max_batch=3, token_budget=12, prefix_caching=False)
    run = real_run(requests, policy, model, kv_tokens=96, watch=memory_is_sound)
    assert run.engine.request_log.preemptions
    assert differences(run, model) == []
    assert run.records["recomputed_tokens"].sum() > 0
    assert (run.records["prefill_kv"] * run.records["rows"]).sum() > 0  # chunks behind others, beside rows that decode


@pytest.mark.parametrize("name", ["baton", "run_to_completion", "orca", "orca_per_request", "orca_rectangular"])
def test_eager_attention_is_the_same(name: str) -> None:
    run = real_run(a_dozen(seed=3), ONE_DEVICE[name], attention="eager")
    assert differences(run, "tiny_llama") == []


LENGTHS = st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(1, 12))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(LENGTHS, min_size=1, max_size=8).map(sorted),
    policy=st.sampled_from(list(ONE_DEVICE.values())),
    model=st.sampled_from(TINY),
    kv_tokens=st.integers(72, 400),
)
def test_any_arrivals(rows: list[tuple[int, int, int]], policy: Policy, model: str, kv_tokens: int) -> None:
    requests = requests_of([(float(arrival), prompt, output) for arrival, prompt, output in rows])
    run = real_run(requests, policy, model, kv_tokens=kv_tokens, watch=memory_is_sound)
    assert len(run.engine.generated) + len(run.engine.request_log.rejected) == len(rows)
    assert differences(run, model) == []


# negative controls: what would be wrong must be seen to be wrong

CONTROLS = pytest.mark.parametrize(
    "name", ["baton", "baton_concatenate", "run_to_completion", "orca_rectangular", "orca"]
)


@pytest.mark.parametrize("name", ["baton", "baton_concatenate", "run_to_completion", "orca_rectangular"])
def test_without_a_mask_it_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masked: Callable[..., Tensor] = Attention.__call__

    def unmasked(self: Attention, *args: Any) -> Tensor:
        *rest, mask = (*args, None)[:5]
        return masked(self, *rest, None if mask is None else torch.ones_like(mask))

    monkeypatch.setattr(Attention, "__call__", unmasked)
    assert differences(real_run(a_dozen(seed=3), ONE_DEVICE[name]), "tiny_llama")


def test_with_keys_of_another_row_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    ragged: Callable[..., Tensor] = Attention.ragged

    def confused(self: Attention, *args: Any) -> Tensor:
        *rest, row, distance = args
        return ragged(self, *rest, row.roll(1), distance)

    monkeypatch.setattr(Attention, "ragged", confused)
    assert differences(real_run(a_dozen(seed=3), ONE_DEVICE["orca"]), "tiny_llama")


@CONTROLS
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
def test_with_positions_shifted_it_is_wrong(name: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Callable[..., Tensor] = Network.forward

    def shifted(self: Network, ids: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        late = positions.clone()
        late[positions > positions.new_tensor(5)] += 1
        return forward(self, ids, late, *rest)

    monkeypatch.setattr(Network, "forward", shifted)
    assert differences(real_run(a_dozen(seed=3), ONE_DEVICE[name], model), model)


def test_with_another_newcomers_keys_and_values_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Rectangular._embed

    def astray(self: Rectangular, request: int, kv: Tensor, place: int) -> int:
        return embed(self, request, -kv, place)

    monkeypatch.setattr(Rectangular, "_embed", astray)
    assert differences(real_run(a_dozen(seed=3), ONE_DEVICE["baton"]), "tiny_llama")
