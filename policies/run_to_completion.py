"""Static batching: form a batch, run it until its longest answer ends, form the next."""

from dataclasses import dataclass
from typing import Annotated, Literal

from policies.checks import Number
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, IDLE, Plan
from policies.policy import Policy, Traits
from policies.view import View


@dataclass(frozen=True, kw_only=True)
class RunToCompletion(Policy):
    """Pad the prompts of up to `max_batch` requests to the longest and decode until the last of them ends.

    Finished rows keep computing, arrivals wait for the whole batch, and KV is held for the whole rectangle.

    Attributes:
        max_wait: Seconds that the oldest request may wait for the batch to fill.
        release: `batch`: answers leave with the batch, the classic; `early`: tokens are streamed.
    """

    max_wait: Annotated[float, Number(0)] = 0.0
    release: Literal["batch", "early"] = "batch"

    @property
    def traits(self) -> Traits:
        """A static rectangle on one lane."""
        return Traits("static", "static", hold_finished=True, release_with_batch=self.release == "batch")

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Carry a running batch on; when idle, take the queue's head once it is full or has waited enough."""
        if view.rows:
            return CARRY_ON_THROUGH_ARRIVALS
        if not view.waiting:
            return IDLE
        jobs = view.admissible(self.max_batch)
        if self.max_wait and len(jobs) == len(view.waiting) < self.max_batch:
            oldest = min(job.arrival_s for job in jobs)
            if now < oldest + self.max_wait:
                return Plan(ask_at=oldest + self.max_wait)
        return Plan(prefill=jobs)
