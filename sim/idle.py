"""Idle computation: what a GPU computed that served no request, and how long live rows were kept waiting."""

from typing import Any

import numpy as np
import numpy.typing as npt

from policies.work import Work
from sim.cost import CostModel, computed_slots
from sim.log import Fields, Slice

Array = npt.NDArray[np.float64]

SLOTS = {
    "prefill_padding": "prefill_padding",
    "finished_rows": "held_rows",
    "insertion_padding": "insertion_padding",
    "recomputation": "recomputed_tokens",
}
"""Causes of idle token slots, and the field of `Work` that counts them."""

CAUSES = {
    "prefill_padding": ("prefill_padding", "prefill_padding_pairs"),
    "insertion_padding": ("insertion_padding", "insertion_padding_pairs"),
    "finished_rows": ("held_rows", "kv_held"),
    "kv_padding": ("kv_padding",),
}
"""Causes of wasted time, and the fields of `Work` that are zero without them."""

RECOMPUTATION = "recomputation"
"""Prefilling what had been computed before and was dropped: wasted time too, but part of useful-looking counts."""

STALL = "stall"


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

    def add(self, records: Slice | Fields, work: Work) -> None:
        """Add records [n] whose mean iterations are `work` [n]."""
        steps = records["steps"].astype(np.float64)
        self.lane_s += float(records["duration_s"].sum())
        cost = self._cost.seconds_each(work)
        for cause, fields in CAUSES.items():
            guilty = np.flatnonzero(sum(getattr(work, field) for field in fields))
            work = _without(work, *fields)
            self._take_away(cause, guilty, work, cost, steps)
        guilty = np.flatnonzero(work.recomputed_tokens)
        work = work._replace(
            prefill_tokens=work.prefill_tokens - work.recomputed_tokens,
            prefill_pairs=work.prefill_pairs - work.recomputed_pairs,
        )
        self._take_away(RECOMPUTATION, guilty, work, cost, steps)
        self._add_stall(records["live_rows"], work, cost, steps)

    def _take_away(self, cause: str, guilty: npt.NDArray[np.int64], less: Work, cost: Array, steps: Array) -> None:
        """Charge the cause with what the guilty iterations cost more than `less`, and lower `cost` by it."""
        if len(guilty):
            cheaper = self._cost.seconds_each(_take(less, guilty))
            self.seconds[cause] += float(((cost[guilty] - cheaper) * steps[guilty]).sum())
            cost[guilty] = cheaper

    def _add_stall(self, live: npt.NDArray[np.int64], work: Any, cost: Array, steps: Array) -> None:
        shared = np.flatnonzero((work.prefill_rows > 0) & (work.lane == 0) & (live > 0))
        alone = work.rows[shared] == 0
        left = _take(work, shared)
        # Launches beyond the first are one per query; without the prefill its queries have none.
        launches = np.maximum(left.attention_launches - left.prefill_rows, np.minimum(left.attention_launches, 1))
        left = _without(left, "prefill_rows", "prefill_tokens", "prefill_pairs", "prefill_kv")._replace(
            attention_launches=launches
        )
        decoding = np.where(alone, 0.0, self._cost.seconds_each(left))
        self.seconds[STALL] += float(((cost[shared] - decoding) * steps[shared]).sum())


def _without(work: Work, *fields: str) -> Work:
    zeros: Any = np.zeros_like(work.rows)
    return work._replace(**dict.fromkeys(fields, zeros))


def _take(work: Work, which: npt.NDArray[np.int64]) -> Work:
    arrays: Any = work
    return Work._make(field[which] for field in arrays)
