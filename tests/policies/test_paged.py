"""Paged memory: a request is counted by the blocks that it stores, and its last token is stored by nobody."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.chunked_prefill import ChunkedPrefill
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from tests.runs import requests_of, run

POLICIES: tuple[Policy, ...] = (
    ChunkedPrefill(max_batch=4),
    ChunkedPrefill(max_batch=4, token_budget=7, prefix_caching=False),
    ChunkedPrefill(max_batch=4, reserve_full_prompt=True),
    PrefillFirst(max_batch=4),
    PrefillFirst(max_batch=4, prefix_caching=True),
)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("prompt", "answer", "blocks"),
    [(16, 17, 2), (17, 17, 3), (1000, 500, 94), (32, 1, 2), (31, 2, 2), (31, 3, 3), (1, 1, 1), (1, 16, 1), (1, 17, 2)],
)
def test_a_request_needs_the_blocks_of_all_its_tokens_but_the_last(
    policy: Policy, prompt: int, answer: int, blocks: int
) -> None:
    for spare in (0, 15):  # what is no whole block is not used
        result = run(requests_of([(0.0, prompt, answer)]), policy, kv_tokens=16 * blocks + spare)
        assert result.engine.request_log.finished == 1
        assert int(result.log["kv_tokens"].max()) <= 16 * blocks
        refused = run(requests_of([(0.0, prompt, answer)]), policy, kv_tokens=16 * (blocks - 1) + spare)
        assert refused.engine.request_log.rejected == {0}


@given(
    policy=st.sampled_from(POLICIES),
    lengths=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 40)), min_size=1, max_size=5),
    late=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_memory_as_large_as_the_largest_request_serves_all(
    policy: Policy, lengths: list[tuple[int, int]], late: bool
) -> None:
    blocks = max(-(-(prompt + answer - 1) // 16) for prompt, answer in lengths)
    rows = [(3.0 * late * place, prompt, answer) for place, (prompt, answer) in enumerate(lengths)]
    answers = [answer for _, answer in lengths]
    result = run(requests_of(rows, max_new=answers), policy, kv_tokens=16 * blocks)
    assert result.engine.request_log.finished == len(lengths), "none waits for ever for room that it does not need"
