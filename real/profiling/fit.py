"""From measured iterations to the costs of a layout: least squares on counts of `Work`.

What is fitted is the sum of `sim.cost.profile`. Tables become columns of hat functions, one per place, so that
one linear system holds all terms of all phases. Errors are relative, since the noise of a machine is. Iterations that
some other program delayed are many times too long; they must not bend a table, nor may their time be lost. So the
shape of the costs is fitted robustly, and each phase is then scaled to the total time that was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.profile import Fit, LayoutCost
from sim.cost.terms import COUNTS, Term, phases_of
from sim.engine.iteration_log import Slice, work_of

Array = npt.NDArray[np.float64]

TABLE_PLACES = 24
"""Most places of a table."""

SUPPORT = 8
"""Fewest iterations around a place inside a table of many values."""

SMOOTHNESS = 0.5
"""How many iterations weigh as much as the wish that a table runs straight: nothing where there are many."""

PARSIMONY = 0.02
"""How many iterations weigh as much as the wish that a term beside the tables is nothing."""

ROUNDS = 8
"""Reweightings of the robust fit, enough for it to settle."""

SPREADS = 2.0
"""Deviations larger than so many typical ones count less."""

COLLINEAR = 0.02
"""A count of which so small a share is not explained by the others cannot be told from them."""

_TERMS: tuple[tuple[str, str, str, str | None], ...] = (
    ("decode", "decode", "iterations", "rows"),
    ("decode_kv", "decode", "kv", None),
    ("decode_inserted_rows", "decode", "inserted_rows", None),
    ("prefill", "prefill", "iterations", "slots"),
    ("prefill_prompts", "prefill", "prompts", None),
    ("prefill_pairs", "prefill", "pairs", None),
    ("mixed", "mixed", "iterations", "slots"),
    ("mixed_rows", "mixed", "rows", None),
    ("mixed_prompts", "mixed", "prompts", None),
    ("mixed_pairs", "mixed", "pairs", None),
    ("mixed_kv", "mixed", "kv", None),
    ("copies", "any", "kv_copied", None),
    ("host_copies", "any", "kv_host", None),
    ("launches", "any", "launches", None),
)
"""Name, phase, count and table of every term that is tried; those that the measurements cannot tell are left out."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Iterations of one layout.

    Attributes:
        records: The log, one record per iteration, structured array [n] of `sim.engine.iteration_log.DTYPE`.
        shape: int64 [n], which of the measured shapes each belongs to; a shape is held out as a whole.
        gap_s: float64 [n], time from the end of each to the start of the next; NaN for the last of a run.
    """

    records: Slice
    shape: npt.NDArray[np.int64]
    gap_s: Array

    def of(self, which: npt.NDArray[np.bool_]) -> "Measured":
        """Return some of the iterations."""
        return Measured(self.records[which], self.shape[which], self.gap_s[which])


def fit_layout(
    layout: str, measured: Measured, held_out: Sequence[int] = (), overlap_slowdown: float = 2.0
) -> LayoutCost:
    """Fit the costs of a layout.

    Args:
        layout: Its name.
        measured: What was measured.
        held_out: Shapes that are predicted from the others, to see how well that goes; the coefficients that are
            returned are fitted to all.
        overlap_slowdown: See `LayoutCost`.
    """
    aside = np.isin(measured.shape, np.asarray(held_out, dtype=np.int64))
    terms = _fit(measured, judge=True)
    trial = _fit(measured.of(~aside)) if aside.any() else terms
    fits = [fit for phase in ("decode", "prefill", "mixed") if (fit := _judge(phase, measured, aside, terms, trial))]
    between = float(np.nanmean(measured.gap_s)) if np.isfinite(measured.gap_s).any() else 0.0
    gap = Term(name="between_iterations", phase="any", of="iterations", seconds=[between])
    return LayoutCost(layout=layout, terms=[*terms, gap], fits=fits, overlap_slowdown=overlap_slowdown)


def predicted(terms: Sequence[Term], records: Slice) -> Array:
    """Return what terms say about the durations of iterations, in seconds [n]."""
    work: Any = work_of(records)
    phases = phases_of(work)
    parts = [np.where(phases[term.phase], term.totals(work), 0.0) for term in terms]
    return np.sum(parts, axis=0) if parts else np.zeros(len(records))


class _Column:
    """A term before it is fitted: its block of the linear system."""

    def __init__(self, term: tuple[str, str, str, str | None], work: Any, phases: dict[str, Any]) -> None:
        self.name, self.phase, self.of, self.by = term
        inside = phases[self.phase]
        count = np.where(inside, COUNTS[self.of](work), 0).astype(np.float64)
        self.at: list[float] = []
        self.block = count[:, None]
        if self.by is not None and inside.any():
            place = np.asarray(COUNTS[self.by](work), dtype=np.float64)
            self.at = places(place[inside])
            self.block = count[:, None] * hats(place, self.at)
        self.seconds: list[float] = []

    @property
    def present(self) -> bool:
        return bool(self.block.any())

    def term(self) -> Term:
        return Term(
            name=self.name,
            phase=self.phase,
            of=self.of,
            by=self.by,
            at=self.at,
            seconds=[float(s) for s in self.seconds],
        )


def places(values: Array) -> list[float]:
    """Choose the places of a table: all measured values if they are few, else even steps of their logarithm."""
    distinct = np.unique(values)
    if len(distinct) <= TABLE_PLACES and distinct[-1] <= 2 * TABLE_PLACES:
        return [float(value) for value in distinct]
    count = min(TABLE_PLACES, 2 + int(4 * np.log2(distinct[-1] / distinct[0])))
    steps = np.geomspace(distinct[0], distinct[-1], count)
    nearest = np.unique(distinct[np.abs(distinct[:, None] - steps).argmin(axis=0)])
    kept = [float(nearest[0])]
    for place, following in zip(nearest[1:], [*nearest[2:], np.inf], strict=True):
        support = int(((values > kept[-1]) & (values < following)).sum())
        if support >= SUPPORT or place == nearest[-1]:
            kept.append(float(place))
    return kept


def hats(values: Array, at: Sequence[float]) -> Array:
    """Return the hat functions [n, places] whose weighted sum is linear interpolation between places."""
    return np.stack([np.interp(values, at, unit) for unit in np.eye(len(at))], axis=1)


def _fit(measured: Measured, judge: bool = False) -> list[Term]:
    """Fit all terms that the measurements can tell; on request say of each how much it explains."""
    work: Any = work_of(measured.records)
    phases, seconds = phases_of(work), measured.records["duration_s"].astype(np.float64)
    columns = _independent([_Column(term, work, phases) for term in _TERMS])
    columns, weight = _solve(columns, seconds)
    terms = _scaled([column.term() for column in columns], measured.records, phases, seconds)
    if not judge:
        return terms
    return [
        replace(term, r2=_explained(columns, column, seconds, weight))
        for term, column in zip(terms, columns, strict=True)
    ]


def _independent(columns: list[_Column]) -> list[_Column]:
    """Leave out what does not occur, and what cannot be told from the terms before it."""
    kept: list[_Column] = []
    for column in columns:
        if not column.present:
            continue
        if kept and column.by is None:
            others = np.concatenate([other.block for other in kept], axis=1)
            left = column.block - others @ np.linalg.lstsq(others, column.block, rcond=None)[0]
            if np.linalg.norm(left) < COLLINEAR * np.linalg.norm(column.block):
                continue
        kept.append(column)
    return kept


def _solve(columns: list[_Column], seconds: Array) -> tuple[list[_Column], Array]:
    """Fit robustly; leave out terms whose coefficient is zero, for no work takes less than no time.

    Returns:
        The columns that are left, with their coefficients, and the weight of every iteration, [n].
    """
    weight = 1 / np.maximum(seconds, 1e-9)
    for _ in range(ROUNDS):
        estimate = _least_squares(columns, seconds, weight)
        scale = np.maximum(estimate, 0.2 * float(np.median(seconds)))
        error = np.abs(seconds - estimate) / scale
        typical = max(1.4826 * float(np.median(error)), 0.01)
        weight = np.sqrt(np.minimum(1.0, SPREADS * typical / np.maximum(error, 1e-12))) / scale
    return [column for column in columns if any(column.seconds)], weight


def _least_squares(columns: list[_Column], seconds: Array, weight: Array) -> Array:
    """Give the columns their coefficients, and return the estimate of every duration."""
    system = np.concatenate([column.block for column in columns], axis=1)
    wishes = _wishes(columns) / float(np.median(seconds))
    weighted = np.concatenate([system * weight[:, None], wishes])
    target = np.concatenate([seconds * weight, np.zeros(len(wishes))])
    size = np.linalg.norm(weighted, axis=0)
    size[size == 0] = 1.0
    solution = non_negative(weighted / size, target) / size
    start = 0
    for column in columns:
        column.seconds = solution[start : start + column.block.shape[1]].tolist()
        start += column.block.shape[1]
    return np.asarray(system @ solution, dtype=np.float64)


def non_negative(system: Array, target: Array) -> Array:
    """Return the non-negative least-squares solution (Lawson and Hanson, 1974), begun where it is likely to end.

    Args:
        system: [n, m], its columns of like norms.
        target: [n].
    """
    gram, moment = system.T @ system, system.T @ target
    passive = np.ones(len(moment), dtype=bool)
    solution = _unbounded(gram, moment, passive)
    while solution.min() < 0:
        passive &= solution > 0
        solution = _unbounded(gram, moment, passive)
    tolerance = 1e-9 * float(np.abs(moment).max())
    for _ in range(3 * len(moment)):
        gradient = np.where(passive, -np.inf, moment - gram @ solution)
        if gradient.max() <= tolerance:
            break
        passive[gradient.argmax()] = True
        trial = _unbounded(gram, moment, passive)
        while trial.min() < 0:
            wrong = trial < 0
            step = float((solution[wrong] / (solution[wrong] - trial[wrong])).min())
            solution = solution + step * (trial - solution)
            passive &= solution > 1e-12 * solution.max()
            trial = _unbounded(gram, moment, passive)
        solution = trial
    return solution


def _unbounded(gram: Array, moment: Array, passive: npt.NDArray[np.bool_]) -> Array:
    """Return the least-squares solution in which only the passive coefficients are not zero."""
    solution: Array = np.zeros(len(moment))
    if passive.any():
        solution[passive] = np.linalg.lstsq(gram[np.ix_(passive, passive)], moment[passive], rcond=1e-13)[0]
    return solution


def _wishes(columns: list[_Column]) -> Array:
    """Return what had better be zero where measurements do not tell, [wishes, coefficients].

    A place inside a table lies on the straight line between its neighbours, and time is explained by tables before it
    is explained by anything else.
    """
    rows, start, width = [], 0, sum(column.block.shape[1] for column in columns)
    for column in columns:
        if not column.at:
            row = np.zeros(width)
            row[start] = np.sqrt(PARSIMONY) * float(column.block[column.block > 0].mean())
            rows.append(row)
        for inner in range(1, len(column.at) - 1):
            before, here, after = column.at[inner - 1 : inner + 2]
            share = (here - before) / (after - before)
            row = np.zeros(width)
            row[start + inner - 1 : start + inner + 2] = np.sqrt(SMOOTHNESS) * np.array([share - 1, 1, -share])
            rows.append(row)
        start += column.block.shape[1]
    return np.array(rows).reshape(len(rows), width)


def _scaled(terms: list[Term], records: Slice, phases: dict[str, Any], seconds: Array) -> list[Term]:
    """Scale the terms of each phase so that its total time is what was measured."""
    common = predicted([term for term in terms if term.phase == "any"], records)
    scaled = []
    for term in terms:
        factor = 1.0
        if term.phase != "any":
            inside = phases[term.phase]
            own = predicted([other for other in terms if other.phase == term.phase], records)[inside].sum()
            factor = max(float((seconds[inside] - common[inside]).sum() / own), 0.0) if own > 0 else 1.0
        scaled.append(replace(term, seconds=[value * factor for value in term.seconds]))
    return scaled


def _explained(columns: list[_Column], column: _Column, seconds: Array, weight: Array) -> float | None:
    """Share of the variance left without a term that it explains; of a table against one coefficient in its place."""
    if column.by is not None and len(column.at) < 2:
        return None
    inside = column.block.any(axis=1)
    others = [other.block for other in columns if other is not column]
    if column.by is not None:
        others.append(column.block.sum(axis=1, keepdims=True))
    if not others:
        return None
    without = np.concatenate(others, axis=1) * weight[:, None]
    full = np.concatenate([column.block, *others], axis=1) * weight[:, None]
    target = seconds * weight
    left, all_left = (
        (target - system @ np.linalg.lstsq(system, target, rcond=1e-10)[0])[inside] for system in (without, full)
    )
    spread = float(left @ left)
    return max(0.0, 1 - float(all_left @ all_left) / spread) if spread > 0 else None


def _judge(
    phase: str, measured: Measured, aside: npt.NDArray[np.bool_], terms: list[Term], trial: list[Term]
) -> Fit | None:
    """Say how well a phase was met; None if it did not occur."""
    work: Any = work_of(measured.records)
    inside = phases_of(work)[phase]
    if not inside.any():
        return None
    seconds = measured.records["duration_s"][inside]
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    wrong = float(((seconds - predicted(terms, measured.records[inside])) ** 2).sum())
    unseen = inside & aside
    truth = measured.records["duration_s"][unseen]
    guess = predicted(trial, measured.records[unseen])
    ranges = {name: COUNTS[name](work)[inside] for name in ("rows", "slots", "kv")}
    return Fit(
        phase=phase,
        iterations=int(inside.sum()),
        r2=1 - wrong / spread if spread > 0 else None,
        held_out=int(unseen.sum()),
        held_out_error=float(guess.sum() / truth.sum() - 1) if unseen.any() else None,
        held_out_spread=float(np.mean(np.abs(guess / truth - 1))) if unseen.any() else None,
        **{name: [int(values.min()), int(values.max())] for name, values in ranges.items()},
    )
