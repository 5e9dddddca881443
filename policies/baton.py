"""BATON: re-batch a rectangular batch while it runs (Cong, Chen, Zhao, Yang; arXiv 2410.18701)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from policies.checks import InputError, Whole
from policies.plan import (
    CARRY_ON_THROUGH_ARRIVALS,
    CARRY_ON_UNTIL_ARRIVAL,
    IDLE,
    IDLE_THROUGH_ARRIVALS,
    NOT,
    THROUGH_ARRIVALS,
    UNTIL_ARRIVAL,
    Plan,
    Steady,
    inserting,
    prefilling,
)
from policies.policy import Layout, Policy, Traits
from policies.view import View

PREFILL_LANE = 1


@dataclass(frozen=True, kw_only=True)
class Baton(Policy):
    """Prefill newcomers apart as one padded group, embed their KV into the batch at the next boundary.

    Finished rows leave at once and the window is trimmed to the longest live row. A group that meets an empty batch
    is prefilled in place.

    Attributes:
        prefill: `inline`: in turn with the batch; `overlapped`: beside it on the same GPU; `dedicated`: on another
            GPU, with the KV sent over a link.
        reserve: `max`: the rectangle has room for prompt + max_new_tokens of every row; `window`: for what is there,
            and on overflow the newest rows are parked in host memory and resume before newcomers are taken.
        max_prefill: Most requests in one prefilled group; None for no bound.
        prefill_ahead: How many requests may be prefilled before there is a row for them.
        embedding: `in_place`: a newcomer's KV is copied into a row of the batch; `direct`: it is prefilled in its row,
            without a copy; `concatenate`: the batch is one tensor that is made anew at every step, the control.
        attention: What decode reads of a row: `padded`: the window of the longest, which is BATON as published;
            `ragged`: its own tokens alone, by a length per row, which is ours.
    """

    prefill: Literal["inline", "overlapped", "dedicated"] = "inline"
    reserve: Literal["max", "window"] = "max"
    max_prefill: Annotated[int | None, Whole(1)] = None
    prefill_ahead: Annotated[int, Whole(0)] = 0
    embedding: Literal["in_place", "direct", "concatenate"] = "in_place"
    attention: Literal["padded", "ragged"] = "padded"

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, too."""
        super().__post_init__()
        if self.embedding == "direct" and (self.prefill != "inline" or self.prefill_ahead):
            raise InputError(
                "policy.embedding=direct needs policy.prefill=inline and policy.prefill_ahead=0: rows only"
            )
        if self.embedding == "concatenate" and self.reserve != "max":
            raise InputError("policy.embedding=concatenate needs policy.reserve=max: its batch parks no rows")
        if self.embedding == "concatenate" and self.attention != "padded":
            raise InputError(
                "policy.attention=ragged needs policy.embedding=in_place or direct: a batch that stays put"
            )

    @property
    def traits(self) -> Traits:
        """A rectangle, on one lane or two."""
        lanes: dict[str, Literal["one", "shared", "separate"]] = {
            "inline": "one",
            "overlapped": "shared",
            "dedicated": "separate",
        }
        concatenates = self.embedding == "concatenate"
        layout: Layout = "rectangle" if self.attention == "padded" else "ragged_rectangle"
        return Traits(layout, "rectangle", self.reserve, lanes[self.prefill], concatenates=concatenates)

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Shape the batch, then prefill, then carry on; with two lanes, prefill has its own."""
        if lane == PREFILL_LANE:
            return self._group(view) or (IDLE if self._heeds_arrivals(view) else IDLE_THROUGH_ARRIVALS)
        plan = self._shaping(view) if view.ready or self.reserve == "window" else None
        if plan is None and self.prefill == "inline":
            plan = self._group(view)
        return plan or self._carry_on(view)

    def _shaping(self, view: View) -> Plan | None:
        """Park what overflows; else embed what is ready; else resume what was parked."""
        if self.reserve == "window" and view.rows:
            leaving = view.overflow()
            if leaving:
                newest = list(view.rows)[-leaving:]
                return Plan(park=newest, decode=leaving < len(view.rows))
        if view.ready:
            free_rows = self.max_batch - len(view.rows)
            if free_rows:
                return inserting(list(view.ready)[:free_rows], self._steady_once_inserted(view))
        elif view.parked:
            resumable = view.resumable()
            if resumable:
                return Plan(insert=list(view.parked)[:resumable], decode=True)
        return None

    def _steady_once_inserted(self, view: View) -> Steady:
        """How long nothing changes after a batch without preemption was given its ready rows."""
        if self.prefill != "inline" or self.reserve != "max":
            return NOT
        if self._free_places(view) <= 0:
            return THROUGH_ARRIVALS
        return NOT if view.waiting else UNTIL_ARRIVAL

    def _free_places(self, view: View) -> int:
        return self.max_batch + self.prefill_ahead - len(view.rows) - view.beside

    def _group(self, view: View) -> Plan | None:
        """All waiting requests that have a free row, or a place ahead, and memory."""
        if not view.waiting or view.parked:
            return None
        beside = view.beside
        room = self.max_batch - len(view.rows) - beside
        apart = self.prefill == "dedicated" or (self.embedding != "direct" and bool(view.rows or beside))
        if apart:
            room += self.prefill_ahead
        if room <= 0:
            return None
        if self.max_prefill is not None:
            room = min(room, self.max_prefill)
        group = view.admissible(room, apart)
        return prefilling(group, False, apart) if group else None

    def _carry_on(self, view: View) -> Plan:
        if not view.rows:
            return IDLE
        heeds_arrivals = self.prefill == "inline" and self._heeds_arrivals(view)
        return CARRY_ON_UNTIL_ARRIVAL if heeds_arrivals else CARRY_ON_THROUGH_ARRIVALS

    def _heeds_arrivals(self, view: View) -> bool:
        """Whether a job that arrives now could be prefilled, though none that waits can."""
        if view.parked or (view.waiting and self.order == "fcfs"):
            return False
        return self._free_places(view) > 0
