"""Prefill first, in the style of vLLM v0: newcomers are prefilled alone, as soon as they fit; else everybody decodes.

It schedules almost as inline BATON does; what differs is the layout: paged KV, no padding, no copy.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from policies.checks import Whole
from policies.job import Job
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, CARRY_ON_UNTIL_ARRIVAL, IDLE, Plan
from policies.policy import Policy, Traits
from policies.view import View


@dataclass(frozen=True, kw_only=True)
class PrefillFirst(Policy):
    """Prefill iterations take precedence; when blocks run out the newest row is dropped, and recomputed later.

    Attributes:
        max_batched_tokens: Most prompt tokens in one prefill iteration; a longer prompt is prefilled alone.
        prefix_caching: Whether KV is found again by its content.
    """

    max_batched_tokens: Annotated[int, Whole(1)] = 8192
    prefix_caching: bool = False

    @property
    def traits(self) -> Traits:
        """Ragged batches over paged KV, one lane; what a prompt has beyond a prefix that is found is a chunk."""
        if self.prefix_caching:
            return Traits("selective_fused", "prefix_cache", chunks=True)
        return Traits("selective_fused", "paged")

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Drop what overflows; else prefill what fits; else decode."""
        leaving = view.overflow() if view.rows else 0
        if leaving:
            newest = list(view.rows)[-leaving:]
            return Plan(drop=newest, decode=leaving < len(view.rows))
        room = self.max_batch - len(view.rows)
        if room > 0 and view.waiting:
            plan = self._prefill(view, room)
            if plan.prefill:
                return plan
        if not view.rows:
            return IDLE
        arrivals_matter = room > 0 and (not view.waiting or self.order != "fcfs")
        return CARRY_ON_UNTIL_ARRIVAL if arrivals_matter else CARRY_ON_THROUGH_ARRIVALS

    def _prefill(self, view: View, room: int) -> Plan:
        """Prefill those that fit, each with room for its next token."""
        if not self.prefix_caching:
            return Plan(self._within_budget(view, view.admissible(room)))
        draft, jobs, chunks = view.draft(), list[Job](), list[int]()
        for job in islice(view.waiting, room):
            length = view.prefill_length(job)
            found = draft.found(job, length)
            tokens = length - found
            too_many = jobs and sum(chunks) + tokens > self.max_batched_tokens
            if too_many or not draft.admit(job, found, tokens + (length < draft.limit)):
                break
            jobs.append(job)
            chunks.append(tokens)
        return Plan(jobs, tokens=chunks)

    def _within_budget(self, view: View, jobs: list[Job]) -> list[Job]:
        tokens = 0
        for count, job in enumerate(jobs):
            tokens += view.prefill_length(job)
            if tokens > self.max_batched_tokens and count:
                return jobs[:count]
        return jobs
