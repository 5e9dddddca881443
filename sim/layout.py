"""What an iteration computes under each layout: plan and state in, `Work` out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from policies.job import Job
from policies.ledger import Ledger
from policies.plan import Plan
from policies.policy import Layout
from policies.work import Work

Count = Callable[[Ledger, Plan, int], Work]
"""Counts the work of a plan that a ledger has just begun on a lane."""

_new = tuple.__new__


class _Prompts(NamedTuple):
    """What a prefill computes, padding apart: (query, key) pairs are those of causal attention."""

    prompts: int
    tokens: int
    pairs: int
    longest: int
    recomputed_tokens: int
    recomputed_pairs: int


def _prompts(ledger: Ledger, jobs: Sequence[Job]) -> _Prompts:
    tokens = pairs = longest = again = again_pairs = 0
    progress = ledger.progress
    for job in jobs:
        length = job[2]
        if progress and job[0] in progress:
            length = ledger.prefill_length(job)
            again += length - 1
            again_pairs += (length - 1) * length // 2
        tokens += length
        pairs += length * (length + 1) // 2
        if length > longest:
            longest = length
    return _new(_Prompts, (len(jobs), tokens, pairs, longest, again, again_pairs))


def selective_fused(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Flattened tokens through the linear layers, one attention kernel over each request's own KV: no padding."""
    batch = ledger.batch
    rows = kv = inserted = prompts = tokens = pairs = again = again_pairs = 0
    if plan.decode:
        rows, inserted = len(batch.rows), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
    if plan.prefill:
        prompts, tokens, pairs, _, again, again_pairs = _prompts(ledger, plan.prefill)
    counts = (lane, rows, 0, inserted, prompts, tokens, pairs, 0, 0, 0, 0)
    launches = 1 if rows or prompts else 0
    return _new(Work, (*counts, kv, 0, 0, 0, ledger.host_tokens, launches, again, again_pairs))


def selective_per_request(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """The same, with one attention kernel per layer and request."""
    work = selective_fused(ledger, plan, lane)
    return work._replace(attention_launches=work.rows + work.prefill_rows)


def rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Rows padded to the window in decode, prompts padded to the longest in prefill; never both in one iteration."""
    batch = ledger.batch
    rows = held = inserted = kv = kv_held = kv_padding = 0
    prompts = tokens = pairs = padding = padding_pairs = again = again_pairs = 0
    if plan.decode:
        window = batch.longest + 1
        rows, held, inserted = len(batch.rows), len(batch.held), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
        kv_held, kv_padding = held * window, rows * window - kv
    elif plan.prefill:
        prompts, tokens, pairs, longest, again, again_pairs = _prompts(ledger, plan.prefill)
        padding, padding_pairs = prompts * longest - tokens, prompts * longest * (longest + 1) // 2 - pairs
    copied, host = ledger.book.copied, ledger.host_tokens
    counts = (lane, rows, held, inserted, prompts, tokens, pairs, padding, padding_pairs, 0, 0)
    launches = 1 if rows or prompts else 0
    return _new(Work, (*counts, kv, kv_held, kv_padding, copied, host, launches, again, again_pairs))


def shared_rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Newcomers padded into the batch: every row computes as many slots as the longest newcomer's prompt.

    k newcomers of n_i tokens among B rows leave B*max(n_i) - sum(n_i) - (B-k) slots idle, and attention under an
    arbitrary mask computes every slot against the whole window.
    """
    if not (plan.decode and plan.prefill):
        return rectangle(ledger, plan, lane)
    batch = ledger.batch
    rows = len(batch.rows)
    prompts, tokens, pairs, longest, again, again_pairs = _prompts(ledger, plan.prefill)
    window = max(batch.longest + 1, longest)
    kv = rows * (batch.clock + 1) + batch.offset_sum
    padding = (rows + prompts) * longest - tokens - rows
    padding_pairs = (rows + prompts) * longest * window - rows * window - pairs
    copied, host = ledger.book.copied, ledger.host_tokens
    counts = (lane, rows, 0, ledger.inserted, prompts, tokens, pairs, 0, 0, padding, padding_pairs)
    return _new(Work, (*counts, kv, 0, rows * window - kv, copied, host, 1, again, again_pairs))


COUNTS: dict[Layout, Count] = {
    "selective_fused": selective_fused,
    "selective_per_request": selective_per_request,
    "rectangle": rectangle,
    "static": rectangle,
    "shared_rectangle": shared_rectangle,
}
