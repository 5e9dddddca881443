"""The loop on one lane: ask, begin, run, commit, one iteration after the other.

Nothing else can happen while the only lane runs, so it needs no event. What a policy has promised is not asked: the
iterations that follow are run at once, as far as the promise goes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.job import Job
from policies.ledger.chunks import Lookups
from policies.ledger.ledger import Ledger
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, CARRY_ON_UNTIL_ARRIVAL, THROUGH_ARRIVALS, UNTIL_ARRIVAL, Plan
from policies.policy import Policy
from policies.view import View
from sim.cost.device import CostModel
from sim.engine.arrivals import source_of
from sim.engine.captured import counting
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import IterationLog
from sim.engine.layouts import Step
from sim.engine.request_log import Answers
from sim.engine.stretch import elapsed, steps_until
from workloads.requests import Requests

DECODE, PREFILL = 0, 1


class Loop(ABC):
    """Runs a policy on a ledger; whoever has a clock says how to sleep and how to send.

    Attributes:
        ledger: The state machine.
        answers: The true output lengths, and what became of every request.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        cost: CostModel,
        log: IterationLog,
        ledger: Ledger,
        stretch: bool,
        frontend_s: float = 0.0,
        execution: Execution = EAGER,
        warm_up: int = 0,
    ) -> None:
        """Prepare a run; see `sim.engine.engine.Engine`."""
        self._frontend_s = frontend_s
        self.ledger = ledger
        self.answers = Answers(requests, policy.traits.release_with_batch)
        self._policy = policy
        self._traits = policy.traits
        self._view = View(ledger)
        self._cost = cost
        self._count, self._count_step, self._dummies, self._window_left = counting(self._traits, execution)
        self._log = log
        self._stretch = stretch
        self._trusts = stretch and not ledger.book.grows and not self._traits.concatenates
        self._source = source_of(requests, frontend_s)
        self._closed_loop = requests.concurrency is not None
        self._now = 0.0
        self._release_with_batch = self._traits.release_with_batch
        self._decoded_s = 0.0
        self._warming = warm_up or -1
        """First prefills that the warm-up still waits for; negative: it is over, or there is none."""

    @abstractmethod
    def _sleep(self, lane: int, plan: Plan) -> None:
        """Leave a lane idle until its policy is to be asked again."""

    @abstractmethod
    def _send(self, jobs: Sequence[Job]) -> None:
        """Send the KV of jobs that were prefilled on another GPU."""

    def _run_alone(self) -> None:
        """Run the only lane until it idles. Nothing else can happen in the meantime, so no event is needed."""
        ask, view, source = self._policy.plan, self._view, self._source
        promised: Plan | None = None
        while True:
            now = self._now
            if source.next_s <= now:
                self._admit(now)
            plan = promised or ask(view, now, DECODE)
            prefill, insert, park, drop, decode, _, _, _, _ = plan
            if decode and not prefill:
                promised = None
                self._decode(plan, now)
            elif prefill or insert or park or drop:
                promised = self._run_once(plan, now)
            else:
                return self._sleep(DECODE, plan)

    def _warm(self, plan: Plan) -> None:
        """A plan is about to begin: count anew if its first prefill is the first that is not the warm-up's."""
        begun = self.answers.first_scheduled_s
        self._warming -= sum(math.isnan(begun[job.id]) for job in plan.prefill)
        if self._warming < 0:
            self._count_anew()

    def _count_anew(self) -> None:
        """Forget what was counted over time so far; see `sim.metrics.warm_up`."""
        ledger = self.ledger
        ledger.stretch_peak = 0
        ledger.chunks.admitted = ledger.chunks.readmitted = Lookups(0, 0)

    def _rearranged(self, plan: Plan) -> None:
        """Rows have joined or left the batch as a plan began."""
        _, insert, park, drop, _, _, _, _, _ = plan
        clock = self.ledger.batch.clock
        if park or drop:
            self.answers.interrupted([*park, *drop], clock, self._decoded_s)
        if insert:
            self.answers.joined(insert, clock)

    def _run_once(self, plan: Plan, now: float) -> Plan | None:
        """Run one iteration; return the answer to the next ask, if the plan has promised it."""
        ledger = self.ledger
        if self._warming >= 0:
            self._warm(plan)
        ledger.begin(DECODE, plan)
        if plan[1] or plan[2] or plan[3]:
            self._rearranged(plan)
        work, book = self._count(ledger, plan, DECODE), ledger.book
        seconds = self._cost.seconds(work)
        kv, live = book.used + book.transient, len(ledger.batch.rows)
        self._now = end = now + seconds
        self._log.add(now, seconds, seconds, 1, len(ledger.waiting), kv, live, work)
        if self._commit(DECODE, plan, now, 1, end) or not self._is_steady(plan, end):
            return None
        return CARRY_ON_THROUGH_ARRIVALS if plan[7] is THROUGH_ARRIVALS else CARRY_ON_UNTIL_ARRIVAL

    def _is_steady(self, plan: Plan, now: float) -> bool:
        """Whether a plan whose first iteration ended no request, at `now`, still promises to be carried on."""
        steady = plan[7]
        if not steady or not self._trusts or plan[6] < math.inf:
            return False
        return steady is THROUGH_ARRIVALS or now < self._source.next_s

    def _decode(self, plan: Plan, now: float) -> None:
        """Run an iteration without prefill, and those that are promised to follow."""
        ledger, answers = self.ledger, self.answers
        ledger.begin(DECODE, plan)
        rearranged = plan[1] or plan[2] or plan[3]
        if rearranged:
            self._rearranged(plan)
        batch, book = ledger.batch, ledger.book
        most, step = answers.next_finish - batch.clock, self._count_step(ledger)
        if (
            rearranged or book.copied or (ledger.inserted and self._cost.counts_insertions)
        ):  # those that follow are like each other, but not like this one
            moved = book.copied, ledger.host_tokens, book.transient
            steps = self._run_steps(plan, now, 1, step, ledger.inserted, *moved)
            if most > 1 and self._is_steady(plan, self._now):
                if self._source.next_s <= self._now:
                    self._admit(self._now)
                most = most - 1 if self._window_left is None else min(most - 1, self._window_left(ledger, 2))
                steps += self._run_steps(plan, self._now, most, self._count_step(ledger, 2))
        else:
            if not plan[7] or not self._stretch:
                most = 1
            elif book.grows:
                most = min(most, 1 + book.further_steps())
            if self._window_left is not None:
                most = min(most, self._window_left(ledger, 1))
            steps = self._run_steps(plan, now, most, step, ledger.inserted)
        self._decoded_s = end = self._now
        ended = answers.ending(batch.clock + steps, end)
        ledger.commit(DECODE, ended, steps)
        if ended:
            self._leave(ended, end)

    def _run_steps(
        self,
        plan: Plan,
        now: float,
        most: int,
        step: Step,
        inserted: int = 0,
        copied: int = 0,
        host: int = 0,
        transient: int = 0,
    ) -> int:
        """Run and log at most so many iterations like `step` in a row; return how many."""
        ledger, cost = self.ledger, self._cost
        rows, held, kv, kv_held, padding, launches = step
        computed, read, recorded = rows + held, kv + kv_held + padding, self._dummies
        if recorded:
            dummies, kv_dummy = recorded(ledger, step)
            computed, read = computed + dummies, read + kv_dummy
        added = 0 if most <= 1 or self._window_left else rows + held
        first, growth, alike = cost.decode_steps(computed, read, added, launches, copied, host, inserted)
        seconds = first
        if most > 1:
            most = self._steps(plan, now, first, growth, most if most < alike else int(alike))
            seconds = elapsed(first, growth, most)
        else:
            most = 1
        self._now = now + seconds
        waiting, used = len(ledger.waiting), ledger.book.used + transient
        if recorded:
            self._log.add_recorded(
                now, seconds, first, most, waiting, used, rows, self._window_left is not None,
                DECODE, rows, held, inserted, kv, kv_held, padding, copied, host, launches, dummies, kv_dummy,
            )  # fmt: skip
        else:
            self._log.add_decode(
                now, seconds, first, most, waiting, used, rows,
                DECODE, rows, held, inserted, kv, kv_held, padding, copied, host, launches,
            )  # fmt: skip
        return most

    def _steps(self, plan: Plan, start: float, first: float, growth: float, steps: int) -> int:
        """How many of the `steps` iterations until a row ends or memory does a promise lasts.

        The first of them takes `first` seconds, each later one `growth` longer.
        """
        _, _, _, _, _, _, until, steady, _ = plan
        if steady is UNTIL_ARRIVAL and self._source.next_s < until:
            until = self._source.next_s
        if until < math.inf and until < start + elapsed(first, growth, steps):
            steps = min(steps, steps_until(first, growth, until - start))
        return steps

    def _commit(self, lane: int, plan: Plan, start: float, steps: int, now: float) -> bool:
        """Close the iterations of a plan; return whether a request has ended."""
        ledger, answers = self.ledger, self.answers
        prefill, _, _, _, decode, apart, _, _, tokens = plan
        ended: list[int] = []
        clock = ledger.batch.clock
        if decode:
            clock += steps
            self._decoded_s = now
            ended = answers.ending(clock, now)
        if prefill:
            if tokens:
                answers.scheduled(prefill, start)
                prefill = ledger.chunks.completed(plan)
            ended += answers.prefilled(prefill, None if tokens else start, now, None if apart else clock)
            ledger.commit(lane, ended, steps)
            if ledger.sending:
                self._send([job for job in prefill if job[0] in ledger.sending])
        else:
            ledger.commit(lane, ended, steps)
        if ended:
            self._leave(ended, now)
            return True
        return False

    def _leave(self, ended: list[int], now: float) -> None:
        """Answers have ended: count them, unless they leave with their batch, which may do so now."""
        if self._release_with_batch:
            ended = self.answers.released(ended, now, bool(self.ledger.batch.rows))
        self.answers.finished += len(ended)
        if self._closed_loop:
            self._source.left(len(ended), now)

    def _admit(self, now: float) -> None:
        while self._source.next_s <= now:
            jobs = self._source.take(now)
            if self._closed_loop:
                for job in jobs:
                    self.answers.arrival_s[job.id] = job.arrival_s - self._frontend_s
            rejected = self.ledger.submit(jobs)
            if rejected:
                self.answers.rejected.update(job.id for job in rejected)
                self._source.left(len(rejected), now)
