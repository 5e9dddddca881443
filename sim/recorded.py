"""What recorded decode steps compute beyond eager ones: dummy rows, and windows that are rounded up.

Only decode steps are recorded. One that also prefills is eager; one whose rows have just joined, moved or left is
recorded, since that happens before it. What is recorded is the shape: how many rows are computed, and, where attention
reads padding, the window. `policies.execution` says which shapes there are.

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

from policies.execution import EAGER, Execution
from policies.kv import StaticRectangle
from policies.ledger import Ledger
from policies.plan import Plan
from policies.policy import Layout, Traits
from policies.rectangle import Rectangle
from policies.work import Work
from sim.layout import COUNTS, STEPS, Count, CountStep, Step, fused_step, padded_step


def execution_of(traits: Traits, execution: Execution) -> Execution:
    """Return how policies with these traits are executed where `execution` is asked for."""
    return EAGER if traits.concatenates else execution


class Counting(NamedTuple):
    """How the work of a policy is counted.

    Attributes:
        work: Counts the work of a plan.
        step: Counts a decode step that changes nothing else: what `work` says of it, and faster.
        window_left: For how many decode steps, from the one that is so many after the one begun, the window that is
            read stays the same, if no row joins or leaves; None: it grows with the rows, or there is none.
    """

    work: Count
    step: CountStep
    window_left: Callable[[Ledger, int], int] | None


def counting(traits: Traits, execution: Execution) -> Counting:
    """Return how the work of policies with these traits is counted."""
    layout, execution = traits.layout, execution_of(traits, execution)
    if not execution.recorded:
        return Counting(COUNTS[layout], STEPS[layout], None)
    step = partial(_STEPS[layout], execution)
    windowed = layout in _PADDED
    return Counting(partial(_count, COUNTS[layout], step), step, partial(_window_left, execution) if windowed else None)


def _count(eager: Count, step: CountStep, ledger: Ledger, plan: Plan, lane: int) -> Work:
    work = eager(ledger, plan, lane)
    if not plan.decode or plan.prefill:
        return work
    _, _, _, held, padding, launches, dummies, dummy = step(ledger, 0)
    changed = {"kv_held": held, "kv_padding": padding, "attention_launches": launches}
    return work._replace(**changed, dummy_rows=dummies, kv_dummy=dummy)


def _columns(ledger: Ledger) -> int:
    """Columns of the rectangle that the batch is in."""
    book = ledger.book
    assert isinstance(book, Rectangle | StaticRectangle)
    return book.capacity


def _dummies(execution: Execution, ledger: Ledger, rows: int) -> int:
    """Rows of the rectangle that a step fills up with."""
    book = ledger.book
    assert isinstance(book, Rectangle)
    return execution.rows(rows, book.rows) - rows


def _rectangle(execution: Execution, ledger: Ledger, later: int = 0) -> Step:
    rows, _, kv, _, _, launches, _, _ = padded_step(ledger, later)
    window = execution.window(ledger.batch.longest + 1 + later, _columns(ledger))
    dummies = _dummies(execution, ledger, rows)
    return rows, 0, kv, 0, rows * window - kv, launches, dummies, dummies * window


def _ragged(execution: Execution, ledger: Ledger, later: int = 0) -> Step:
    rows, _, kv, _, _, launches, _, _ = fused_step(ledger, later)
    dummies = _dummies(execution, ledger, rows)
    return rows, 0, kv, 0, 0, launches, dummies, dummies


def _static(execution: Execution, ledger: Ledger, later: int = 0) -> Step:
    rows, held, kv, _, _, launches, _, _ = padded_step(ledger, later)
    window = execution.window(ledger.batch.longest + 1 + later, _columns(ledger))
    return rows, held, kv, held * window, rows * window - kv, launches, 0, 0


def _fused(execution: Execution, ledger: Ledger, later: int = 0) -> Step:
    rows, _, kv, _, _, launches, _, _ = fused_step(ledger, later)
    dummies = execution.rows(rows, ledger.max_rows) - rows
    return rows, 0, kv, 0, 0, launches, dummies, dummies


def _per_request(execution: Execution, ledger: Ledger, later: int = 0) -> Step:
    rows, _, kv, _, _, _, dummies, dummy = _fused(execution, ledger, later)
    return rows, 0, kv, 0, 0, rows + dummies, dummies, dummy


def _window_left(execution: Execution, ledger: Ledger, later: int = 0) -> int:
    window = ledger.batch.longest + 1 + later
    return execution.window(window, _columns(ledger)) - window + 1


_STEPS: dict[Layout, Callable[[Execution, Ledger, int], Step]] = {
    "selective_fused": _fused,
    "selective_per_request": _per_request,
    "rectangle": _rectangle,
    "ragged_rectangle": _ragged,
    "shared_rectangle": _rectangle,
    "static": _static,
}

_PADDED = ("rectangle", "shared_rectangle", "static")
"""Layouts whose attention reads a window."""
