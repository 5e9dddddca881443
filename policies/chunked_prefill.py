"""Chunked prefill, as Sarathi-Serve (Agrawal et al., OSDI 2024) proposes it and vLLM v1 schedules it.

Every iteration has a budget of tokens. Requests in flight come first, in the order in which they were admitted: a token
each to those that decode, the next chunk of its prompt to one that is not that far. What is left of the budget goes to
the queue. Nobody is kept waiting by a long prompt for longer than an iteration of so many tokens takes.
"""

from dataclasses import dataclass, field
from typing import Annotated

from policies.checks import Whole
from policies.job import Job
from policies.ledger.paged import Draft
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, CARRY_ON_UNTIL_ARRIVAL, IDLE, Plan
from policies.policy import Policy, Traits
from policies.view import View


@dataclass
class _Step:
    """An iteration that is being put together.

    Attributes:
        budget: Tokens left.
        jobs: Whose prompts are computed in it.
        tokens: How many tokens of each.
        dropped: Who is preempted, the last admitted first.
    """

    budget: int
    jobs: list[Job] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def add(self, job: Job, tokens: int) -> None:
        """Compute so many tokens of a prompt."""
        self.jobs.append(job)
        self.tokens.append(tokens)
        self.budget -= tokens


@dataclass(frozen=True, kw_only=True)
class ChunkedPrefill(Policy):
    """Running requests first, then the queue, up to a budget of tokens; paged KV.

    When blocks run out, the last admitted is dropped, goes to the head of the queue and is recomputed, as far as the
    prefix cache has lost it; nobody is admitted in an iteration that drops somebody. A newcomer that does not fit stops
    those behind it. Its blocks are taken chunk by chunk, and nothing is reserved for its answer.

    Attributes:
        token_budget: Most tokens in one iteration (vLLM: max_num_batched_tokens).
        long_prefill_token_threshold: Most tokens of one prompt in one iteration; None: no such bound.
        reserve_full_prompt: Whether a newcomer is admitted only when its whole prompt fits rather than its first chunk
            (vLLM: scheduler_reserve_full_isl).
        prefix_caching: Whether KV is found again by its content.
    """

    token_budget: Annotated[int, Whole(1)] = 2048
    long_prefill_token_threshold: Annotated[int | None, Whole(1)] = None
    reserve_full_prompt: bool = False
    prefix_caching: bool = True

    @property
    def traits(self) -> Traits:
        """Ragged batches over paged KV, one lane."""
        return Traits("selective_fused", "prefix_cache" if self.prefix_caching else "paged", chunks=True)

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Give the budget to those in flight, then to the queue."""
        draft, rows, waiting = view.draft(), view.rows, view.waiting
        room, budget = self.max_batch - len(view.running), self.token_budget - len(rows)
        all_decode, may_enter = not view.partial and draft.decode(), room > 0 and budget > 0
        if not all_decode or (waiting and may_enter):
            step = _Step(budget) if all_decode else self._go_on(view, draft)
            if waiting and room > 0 and step.budget > 0 and not step.dropped:
                self._admit(view, draft, step, room)
            if step.jobs or step.dropped:
                decode = len(rows) > sum(request in rows for request in step.dropped)
                return Plan(step.jobs, drop=step.dropped, decode=decode, tokens=step.tokens)
        if not rows:
            return IDLE
        # Those that wait have no place or no memory until a row ends, whoever arrives behind them.
        if may_enter and (not waiting or self.order != "fcfs"):
            return CARRY_ON_UNTIL_ARRIVAL
        return CARRY_ON_THROUGH_ARRIVALS

    def _chunk(self, left: int, budget: int) -> int:
        """Tokens to compute of a prompt of which so many are left."""
        return min(left, budget, self.long_prefill_token_threshold or left)

    def _go_on(self, view: View, draft: Draft) -> _Step:
        """Let those in flight go on, one after the other; who comes last makes room where memory is short.

        The budget lasts for everybody: nobody asks for more tokens than it got in the iteration before, except for the
        last admitted, whose chunk the budget may have cut short.
        """
        step = _Step(self.token_budget)
        running, place = list(view.running.values()), 0
        while place < len(running):
            job = running[place]
            before, in_prefill = view.length(job.id), job.id in view.partial
            tokens = self._chunk(view.prefill_length(job) - before, step.budget) if in_prefill else 1
            while len(running) > place and not draft.grow(job, before, tokens):
                victim = running.pop()
                draft.drop(victim, view.length(victim.id))
                step.dropped.append(victim.id)
            if len(running) == place:
                break  # it was itself the last
            if in_prefill:
                step.add(job, tokens)
            else:
                step.budget -= 1
            place += 1
        return step

    def _admit(self, view: View, draft: Draft, step: _Step, room: int) -> None:
        """Admit from the queue's head what budget, rows and memory allow."""
        for job in view.waiting:
            if not room or not step.budget:
                return
            length = view.prefill_length(job)
            found = draft.found(job, length)
            tokens = self._chunk(length - found, step.budget)
            if not draft.admit(job, found, tokens, length if self.reserve_full_prompt else 0):
                return
            step.add(job, tokens)
            room -= 1
