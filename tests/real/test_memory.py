"""Memory is checked before it is taken, to the byte."""

import numpy as np
import pytest
import torch

from policies.baton import Baton
from policies.errors import InputError
from policies.orca import Orca
from policies.policy import Policy
from real.memory import kv_tokens_within, needs_of
from tests.real.models import network
from tests.real.runs import memory_is_sound, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

REQUESTS = requests_of([(0.0, 40, 10), (0.0, 30, 20), (0.0, 20, 30)])
NEEDS = needs_of(network("tiny_llama"), [Orca(max_batch=2)], REQUESTS)


def test_kv_memory_asked_for_is_given_to_the_last_byte_and_refused_one_below() -> None:
    limit = NEEDS.total(500)
    assert kv_tokens_within(NEEDS, REQUESTS, limit, 2, given=500) == 500
    assert kv_tokens_within(NEEDS, REQUESTS, limit + 1, 2, given=500) == 500
    with pytest.raises(InputError, match=f"would need {limit:,} bytes and may use {limit - 1:,}; 499 KV tokens fit"):
        kv_tokens_within(NEEDS, REQUESTS, limit - 1, 2, given=500)


def test_otherwise_the_batch_is_scaled_down_until_no_request_fits() -> None:
    limit = NEEDS.total(300)
    assert kv_tokens_within(NEEDS, REQUESTS, limit, 2) == 300
    assert kv_tokens_within(NEEDS, REQUESTS, limit - 1, 2) == 299
    smallest = NEEDS.total(50)
    assert kv_tokens_within(NEEDS, REQUESTS, smallest, 2) == 50
    with pytest.raises(InputError, match="for its smallest request"):
        kv_tokens_within(NEEDS, REQUESTS, smallest - 1, 2)


def test_memory_that_no_batch_can_fill_is_not_taken() -> None:
    assert kv_tokens_within(NEEDS, REQUESTS, 1 << 50, 2) == 4 * 2 * 50


def test_weights_and_kv_are_those_of_the_tensors() -> None:
    module = network("tiny_llama").module
    assert NEEDS.weights == sum(p.untyped_storage().nbytes() for p in module.parameters())
    model = network("tiny_llama").dimensions
    assert NEEDS.token == torch.zeros(model.layers, 2, model.kv_heads, model.head_dim).untyped_storage().nbytes()


@pytest.mark.parametrize("policy", ONE_DEVICE.values(), ids=ONE_DEVICE)
def test_a_run_at_its_limit_takes_no_more(policy: Policy) -> None:
    rng = np.random.default_rng(0)
    rows = [(0.0, int(rng.integers(1, 30)), int(rng.integers(2, 12))) for _ in range(10)]
    requests = requests_of(rows, max_new=12)
    limit = needs_of(network("tiny_llama"), [policy], requests).total(100)
    kv_tokens = kv_tokens_within(needs_of(network("tiny_llama"), [policy], requests), requests, limit, 4)
    run = real_run(requests, policy, kv_tokens=kv_tokens, watch=memory_is_sound)
    assert run.engine.answers.finished == len(requests)
    assert run.records["kv_tokens"].max() <= kv_tokens == 100


def test_a_second_lane_computes_at_the_same_time() -> None:
    alone = needs_of(network("tiny_llama"), [Baton(max_batch=2)], REQUESTS)
    beside = needs_of(network("tiny_llama"), [Baton(max_batch=2, prefill="overlapped")], REQUESTS)
    assert beside.total(100) > alone.total(100)
