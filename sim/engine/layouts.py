"""What an iteration computes under each layout: plan and state in, `Work` out.

How it is executed counts too. What is said here holds for eager steps; `sim.engine.captured` says what recorded ones
add.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.plan import Plan
from policies.policy import Layout
from sim.cost.work import Work

Count = Callable[[Ledger, Plan, int], Work]
"""Counts the work of a plan that a ledger has just begun on a lane."""

Step = tuple[int, int, int, int, int, int]
"""What a decode step computes: `rows`, `held_rows`, `kv_read`, `kv_held`, `kv_padding` and `attention_launches`."""


class CountStep(Protocol):
    """Counts a decode step that changes nothing else."""

    def __call__(self, ledger: Ledger, number: int = 1) -> Step:
        """Count the step that a ledger has just begun, or the one after it, which is `number` 2, and so on."""


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


def fused_step(ledger: Ledger, number: int = 1) -> Step:
    """Each row over its own KV, in one attention kernel."""
    batch = ledger.batch
    rows = len(batch.rows)
    return rows, 0, rows * (batch.clock + number) + batch.offset_sum, 0, 0, 1


def per_request_step(ledger: Ledger, number: int = 1) -> Step:
    """Each row over its own KV, in an attention kernel of its own."""
    batch = ledger.batch
    rows = len(batch.rows)
    return rows, 0, rows * (batch.clock + number) + batch.offset_sum, 0, 0, rows


def padded_step(ledger: Ledger, number: int = 1) -> Step:
    """Every row, held ones too, over the window of the longest."""
    batch = ledger.batch
    rows, held, window = len(batch.rows), len(batch.held), batch.longest + number
    kv = rows * (batch.clock + number) + batch.offset_sum
    return rows, held, kv, held * window, rows * window - kv, 1


def selective_fused(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Flattened tokens through the linear layers, one attention kernel over each request's own KV: no padding."""
    rows = kv = inserted = prompts = tokens = pairs = again = again_pairs = before = 0
    if plan[4]:
        batch = ledger.batch
        rows, inserted = len(batch.rows), ledger.inserted
        kv = rows * (batch.clock + 1) + batch.offset_sum
    if plan[8]:
        prompts, tokens, pairs, again, again_pairs, before = _chunks(ledger, plan)
    elif plan[0]:
        prompts, tokens, pairs, _, again, again_pairs = _prompts(ledger, plan[0])
    prefill, launches, host = (prompts, tokens, pairs), 1 if rows or prompts else 0, ledger.host_tokens
    rest = (again, again_pairs, before, 0, 0)
    return _new(Work, (lane, rows, 0, inserted, *prefill, 0, 0, 0, 0, kv, 0, 0, 0, host, launches, *rest))


def selective_per_request(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """The same, with one attention kernel per layer and request."""
    work = selective_fused(ledger, plan, lane)
    return work._replace(attention_launches=work.rows + work.prefill_rows)


def rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """Rows padded to the window in decode, prompts padded to the longest in prefill; never both in one iteration."""
    copied, host = ledger.book.copied, ledger.host_tokens
    if plan[4]:
        rows, held, kv, kv_held, padding, _ = padded_step(ledger)
        new = ledger.inserted
        return _new(
            Work,
            (lane, rows, held, new, 0, 0, 0, 0, 0, 0, 0, kv, kv_held, padding, copied, host, 1, 0, 0, 0, 0, 0),
        )
    prompts, tokens, pairs, longest, again, again_pairs = _prompts(ledger, plan[0])
    slots = prompts * longest
    padding, padding_pairs = slots - tokens, slots * (longest + 1) // 2 - pairs
    prefill = (prompts, tokens, pairs, padding, padding_pairs)
    launches = 1 if prompts else 0
    return _new(Work, (lane, 0, 0, 0, *prefill, 0, 0, 0, 0, 0, copied, host, launches, again, again_pairs, 0, 0, 0))


def ragged_rectangle(ledger: Ledger, plan: Plan, lane: int) -> Work:
    """A rectangle of which decode attention reads each row's own tokens alone; prompts are padded all the same."""
    if not plan[4]:
        return rectangle(ledger, plan, lane)
    rows, _, kv, *_ = fused_step(ledger)
    counts = (lane, rows, 0, ledger.inserted, 0, 0, 0, 0, 0, 0, 0, kv, 0, 0, ledger.book.copied, ledger.host_tokens, 1)
    return _new(Work, (*counts, 0, 0, 0, 0, 0))


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
    return _new(Work, (*counts, kv, 0, rows * window - kv, copied, host, 1, again, again_pairs, 0, 0, 0))


COUNTS: dict[Layout, Count] = {
    "selective_fused": selective_fused,
    "selective_per_request": selective_per_request,
    "rectangle": rectangle,
    "ragged_rectangle": ragged_rectangle,
    "static": rectangle,
    "shared_rectangle": shared_rectangle,
}

STEPS: dict[Layout, CountStep] = {
    "selective_fused": fused_step,
    "selective_per_request": per_request_step,
    "rectangle": padded_step,
    "ragged_rectangle": fused_step,
    "static": padded_step,
    "shared_rectangle": padded_step,
}
"""Counts a decode step that changes nothing else: what `COUNTS` says of it, and faster."""
