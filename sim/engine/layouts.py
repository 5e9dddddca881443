"""What an iteration computes under each layout: plan and state in, `Work` out. One entry a layout.

What is counted here holds for eager steps; `sim.engine.captured` says what captured ones add, by the entry's facts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.ledger.rectangle import Rectangle
from policies.plan import Plan
from policies.policy import Layout
from sim.cost.work import DecodeWork, Work

Count = Callable[[Ledger, Plan, int], Work]
"""Counts the work of a plan that a ledger has just begun on a lane."""

CountDecode = Callable[[Ledger], DecodeWork]
"""Counts the work of a plan that a ledger has just begun and that prefills nothing."""


class LayoutEntry(NamedTuple):
    """All that is fixed about a layout.

    Attributes:
        decode: Counts an iteration that only decodes, executed eagerly.
        prefill: Counts an iteration that prefills; it may decode too.
        pads_prompts: Whether prompts that are prefilled together are padded to the longest.
        reads_window: Whether decode attention reads of every row the window of the longest, padding and all.
        room: Rows that a captured step has room for; live rows are filled up with dummies as far as that.
        launches_by_row: Whether decode attention is launched for every row.
    """

    decode: CountDecode
    prefill: Count
    pads_prompts: bool
    reads_window: bool
    room: Callable[[Ledger], int]
    launches_by_row: bool = False


_Prompts = tuple[int, int, int, int, int, int]
"""What a prefill computes, padding apart: prompts, tokens, pairs, longest, recomputed tokens and pairs."""

_new = tuple.__new__


def _prompts(ledger: Ledger, jobs: Sequence[Job]) -> _Prompts:
    """Count prompts; (query, key) pairs are those of causal attention."""
    progress = ledger.progress
    if len(jobs) == 1 and not progress:
        tokens = jobs[0][2]
        return 1, tokens, tokens * (tokens + 1) // 2, tokens, 0, 0
    tokens = pairs = longest = again = again_pairs = 0
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
    return len(jobs), tokens, pairs, longest, again, again_pairs


def _chunks(ledger: Ledger, plan: Plan) -> tuple[int, int, int, int, int, int]:
    """Count chunks: how many, their tokens and pairs, recomputed tokens and pairs, and the KV before them."""
    count = pairs = again = again_pairs = before = 0
    computed = ledger.chunks.computed_before
    for job, past, tokens in ledger.chunks.of(plan):
        count += tokens
        before += past
        pairs += tokens * past + tokens * (tokens + 1) // 2
        repeated = min(past + tokens, computed[job[0]]) - past if job[0] in computed else 0
        if repeated > 0:
            again += repeated
            again_pairs += repeated * past + repeated * (repeated + 1) // 2
    return len(plan.prefill), count, pairs, again, again_pairs, before


def _fused_decode(ledger: Ledger) -> DecodeWork:
    """Each row over its own KV, in one attention kernel."""
    batch, book = ledger.batch, ledger.book
    rows = len(batch.rows)
    kv = rows * (batch.clock + 1) + batch.offset_sum
    return _new(DecodeWork, (rows, 0, ledger.inserted, kv, 0, 0, book.copied, ledger.host_tokens, 1, 0, 0))


def _per_request_decode(ledger: Ledger) -> DecodeWork:
    """Each row over its own KV, in an attention kernel of its own."""
    batch, book = ledger.batch, ledger.book
    rows = len(batch.rows)
    kv = rows * (batch.clock + 1) + batch.offset_sum
    return _new(DecodeWork, (rows, 0, ledger.inserted, kv, 0, 0, book.copied, ledger.host_tokens, rows, 0, 0))


def _padded_decode(ledger: Ledger) -> DecodeWork:
    """Every row, held ones too, over the window of the longest."""
    batch, book = ledger.batch, ledger.book
    rows, held, window = len(batch.rows), len(batch.held), batch.longest + 1
    kv = rows * (batch.clock + 1) + batch.offset_sum
    kv_held, padding = held * window, rows * window - kv
    return _new(
        DecodeWork, (rows, held, ledger.inserted, kv, kv_held, padding, book.copied, ledger.host_tokens, 1, 0, 0)
    )


def _fused_prefill(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Flattened tokens through the linear layers, one attention kernel over each request's own KV: no padding."""
    rows = kv = inserted = before = 0
    if plan.decode:
        batch = ledger.batch
        rows, inserted = len(batch.rows), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
    if plan.tokens:
        prompts, tokens, pairs, again, again_pairs, before = _chunks(ledger, plan)
    else:
        prompts, tokens, pairs, _, again, again_pairs = _prompts(ledger, plan.prefill)
    prefill, rest = (prompts, tokens, pairs), (again, again_pairs, before, 0, 0)
    return _new(Work, (lane, rows, 0, inserted, *prefill, 0, 0, 0, 0, kv, 0, 0, 0, ledger.host_tokens, 1, *rest))


def _per_request_prefill(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """The same, with one attention kernel per layer and request."""
    work = _fused_prefill(ledger, plan, lane)
    return work._replace(attention_launches=work.rows + work.prefill_rows)


def _padded_prefill(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Prompts padded to the longest; rows wait."""
    prompts, tokens, pairs, longest, again, again_pairs = _prompts(ledger, plan.prefill)
    slots = prompts * longest
    padding, padding_pairs = slots - tokens, slots * (longest + 1) // 2 - pairs
    prefill, moved = (prompts, tokens, pairs, padding, padding_pairs), (ledger.book.copied, ledger.host_tokens)
    return _new(Work, (lane, 0, 0, 0, *prefill, 0, 0, 0, 0, 0, *moved, 1, again, again_pairs, 0, 0, 0))


def _shared_prefill(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Newcomers padded into the batch: every row computes as many slots as the longest newcomer's prompt.

    k newcomers of n_i tokens among B rows leave B*max(n_i) - sum(n_i) - (B-k) slots idle, and attention under an
    arbitrary mask computes every slot against the whole window.
    """
    if not plan.decode:
        return _padded_prefill(ledger, plan, lane)
    batch = ledger.batch
    rows = len(batch.rows)
    prompts, tokens, pairs, longest, again, again_pairs = _prompts(ledger, plan.prefill)
    window = max(batch.longest + 1, longest)
    kv = rows * (batch.clock + 1) + batch.offset_sum
    padding = (rows + prompts) * longest - tokens - rows
    padding_pairs = (rows + prompts) * longest * window - rows * window - pairs
    copied, host = ledger.book.copied, ledger.host_tokens
    counts = (lane, rows, 0, ledger.inserted, prompts, tokens, pairs, 0, 0, padding, padding_pairs)
    return _new(Work, (*counts, kv, 0, rows * window - kv, copied, host, 1, again, again_pairs, 0, 0, 0))


def _max_rows(ledger: Ledger) -> int:
    return ledger.max_rows


def _rectangle_rows(ledger: Ledger) -> int:
    assert isinstance(ledger.book, Rectangle)
    return ledger.book.rows


def _live_rows(ledger: Ledger) -> int:
    """A static batch is computed whole until it ends: there is nothing to fill up."""
    return len(ledger.batch.rows)


LAYOUTS: dict[Layout, LayoutEntry] = {
    "selective_fused": LayoutEntry(_fused_decode, _fused_prefill, False, False, _max_rows),
    "selective_per_request": LayoutEntry(
        _per_request_decode, _per_request_prefill, False, False, _max_rows, launches_by_row=True
    ),
    "rectangle": LayoutEntry(_padded_decode, _padded_prefill, True, True, _rectangle_rows),
    "ragged_rectangle": LayoutEntry(_fused_decode, _padded_prefill, True, False, _rectangle_rows),
    "shared_rectangle": LayoutEntry(_padded_decode, _shared_prefill, True, True, _rectangle_rows),
    "static": LayoutEntry(_padded_decode, _padded_prefill, True, True, _live_rows),
}
