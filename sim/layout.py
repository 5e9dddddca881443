"""What an iteration computes under each layout: plan and state in, `Work` out."""

from collections.abc import Callable, Sequence

from policies.job import Job
from policies.ledger import Ledger
from policies.plan import Plan
from policies.policy import Layout
from policies.work import Work

Count = Callable[[Ledger, Plan, int], Work]
"""Counts the work of a plan that a ledger has just begun on a lane."""

_work = tuple.__new__


def _lengths(ledger: Ledger, jobs: Sequence[Job]) -> list[int]:
    if ledger.progress:
        return [ledger.prefill_length(job) for job in jobs]
    return [job[2] for job in jobs]


def _pairs(lengths: Sequence[int]) -> int:
    """(query, key) pairs of causal attention over prompts of these lengths."""
    return sum([length * (length + 1) for length in lengths]) // 2


def selective_fused(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Flattened tokens through the linear layers, one attention kernel over each request's own KV: no padding."""
    batch = ledger.batch
    rows = kv = inserted = prompts = tokens = pairs = again = again_pairs = 0
    if plan.decode:
        rows, inserted = len(batch.rows), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
    if plan.prefill:
        prompts, progress = len(plan.prefill), ledger.progress
        for job in plan.prefill:
            length = job[2]
            if progress and job[0] in progress:
                length = ledger.prefill_length(job)
                again += length - 1
                again_pairs += (length - 1) * length // 2
            tokens += length
            pairs += length * (length + 1) // 2
    counts = (lane, rows, 0, inserted, prompts, tokens, pairs, 0, 0, 0, 0)
    return _work(Work, (*counts, kv, 0, 0, 0, ledger.host_tokens, 1, again, again_pairs))


def selective_per_request(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """The same, with one attention kernel per layer and request."""
    work = selective_fused(ledger, plan, lane)
    return work._replace(attention_launches=work.rows + work.prefill_rows)


def rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Rows padded to the window in decode, prompts padded to the longest in prefill; never both in one iteration."""
    batch = ledger.batch
    rows = held = inserted = kv = kv_held = kv_padding = 0
    prompts = tokens = pairs = padding = padding_pairs = 0
    if plan.decode:
        window = batch.longest + 1
        rows, held, inserted = len(batch.rows), len(batch.held), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
        kv_held, kv_padding = held * window, rows * window - kv
    elif plan.prefill:
        lengths = _lengths(ledger, plan.prefill)
        prompts, tokens, pairs = len(lengths), sum(lengths), _pairs(lengths)
        longest = max(lengths)
        padding, padding_pairs = prompts * longest - tokens, prompts * longest * (longest + 1) // 2 - pairs
    copied, host = ledger.book.copied, ledger.host_tokens
    counts = (lane, rows, held, inserted, prompts, tokens, pairs, padding, padding_pairs, 0, 0)
    return _work(Work, (*counts, kv, kv_held, kv_padding, copied, host, 1, 0, 0))


def shared_rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Newcomers padded into the batch: every row computes as many slots as the longest newcomer's prompt.

    k newcomers of n_i tokens among B rows leave B*max(n_i) - sum(n_i) - (B-k) slots idle, and attention under an
    arbitrary mask computes every slot against the whole window.
    """
    if not (plan.decode and plan.prefill):
        return rectangle(ledger, plan, lane)
    batch = ledger.batch
    lengths = _lengths(ledger, plan.prefill)
    rows, prompts, tokens, pairs = len(batch.rows), len(lengths), sum(lengths), _pairs(lengths)
    longest = max(lengths)
    window = max(batch.longest + 1, longest)
    kv = rows * (batch.clock + 1) + batch.offset_sum
    padding = (rows + prompts) * longest - tokens - rows
    padding_pairs = (rows + prompts) * longest * window - rows * window - pairs
    copied, host = ledger.book.copied, ledger.host_tokens
    counts = (lane, rows, 0, ledger.inserted, prompts, tokens, pairs, 0, 0, padding, padding_pairs)
    return _work(Work, (*counts, kv, 0, rows * window - kv, copied, host, 1, 0, 0))


COUNTS: dict[Layout, Count] = {
    "selective_fused": selective_fused,
    "selective_per_request": selective_per_request,
    "rectangle": rectangle,
    "static": rectangle,
    "shared_rectangle": shared_rectangle,
}
