"""Orca: schedule every iteration (Yu et al., OSDI 2022, Algorithm 1)."""

from dataclasses import dataclass
from typing import Literal

from policies.checks import InputError
from policies.plan import (
    CARRY_ON_THROUGH_ARRIVALS,
    CARRY_ON_UNTIL_ARRIVAL,
    IDLE,
    NOT,
    THROUGH_ARRIVALS,
    UNTIL_ARRIVAL,
    Plan,
    prefilling,
)
from policies.policy import Policy, Traits
from policies.view import View


@dataclass(frozen=True, kw_only=True)
class Orca(Policy):
    """Newcomers join at every iteration, their whole prompts computed beside everybody's decode.

    Each newcomer reserves prompt + max_new_tokens of KV; admission stops at the first that does not fit.

    Attributes:
        layout: `selective`: flattened tokens through the linear layers, attention per request; `rectangular`:
            newcomers are padded into the batch.
        attention: Of the selective layout: `fused` (one kernel per layer) or `per_request` (one per query and layer).
    """

    layout: Literal["selective", "rectangular"] = "selective"
    attention: Literal["fused", "per_request"] = "fused"

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, too."""
        super().__post_init__()
        if self.layout == "rectangular" and self.attention != "fused":
            raise InputError("policy.attention=per_request needs policy.layout=selective: a rectangle has one kernel")

    @property
    def traits(self) -> Traits:
        """One lane; reserved slots, or a rectangle."""
        if self.layout == "rectangular":
            return Traits("shared_rectangle", "rectangle")
        return Traits("selective_fused" if self.attention == "fused" else "selective_per_request", "slots")

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Admit from the queue's head what has a place and fits, and decode everybody else."""
        if self.order != "fcfs" and self.layout == "selective":
            return self._reorder(view)
        room, waiting = self.max_batch - len(view.rows), len(view.waiting)
        newcomers = view.admissible(room) if room > 0 and waiting else []
        if not newcomers and not view.rows:
            return IDLE
        # Those that stay behind have no place, or do not fit before a row finishes; a job that arrives may.
        arrivals_matter = room > len(newcomers) and (waiting == len(newcomers) or self.order != "fcfs")
        if newcomers:
            steady = UNTIL_ARRIVAL if arrivals_matter else THROUGH_ARRIVALS
            if self.layout == "rectangular" and len(newcomers) < min(room, waiting):
                steady = NOT  # the rectangle that they were moved to may be smaller, and leave room for more
            return prefilling(newcomers, bool(view.rows), False, steady)
        return CARRY_ON_UNTIL_ARRIVAL if arrivals_matter else CARRY_ON_THROUGH_ARRIVALS

    def _reorder(self, view: View) -> Plan:
        """Give the turns to the first of the whole pool; a row that loses its turn keeps its reservation."""
        in_flight = [job for job, _ in view.rows.values()] + [job for job, _ in view.parked.values()]
        pool = sorted([*in_flight, *view.admissible(self.max_batch)], key=view.key)
        turns = {job.id: job for job in pool[: self.max_batch]}
        park = [request for request in view.rows if request not in turns]
        insert = [request for request in view.parked if request in turns]
        prefill = [job for request, job in turns.items() if request not in view.rows and request not in view.parked]
        if not turns:
            return IDLE
        decode = len(turns) > len(prefill)
        return Plan(prefill, insert, park, decode=decode, steady=UNTIL_ARRIVAL)
