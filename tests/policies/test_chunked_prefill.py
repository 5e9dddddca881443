"""Chunked prefill: against a scheduler that knows no shortcuts, and whole traces worked out by hand."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.checks import InputError
from policies.chunked_prefill import ChunkedPrefill
from policies.plan import Plan
from policies.policy import Policy, Traits
from policies.prefill_first import PrefillFirst
from policies.view import View
from sim.engine.arrivals import chunks_of
from tests.policies.block_by_block import Scheduler, schedule
from tests.runs import random_requests, requests_of, run
from workloads.requests import Requests


@dataclass(frozen=True, kw_only=True)
class Watched(Policy):
    """Passes a policy's answers on, and keeps who decodes, what is prefilled and who is dropped."""

    inner: ChunkedPrefill
    steps: list[tuple[list[int], list[tuple[int, int]], list[int]]]

    @property
    def traits(self) -> Traits:
        """Those of the inner policy."""
        return self.inner.traits

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Answer as the inner policy does."""
        plan = self.inner.plan(view, now, lane)
        out = {*plan.park, *plan.drop}
        decoding = sorted(r for r in (*view.rows, *plan.insert) if r not in out) if plan.decode else []
        chunks = [(job.id, tokens) for job, tokens in zip(plan.prefill, plan.tokens, strict=True)]
        if decoding or chunks or plan.drop:
            self.steps.append((decoding, chunks, list(plan.drop)))
        return plan


@st.composite
def workloads(draw: st.DrawFn) -> Requests:
    """A few requests with prompts that share prefixes in all ways, arriving in bursts."""
    count = draw(st.integers(1, 12))
    sizes = st.integers(1, 90) | st.integers(1, 6).map(lambda blocks: 16 * blocks)
    lengths = [(draw(sizes), draw(st.integers(1, 50))) for _ in range(count)]
    arrivals = np.cumsum([draw(st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 7.25, 40.0])) for _ in range(count)])
    rows = [(float(at), prompt, output) for at, (prompt, output) in zip(arrivals, lengths, strict=True)]
    prefix = []
    for prompt, _ in lengths:
        tokens = draw(st.sampled_from([0, prompt, prompt * 3 // 4, min(prompt, 64), min(prompt, 32)]))
        prefix.append((draw(st.integers(0, 1)) if tokens else -1, tokens))
    return requests_of(rows, prefix=prefix)


TWO_END_TOGETHER = requests_of(
    [(0, 1, 1), (0, 1, 1), (0, 9, 41), (0, 47, 3), (0, 1, 1), (0, 16, 1), (0, 1, 1), (40, 17, 1)],
    prefix=[(-1, 0)] * 5 + [(0, 16), (-1, 0), (0, 17)],
)
"""A row and a prompt end with the same iteration: the blocks of the one that was admitted first are freed first."""


@given(
    requests=workloads(),
    blocks=st.integers(9, 24),
    budget=st.integers(1, 12) | st.integers(13, 200),
    max_batch=st.integers(1, 12),
    threshold=st.none() | st.integers(1, 60),
    caching=st.booleans(),
    whole=st.booleans(),
)
@example(requests=TWO_END_TOGETHER, blocks=9, budget=13, max_batch=3, threshold=None, caching=True, whole=False)
@settings(max_examples=400, deadline=None)
def test_every_iteration_is_that_of_a_scheduler_without_shortcuts(
    requests: Requests, blocks: int, budget: int, max_batch: int, threshold: int | None, caching: bool, whole: bool
) -> None:
    (jobs,) = chunks_of(requests)
    outputs = requests.output_tokens.tolist()
    taken = [job for job in jobs if job.prompt_tokens + job.max_new_tokens - 1 <= 16 * blocks]
    plain = Scheduler(blocks, budget, max_batch, threshold or 1 << 40, caching, whole)
    expected, served = schedule(taken, [outputs[job.id] for job in taken], plain)
    policy = ChunkedPrefill(
        max_batch=max_batch, token_budget=budget, long_prefill_token_threshold=threshold,
        prefix_caching=caching, reserve_full_prompt=whole,
    )  # fmt: skip
    watched = Watched(inner=policy, steps=[], max_batch=max_batch)
    result = run(requests, watched, kv_tokens=16 * blocks, stretch=False)
    chunks = [[(request, tokens) for request, tokens, _ in step.chunks] for step in expected]
    assert watched.steps == [
        (sorted(step.decoding), chunk, step.preempted) for step, chunk in zip(expected, chunks, strict=True)
    ]
    assert result.log["start_s"].tolist() == [step.start_s for step in expected]
    assert result.log["kv_tokens"].tolist() == [16 * step.used for step in expected]
    assert result.log["prefill_kv"].tolist() == [sum(before for _, _, before in step.chunks) for step in expected]
    assert result.log["recomputed_tokens"].tolist() == [step.recomputed for step in expected]
    assert {request.job.id: request.finish_s for request in served} == {
        request: at for request, at in enumerate(result.finish_s) if not np.isnan(at)
    }
    preempted = Counter({request.job.id: request.preemptions for request in served})
    assert result.request_log.preemptions == dict(+preempted)


def test_a_prompt_is_prefilled_in_chunks_beside_the_others_decode() -> None:
    # 20 tokens an iteration: A takes one of them from t=1 on, B the other 19, twice, and then the last 12 of its 50.
    result = run(requests_of([(0.0, 10, 6), (0.5, 50, 2)]), ChunkedPrefill(token_budget=20))
    assert result.log["rows"].tolist() == [0, 1, 1, 1, 2, 1]
    assert result.log["prefill_tokens"].tolist() == [10, 19, 19, 12, 0, 0]
    assert result.log["prefill_kv"].tolist() == [0, 0, 19, 38, 0, 0]
    assert result.log["prefill_pairs"].tolist() == [55, 190, 19 * 19 + 190, 12 * 38 + 78, 0, 0]
    assert result.log["kv_read"].tolist() == [0, 11, 12, 13, 14 + 51, 15]
    assert result.log["inserted_rows"].tolist() == [0, 1, 0, 0, 1, 0]
    assert list(result.request_log.first_scheduled_s) == [0, 1]
    assert list(result.request_log.first_token_s) == [1, 4]
    assert result.finish_s == [6, 5]


def test_what_the_budget_leaves_goes_to_the_next_in_the_queue() -> None:
    # t=0: 30 of A. 1: the last 10 of A, 15 of B, 5 of C. 2: a token of A and of B, 10 of C.
    result = run(requests_of([(0.0, 40, 3), (0.0, 15, 3), (0.0, 15, 1)]), ChunkedPrefill(token_budget=30))
    assert result.log["prefill_rows"].tolist() == [1, 3, 1, 0]
    assert result.log["prefill_tokens"].tolist() == [30, 30, 10, 0]
    assert result.finish_s == [4, 4, 3]


def test_a_threshold_bounds_the_chunk_of_each_prompt() -> None:
    result = run(requests_of([(0.0, 40, 1), (0.0, 25, 1)]), ChunkedPrefill(long_prefill_token_threshold=20))
    assert result.log["prefill_tokens"].tolist() == [40, 25]
    assert result.log["prefill_kv"].tolist() == [0, 40]


def test_the_budget_may_be_below_max_batch_and_nobody_misses_a_turn() -> None:
    # Two tokens an iteration. t=0: A. 1: A and B. 2: A and B, which end. 3: two tokens of C. 4: the third.
    result = run(requests_of([(0.0, 2, 3), (0.0, 1, 2), (0.0, 3, 1)]), ChunkedPrefill(token_budget=2))
    assert result.finish_s == [3, 3, 5]


def test_the_last_admitted_is_preempted_goes_to_the_head_and_finds_its_own_blocks() -> None:
    # 3 blocks. A, B and C fill one each by t=2. Then A needs another, C's; B needs another and is itself the last. B
    # waits before C. After A has ended (t=4) B finds its block, computes one token and goes on; C's block was taken.
    result = run(requests_of([(0.0, 15, 4)] * 3), ChunkedPrefill(), kv_tokens=48)
    assert result.request_log.preemptions == {1: 1, 2: 1}
    assert result.log["rows"].tolist() == [0, 3, 1, 1, 0, 1, 0, 1]
    assert result.log["prefill_tokens"].tolist() == [45, 0, 0, 0, 1, 0, 17, 0]
    assert result.log["prefill_kv"].tolist() == [0, 0, 0, 0, 16, 0, 0, 0]
    assert result.total("recomputed_tokens") == 16
    assert result.total("recomputed_pairs") == 16 * 17 // 2
    assert result.finish_s == [4, 6, 8]
    chunks = result.engine.ledger.chunks
    assert chunks.admitted == (45, 0), "nobody shares anything"
    assert chunks.readmitted == (17 + 17, 16) and chunks.readmitted.rate == 16 / 34
    blind = run(requests_of([(0.0, 15, 4)] * 3), ChunkedPrefill(prefix_caching=False), kv_tokens=48)
    assert blind.log["prefill_tokens"].tolist() == [45, 0, 0, 0, 17, 0, 17, 0]
    assert blind.total("recomputed_tokens") == 32


@pytest.mark.parametrize(
    ("caching", "chunks", "repeated", "pairs"),
    [
        (True, [16, 15, 15, 15, 0, 15, 13], 13, 13 * 32 + 13 * 14 // 2),
        (False, [16, 15, 15, 15, 0, 15, 16, 16, 13], 45, 45 * 46 // 2),
    ],
)
def test_a_request_preempted_in_mid_prompt_begins_again(
    caching: bool, chunks: list[int], repeated: int, pairs: int
) -> None:
    # 5 blocks, 16 tokens an iteration. At t=4 A has 2 blocks, B, whose last 15 of 60 tokens need a fourth, has 3: B is
    # dropped. At t=5 it finds its 2 full blocks, or none; A ends at t=6.
    policy = ChunkedPrefill(token_budget=16, prefix_caching=caching)
    result = run(requests_of([(0.0, 16, 6), (0.5, 60, 1)]), policy, kv_tokens=80)
    assert result.request_log.preemptions == {1: 1}
    assert result.log["prefill_tokens"].tolist() == chunks
    assert (result.total("recomputed_tokens"), result.total("recomputed_pairs")) == (repeated, pairs)
    assert list(result.request_log.first_scheduled_s) == [0, 1]
    assert result.request_log.first_token_s[1] == len(chunks)
    assert result.request_log.recomputed == []  # no token came before


@pytest.mark.parametrize(("ids", "computed", "taken"), [((0, 0), 48, 64), ((0, 1), 80, 96)])
def test_a_shared_prefix_is_computed_once_and_counted_once(ids: tuple[int, int], computed: int, taken: int) -> None:
    # 2 blocks of the prefix, and one each for the 8 tokens that are a request's own: found within the same iteration.
    requests = requests_of([(0.0, 40, 2)] * 2, prefix=[(one, 32) for one in ids])
    result = run(requests, ChunkedPrefill())
    assert result.log["prefill_tokens"].tolist() == [computed, 0]
    assert result.log["kv_tokens"].tolist() == [taken, taken]
    chunks = result.engine.ledger.chunks
    assert chunks.admitted == (80, 80 - computed)
    assert chunks.readmitted == (0, 0) and chunks.readmitted.rate is None


def test_a_prompt_that_is_all_there_has_its_last_block_computed_again() -> None:
    requests = requests_of([(0.0, 32, 1), (2.0, 32, 1), (4.0, 33, 1)], prefix=[(0, 32)] * 3)
    assert run(requests, ChunkedPrefill()).log["prefill_tokens"].tolist() == [32, 16, 1]


@pytest.mark.parametrize(("between", "found"), [(80, 48), (96, 32), (112, 16)])
def test_the_tail_of_what_was_used_least_recently_is_forgotten_first(between: int, found: int) -> None:
    # 8 blocks. The first request leaves 3 blocks of a prefix and one of its own; the second takes the 4 that were never
    # used, the own one, and then as many of the prefix, from its end, as it needs.
    requests = requests_of([(0.0, 49, 1), (2.0, between, 1), (4.0, 49, 1)], prefix=[(0, 48), (-1, 0), (0, 48)])
    result = run(requests, ChunkedPrefill(), kv_tokens=128)
    assert result.log["prefill_kv"].tolist() == [0, 0, found]


def test_hashes_share_what_comes_before_them_too() -> None:
    requests = requests_of([(0.0, 1100, 1), (2.0, 1100, 1), (4.0, 1000, 1)], hashes=[(5, 6, 8), (5, 7, 9), (5, 6)])
    result = run(requests, ChunkedPrefill())
    assert result.log["prefill_kv"].tolist() == [0, 512, 992]  # of the third, 62 full blocks of its 1,000 tokens


@pytest.mark.parametrize(("tokens", "found"), [(16, 32), (32, 64)])
def test_a_hash_stands_for_as_many_tokens_as_the_trace_says(tokens: int, found: int) -> None:
    hashes = [(11, 12, 13, 14, 15, 16, 17), (11, 12, 33, 34, 35, 36, 37)]
    requests = requests_of([(0.0, 7 * tokens, 1), (9.0, 7 * tokens, 1)], hashes=hashes, hash_tokens=tokens)
    assert run(requests, ChunkedPrefill()).log["prefill_kv"].tolist() == [0, found]


def test_a_newcomer_needs_room_for_its_first_chunk_or_for_its_whole_prompt() -> None:
    # 6 blocks, of which A takes 2 until t=3: the first 32 of B's 80 tokens fit beside it, all of them do not.
    requests = requests_of([(0.0, 30, 3), (0.5, 80, 1)])
    first_chunk = run(requests, ChunkedPrefill(token_budget=32), kv_tokens=96)
    whole = run(requests, ChunkedPrefill(token_budget=32, reserve_full_prompt=True), kv_tokens=96)
    assert first_chunk.log["prefill_tokens"].tolist() == [30, 31, 31, 18]
    assert whole.log["prefill_tokens"].tolist() == [30, 0, 0, 32, 32, 16]


def test_prefill_first_can_find_prefixes_too() -> None:
    requests = requests_of([(0.0, 40, 2), (0.0, 40, 2), (5.0, 40, 1)], prefix=[(0, 32)] * 3)
    cached = run(requests, PrefillFirst(prefix_caching=True))
    assert cached.log["prefill_tokens"].tolist() == [48, 0, 8]
    assert cached.log["kv_tokens"].tolist() == [64, 64, 48]
    assert run(requests, PrefillFirst()).log["prefill_tokens"].tolist() == [80, 0, 40]


@pytest.mark.parametrize("kv_tokens", [300, 5000])
def test_without_anything_to_find_prefill_first_schedules_as_before(kv_tokens: int) -> None:
    requests = random_requests(60, seed=9, rate=0.4)
    plain = run(requests, PrefillFirst(max_batch=8), kv_tokens=kv_tokens)
    cached = run(requests, PrefillFirst(max_batch=8, prefix_caching=True), kv_tokens=kv_tokens)
    if kv_tokens == 300:
        assert (
            plain.request_log.preemptions and cached.total("prefill_kv") > 0
        )  # those that were preempted find their own
    assert cached.finish_s == plain.finish_s
    assert cached.log["kv_tokens"].tolist() == plain.log["kv_tokens"].tolist()


def test_a_long_prompt_delays_nobody_by_more_than_the_budget() -> None:
    """The negative control: with a budget above every prompt, one iteration prefills all of it beside the decode."""
    requests = requests_of([(0.0, 10, 40), (2.0, 4000, 1)])
    worst = {
        budget: int((log["rows"] + log["prefill_tokens"]).max())
        for budget, log in ((size, run(requests, ChunkedPrefill(token_budget=size)).log) for size in (256, 8192))
    }
    assert worst == {256: 256, 8192: 4001}


@pytest.mark.parametrize(
    ("option", "value"),
    [("token_budget", 0), ("long_prefill_token_threshold", 0), ("prefix_caching", 1), ("reserve_full_prompt", "no")],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^policy\.{option}='?{value}'?: "):
        ChunkedPrefill(**{option: value})
