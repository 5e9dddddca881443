"""Prefill first, in the style of vLLM v0: newcomers are prefilled alone, as soon as they fit; else everybody decodes.

It schedules almost as inline BATON does; what differs is the layout: paged KV, no padding, no copy.
"""

from dataclasses import dataclass

from policies.job import Job
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, CARRY_ON_UNTIL_ARRIVAL, IDLE, Plan
from policies.policy import Policy, Traits, require_positive
from policies.view import View


@dataclass(frozen=True, kw_only=True)
class PrefillFirst(Policy):
    """Prefill iterations take precedence; when blocks run out the newest row is dropped, and recomputed later.

    Attributes:
        max_batched_tokens: Most prompt tokens in one prefill iteration; a longer prompt is prefilled alone.
    """

    max_batched_tokens: int = 8192

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        require_positive("max_batched_tokens", self.max_batched_tokens)

    @property
    def traits(self) -> Traits:
        """Ragged batches over paged KV, one lane."""
        return Traits("selective_fused", "paged")

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Drop what overflows; else prefill what fits; else decode."""
        leaving = view.overflow() if view.rows else 0
        if leaving:
            newest = list(view.rows)[-leaving:]
            return Plan(drop=newest, decode=leaving < len(view.rows))
        room = self.max_batch - len(view.rows)
        if room > 0 and view.waiting:
            group = self._within_budget(view, view.admissible(room))
            if group:
                return Plan(group)
        if not view.rows:
            return IDLE
        arrivals_matter = room > 0 and (not view.waiting or self.order != "fcfs")
        return CARRY_ON_UNTIL_ARRIVAL if arrivals_matter else CARRY_ON_THROUGH_ARRIVALS

    def _within_budget(self, view: View, jobs: list[Job]) -> list[Job]:
        tokens = 0
        for count, job in enumerate(jobs):
            tokens += view.prefill_length(job)
            if tokens > self.max_batched_tokens and count:
                return jobs[:count]
        return jobs
