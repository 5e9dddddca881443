"""The loop on one lane: view, plan, begin, run, commit, one stretch of iterations after the other.

Nothing else can happen while the only lane runs, so it needs no event. What a policy has promised is not asked: the
iterations that follow are run at once, as far as the promise goes.
"""

import math
from abc import ABC, abstractmethod

from policies.ledger.chunks import Lookups
from policies.ledger.ledger_view import LedgerView
from policies.plan import CARRY_ON_THROUGH_ARRIVALS, CARRY_ON_UNTIL_ARRIVAL, THROUGH_ARRIVALS, UNTIL_ARRIVAL, Plan
from policies.policy import Policy
from sim.cost.device import CostModel, Steps
from sim.engine.bookkeeping import Bookkeeping
from sim.engine.captured import counting
from sim.engine.execution import Execution
from sim.engine.iteration_log import IterationLog
from sim.engine.stretch import elapsed, steps_until

DECODE, PREFILL = 0, 1


class Loop(ABC):
    """Runs a policy on a ledger; whoever has a clock says how to sleep.

    Attributes:
        ledger: The state machine.
        request_log: The true output lengths, and what became of every request.
    """

    def __init__(
        self,
        books: Bookkeeping,
        policy: Policy,
        cost: CostModel,
        log: IterationLog,
        stretch: bool,
        execution: Execution,
        warm_up: int,
    ) -> None:
        """Prepare a run; see `sim.engine.engine.Engine`."""
        traits = policy.traits
        self.ledger = books.ledger
        self.request_log = books.request_log
        self._books = books
        self._arrivals = books.arrivals
        self._policy = policy
        self._view = LedgerView(books.ledger)
        self._cost = cost
        self._count, self._count_decode, self._window_left = counting(traits, execution)
        self._fixed_window = self._window_left is not None
        self._log = log
        self._stretches = stretch
        self._trusts = stretch and not books.ledger.book.grows and not traits.concatenates
        self._now = 0.0
        self._warming = warm_up or -1
        """First prefills that the warm-up still waits for; negative: it is over, or there is none."""

    @abstractmethod
    def _sleep(self, lane: int, plan: Plan) -> None:
        """Leave a lane idle until its policy is to be asked again."""

    def _run_alone(self) -> None:
        """Run the only lane until it idles."""
        policy, view, books, arrivals = self._policy, self._view, self._books, self._arrivals
        promised: Plan | None = None
        while True:
            now = self._now
            if arrivals.next_s <= now:
                books.admit(now)
            plan = promised or policy.plan(view, now, DECODE)
            if plan.decode and not plan.prefill:
                promised = self._decode(plan, now)
            elif plan.prefill or plan.acts:
                promised = self._iterate(plan, now)
            else:
                return self._sleep(DECODE, plan)

    def _iterate(self, plan: Plan, now: float) -> Plan | None:
        """Begin, run and commit one iteration; return the answer to the next ask, if it is promised."""
        books, ledger, book = self._books, self.ledger, self.ledger.book
        if self._warming >= 0:
            self._warm(plan)
        books.begin(DECODE, plan)
        work = self._count(ledger, plan, DECODE)
        seconds = self._cost.seconds(work)
        kv, live = book.used + book.transient, len(ledger.batch.rows)
        self._log.append((now, seconds, seconds, 1, len(ledger.waiting), kv, live, False), work)
        self._now = end = now + seconds
        ended = books.commit(DECODE, plan, now, end)
        return None if ended or not plan.steady else self._promised(plan, end)

    def _decode(self, plan: Plan, now: float) -> Plan | None:
        """Begin, run and commit a stretch that only decodes; return the answer to the next ask, if it is promised.

        It makes no `Work`, unlike `_iterate`, and no `Stretch`, which two lanes need. With both, a run takes 1.05 times
        as long (chunked prefill) to 1.3 times (run to completion).
        """
        books, ledger, book, cost = self._books, self.ledger, self.ledger.book, self._cost
        rearranged = books.begin(DECODE, plan)
        work = self._count_decode(ledger)
        rows, held, inserted, kv, kv_held, padding, copied, host, launches, dummies, kv_dummy = work
        computed, read = rows + held + dummies, kv + kv_held + padding + kv_dummy
        alike = not (rearranged or copied or (inserted and cost.counts_insertions))
        goes_on = alike and self._stretches and plan.steady
        added = rows + held if goes_on and not self._fixed_window else 0
        price = cost.decode_steps(computed, read, added, launches, copied, host, inserted)
        first, growth, _ = price
        steps, seconds = 1, first
        if goes_on:
            steps = self._extent(plan, now, price)
            seconds = elapsed(first, growth, steps)
        kv = book.used + book.transient
        self._log.append_decode((now, seconds, first, steps, len(ledger.waiting), kv, rows, self._fixed_window), work)
        self._now = end = now + seconds
        ended = books.commit(DECODE, plan, now, end, steps)
        return None if alike or ended or not plan.steady else self._promised(plan, end)

    def _extent(self, plan: Plan, start: float, price: Steps) -> int:
        """Return for how many steps of such a price a promise lasts if the first of them begins at `start`."""
        ledger, until = self.ledger, plan.ask_at
        first, growth, alike = price
        steps = self.request_log.next_finish - ledger.batch.clock
        if ledger.book.grows:
            steps = min(steps, 1 + ledger.book.further_steps())
        if self._window_left is not None:
            steps = min(steps, self._window_left(ledger))
        if steps > alike:
            steps = int(alike)
        if steps <= 1:
            return 1
        if plan.steady is UNTIL_ARRIVAL and self._arrivals.next_s < until:
            until = self._arrivals.next_s
        if until < math.inf and until < start + elapsed(first, growth, steps):
            steps = min(steps, steps_until(first, growth, until - start))
        return steps

    def _promised(self, plan: Plan, now: float) -> Plan | None:
        """Return the answer to the next ask, if the plan of an iteration that ended no request has promised it."""
        if not self._trusts or plan.ask_at < math.inf:
            return None
        if plan.steady is THROUGH_ARRIVALS:
            return CARRY_ON_THROUGH_ARRIVALS
        return CARRY_ON_UNTIL_ARRIVAL if now < self._arrivals.next_s else None

    def _warm(self, plan: Plan) -> None:
        """A plan is about to begin: count anew if its first prefill is the first that is not the warm-up's."""
        begun = self.request_log.first_scheduled_s
        self._warming -= sum(math.isnan(begun[job.id]) for job in plan.prefill)
        if self._warming < 0:
            self._count_anew()

    def _count_anew(self) -> None:
        """Forget what was counted over time so far; see `sim.metrics.warm_up`."""
        ledger = self.ledger
        ledger.stretch_peak = 0
        ledger.chunks.admitted = ledger.chunks.readmitted = Lookups(0, 0)
