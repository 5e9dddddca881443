"""What recorded decode steps compute beyond eager ones: dummy rows, and windows that are rounded up.

Only decode steps are recorded. One that also prefills is eager; one whose rows have just joined, moved or left is
recorded, since that happens before it. What is recorded is the shape: how many rows are computed, and, where attention
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
from policies.policy import Layout, Traits
from sim.cost.work import Work
from sim.engine.execution import EAGER, Execution
from sim.engine.layouts import COUNTS, STEPS, Count, CountStep, Step, fused_step, padded_step


def execution_for(traits: Traits, execution: Execution) -> Execution:
    """Return how policies with these traits are executed where `execution` is asked for."""
    return EAGER if traits.concatenates else execution


class Counting(NamedTuple):
    """How the work of a policy is counted.

    Attributes:
        work: Counts the work of a plan.
        step: Counts a decode step that changes nothing else, dummies apart: what `work` says of it, and faster.
        dummies: Counts the `dummy_rows` and `kv_dummy` of such a step; None where steps are eager.
        window_left: For how many decode steps, from the one with this number, the window that is read stays the same
            if no row joins or leaves; None: it grows with the rows, or there is none.
    """

    work: Count
    step: CountStep
    dummies: Callable[[Ledger, Step], tuple[int, int]] | None = None
    window_left: Callable[[Ledger, int], int] | None = None


def counting(traits: Traits, execution: Execution) -> Counting:
    """Return how the work of policies with these traits is counted."""
    layout, execution = traits.layout, execution_for(traits, execution)
    if not execution.recorded:
        return Counting(COUNTS[layout], STEPS[layout])
    step, dummies = partial(_STEPS[layout], execution), partial(_DUMMIES[layout], execution)
    window_left = partial(_window_left, execution) if layout in _PADDED else None
    return Counting(partial(_count, COUNTS[layout], step, dummies), step, dummies, window_left)


def _count(
    eager: Count,
    count_step: CountStep,
    count_dummies: Callable[[Ledger, Step], tuple[int, int]],
    ledger: Ledger,
    plan: Plan,
    lane: int,
) -> Work:
    work = eager(ledger, plan, lane)
    if not plan.decode or plan.prefill:
        return work
    step = count_step(ledger)
    _, _, _, held, padding, launches = step
    dummies, dummy = count_dummies(ledger, step)
    changed = {"kv_held": held, "kv_padding": padding, "attention_launches": launches}
    return work._replace(**changed, dummy_rows=dummies, kv_dummy=dummy)


def _window(execution: Execution, ledger: Ledger, number: int) -> int:
    """Columns that a step reads of the rectangle that the batch is in."""
    book = ledger.book
    assert isinstance(book, Rectangle | StaticRectangle)
    return execution.window(ledger.batch.longest + number, book.capacity)


def _window_left(execution: Execution, ledger: Ledger, number: int = 1) -> int:
    return _window(execution, ledger, number) - ledger.batch.longest - number + 1


def _flat(execution: Execution, ledger: Ledger, number: int = 1) -> Step:
    return fused_step(ledger, number)


def _per_request(execution: Execution, ledger: Ledger, number: int = 1) -> Step:
    rows, _, kv, *_ = fused_step(ledger, number)
    return rows, 0, kv, 0, 0, execution.rows(rows, ledger.max_rows)


def _padded(execution: Execution, ledger: Ledger, number: int = 1) -> Step:
    rows, held, kv, _, _, launches = padded_step(ledger, number)
    window = _window(execution, ledger, number)
    return rows, held, kv, held * window, rows * window - kv, launches


_STEPS: dict[Layout, Callable[..., Step]] = {
    "selective_fused": _flat,
    "selective_per_request": _per_request,
    "rectangle": _padded,
    "ragged_rectangle": _flat,
    "shared_rectangle": _padded,
    "static": _padded,
}


def _of_max_batch(execution: Execution, ledger: Ledger, step: Step) -> tuple[int, int]:
    """Rows that fill a step up as far as a batch has any, and a KV slot for each."""
    dummies = execution.rows(step[0], ledger.max_rows) - step[0]
    return dummies, dummies


def _of_rectangle(execution: Execution, ledger: Ledger, step: Step) -> tuple[int, int]:
    """Rows that fill a step up as far as the rectangle has any, and a KV slot for each."""
    book = ledger.book
    assert isinstance(book, Rectangle)
    dummies = execution.rows(step[0], book.rows) - step[0]
    return dummies, dummies


def _over_window(execution: Execution, ledger: Ledger, step: Step) -> tuple[int, int]:
    """The same, and the window for each: the one that the live rows of the step read."""
    dummies, _ = _of_rectangle(execution, ledger, step)
    rows, _, kv, _, padding, _ = step
    return dummies, dummies * ((kv + padding) // rows)


def _none(execution: Execution, ledger: Ledger, step: Step) -> tuple[int, int]:
    return 0, 0


_DUMMIES: dict[Layout, Callable[[Execution, Ledger, Step], tuple[int, int]]] = {
    "selective_fused": _of_max_batch,
    "selective_per_request": _of_max_batch,
    "rectangle": _over_window,
    "ragged_rectangle": _of_rectangle,
    "shared_rectangle": _over_window,
    "static": _none,
}

_PADDED = ("rectangle", "shared_rectangle", "static")
"""Layouts whose attention reads a window."""
