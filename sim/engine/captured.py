"""What captured decode steps compute beyond eager ones: dummy rows, and windows that are rounded up.

Only decode steps are captured. One that also prefills is eager; one whose rows have just joined, moved or left is
captured, since that happens before it. What is captured is the shape: how many rows are computed, and, where attention
reads padding, the window. `sim.engine.execution` says which shapes there are.

    layout                              rows computed               KV slots read of a row
    rectangle, shared_rectangle         rounded, dummies and all    the rounded window, of dummies too
    ragged_rectangle                    rounded                     its own tokens; 1 of a dummy
    selective_fused, _per_request       rounded                     its own tokens; 1 of a dummy
    static                              all of the batch's          the rounded window

A rectangle has rows for its dummies, so they are at most as many as it has free; flattened layouts have up to
`max_batch` rows. A batch that is concatenated anew at every step has no lasting shape, so it is always eager.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from policies.ledger.book import StaticRectangle
from policies.ledger.ledger import Ledger
from policies.ledger.rectangle import Rectangle
from policies.plan import Plan
from policies.policy import Traits
from sim.cost.work import DecodeWork, Work
from sim.engine.execution import EAGER, Execution
from sim.engine.layouts import LAYOUTS, Count, CountDecode, LayoutEntry


def execution_for(traits: Traits, execution: Execution) -> Execution:
    """Return how policies with these traits are executed where `execution` is asked for."""
    return EAGER if traits.concatenates else execution


class Counting(NamedTuple):
    """What counts the work of a policy, as its decode steps are executed.

    Attributes:
        work: Of any plan, on any lane.
        decode: Of a plan that decodes and prefills nothing, on lane 0: what `work` says of it, and faster.
        window_left: For how many decode steps, the one that has begun first, the window that is read stays the same if
            no row joins or leaves; None: it grows with the rows, or there is none.
    """

    work: Count
    decode: CountDecode
    window_left: Callable[[Ledger], int] | None


def counting(traits: Traits, execution: Execution) -> Counting:
    """Return what counts the work of policies with these traits."""
    entry, execution = LAYOUTS[traits.layout], execution_for(traits, execution)
    decode, window_left = entry.decode, None
    if execution.captured:
        decode = partial(_captured, entry, execution)
        window_left = partial(_window_left, execution) if entry.reads_window else None

    def work(ledger: Ledger, plan: Plan, lane: int) -> Work:
        if plan.prefill:
            return entry.prefill(ledger, plan, lane)
        if plan.decode:
            return decode(ledger).work(lane)
        return Work(lane=lane, kv_copied=ledger.book.copied, kv_host=ledger.host_tokens)

    return Counting(work, decode, window_left)


def _captured(entry: LayoutEntry, execution: Execution, ledger: Ledger) -> DecodeWork:
    """Count a captured step."""
    eager = entry.decode(ledger)
    rows, held, kv, window = eager.rows, eager.held_rows, eager.kv_read, 1
    computed = execution.rows(rows, entry.room(ledger))
    of_held, padding, launches, dummies = 0, 0, computed if entry.launches_by_row else 1, computed - rows
    if entry.reads_window:
        window = _window(execution, ledger)
        of_held, padding = held * window, rows * window - kv
    read, moved = (kv, of_held, padding), (eager.kv_copied, eager.kv_host)
    return DecodeWork(rows, held, eager.inserted_rows, *read, *moved, launches, dummies, dummies * window)


def _window_left(execution: Execution, ledger: Ledger) -> int:
    return _window(execution, ledger) - ledger.batch.longest


def _window(execution: Execution, ledger: Ledger) -> int:
    """Columns that a step reads of the rectangle that the batch is in."""
    book = ledger.book
    assert isinstance(book, Rectangle | StaticRectangle)
    return execution.window(ledger.batch.longest + 1, book.capacity)
