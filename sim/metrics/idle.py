"""Idle computation: what a GPU computed that served no request, and how long live rows were kept waiting."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cost.device import CostModel, computed_slots
from sim.cost.work import Work
from sim.engine.iteration_log import Fields, Slice

Array = npt.NDArray[np.float64]

SLOTS = {
    "prefill_padding": "prefill_padding",
    "finished_rows": "held_rows",
    "insertion_padding": "insertion_padding",
    "bucket_dummies": "dummy_rows",
    "recomputation": "recomputed_tokens",
}
"""Causes of idle token slots, and the field of `Work` that counts them."""

CAUSES = {
    "prefill_padding": ("prefill_padding", "prefill_padding_pairs"),
    "insertion_padding": ("insertion_padding", "insertion_padding_pairs"),
    "finished_rows": ("held_rows", "kv_held"),
    "kv_padding": ("kv_padding",),
    "bucket_dummies": ("dummy_rows", "kv_dummy"),
}
"""Causes of wasted time, and the fields of `Work` that are zero without them."""

RECOMPUTATION = "recomputation"
"""Prefilling what had been computed before and was dropped: wasted time too, but part of useful-looking counts."""

STALL = "stall"


class Losses(NamedTuple):
    """What iterations [n] lost to each cause, in seconds, and what is left of their cost.

    Attributes:
        by_cause: float64 [n] of each cause; None where no iteration lost anything to it.
        useful: float64 [n], the cost without all losses.
    """

    by_cause: dict[str, Array | None]
    useful: Array

    def of(self, which: npt.NDArray[np.bool_]) -> "Losses":
        """Return those of some of the iterations."""
        some = {cause: None if lost is None else lost[which] for cause, lost in self.by_cause.items()}
        return Losses(some, self.useful[which])


class IdleTokens:
    """Sums the token slots that were computed, and those of them that served no request.

    Attributes:
        slots: All computed slots.
        idle: Idle slots by cause.
    """

    def __init__(self) -> None:
        self.slots = 0
        self.idle = dict.fromkeys(SLOTS, 0)

    def add(self, work: Work, steps: Array) -> None:
        """Add iterations: `steps` [n] times each `work` [n]."""
        self.slots += round((computed_slots(work) * steps).sum())
        for cause, field in SLOTS.items():
            self.idle[cause] += round((getattr(work, field) * steps).sum())


class IdleTime:
    """Sums the time lost to each cause: cost(work) - cost(work without it).

    The causes are taken away one after the other, in the order of `CAUSES`, and the stall last. In every layout at
    most one of them shares the non-linear part of the cost with another, so the order does not matter there; what it
    ensures everywhere is that no second is counted twice and the parts sum to at most the whole.

    A stall is time during which live rows got no token, or got it later, because others were prefilled on their
    lane: what is left of the whole iteration if it only prefilled, else what is left of its prefill. A prefill on a
    lane of its own stalls nobody: where two lanes share a GPU, each slows the other, which is in the durations alone.

    Attributes:
        seconds: Time lost, by cause.
        lane_s: Duration of all iterations, lane by lane: what the shares are taken of.
    """

    def __init__(self, cost: CostModel) -> None:
        self.seconds = dict.fromkeys((*CAUSES, RECOMPUTATION, STALL), 0.0)
        self.lane_s = 0.0
        self._cost = cost

    def add(self, records: Slice | Fields, work: Work, losses: Losses | None = None) -> None:
        """Add records [n] whose mean iterations are `work` [n]; their losses are computed unless they are known."""
        steps = records["steps"].astype(np.float64)
        self.lane_s += float(records["duration_s"].sum())
        for cause, lost in (losses or self.losses(records, work)).by_cause.items():
            if lost is not None:
                self.seconds[cause] += float((lost * steps).sum())

    def losses(self, records: Slice | Fields, work: Work) -> Losses:
        """Return what each of the mean iterations `work` [n] of records [n] lost."""
        cost = self._cost.seconds_each(work)
        by_cause: dict[str, Array | None] = {}
        for cause, fields in CAUSES.items():
            guilty = np.flatnonzero(sum(getattr(work, field) for field in fields))
            work = without_waste(work, *fields)
            by_cause[cause] = self._take_away(guilty, work, cost)
        guilty = np.flatnonzero(work.recomputed_tokens)
        work = work._replace(
            prefill_tokens=work.prefill_tokens - work.recomputed_tokens,
            prefill_pairs=work.prefill_pairs - work.recomputed_pairs,
        )
        by_cause[RECOMPUTATION] = self._take_away(guilty, work, cost)
        by_cause[STALL] = self._take_stall(records["live_rows"], work, cost)
        return Losses(by_cause, cost)

    def _take_away(self, guilty: npt.NDArray[np.int64], less: Work, cost: Array) -> Array | None:
        """Return what the guilty iterations cost more than `less`, and lower `cost` by it; None if none is guilty."""
        if not len(guilty):
            return None
        lost = np.zeros(len(cost))
        cheaper = self._cost.seconds_each(_take(less, guilty))
        lost[guilty] = cost[guilty] - cheaper
        cost[guilty] = cheaper
        return lost

    def _take_stall(self, live: npt.NDArray[np.int64], work: Any, cost: Array) -> Array:
        shared = np.flatnonzero((work.prefill_rows > 0) & (work.lane == 0) & (live > 0))
        alone = work.rows[shared] == 0
        left = _take(work, shared)
        launches = _fewer_launches(left, left.prefill_rows)
        left = _without(left, "prefill_rows", "prefill_tokens", "prefill_pairs", "prefill_kv")._replace(
            attention_launches=launches
        )
        decoding = np.where(alone, 0.0, self._cost.seconds_each(left))
        lost = np.zeros(len(cost))
        lost[shared] = cost[shared] - decoding
        cost[shared] = decoding
        return lost


def without_waste(work: Work, *fields: str) -> Work:
    """Return many iterations without what the fields of a cause in `CAUSES` count."""
    if "dummy_rows" in fields:
        work = work._replace(attention_launches=_fewer_launches(work, work.dummy_rows))
    return _without(work, *fields)


def _fewer_launches(work: Any, queries: Any) -> Any:
    """Attention launches without so many queries: those beyond the first are one per query."""
    return np.maximum(work.attention_launches - queries, np.minimum(work.attention_launches, 1))


def _without(work: Work, *fields: str) -> Work:
    zeros: Any = np.zeros_like(work.rows)
    return work._replace(**dict.fromkeys(fields, zeros))


def _take(work: Work, which: npt.NDArray[np.int64]) -> Work:
    arrays: Any = work
    return Work._make(field[which] for field in arrays)
