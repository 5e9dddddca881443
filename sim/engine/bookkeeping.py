"""What both engines keep in step around an iteration: the ledger, the log of its requests, and their arrivals.

Whoever runs the iterations has the clock, and the arrivals come from outside too: nothing here asks what time it is.
"""

from collections.abc import Iterable

from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.plan import Plan
from sim.engine.arrivals import Arrivals
from sim.engine.request_log import RequestLog


class Bookkeeping:
    """Moves requests through a ledger and notes what becomes of them: admit, begin, commit.

    Attributes:
        ledger: The state machine.
        request_log: The true output lengths, and what became of every request.
        arrivals: Where jobs come from.
    """

    def __init__(self, ledger: Ledger, request_log: RequestLog, arrivals: Arrivals) -> None:
        """Begin with an empty ledger."""
        self.ledger = ledger
        self.request_log = request_log
        self.arrivals = arrivals
        self._decoded_s = 0.0

    def admit(self, now: float) -> list[Job]:
        """Queue the jobs that have arrived by `now`; return them, those that can never be served too."""
        log, arrivals = self.request_log, self.arrivals
        admitted: list[Job] = []
        while arrivals.next_s <= now:
            jobs = arrivals.take(now)
            if arrivals.follow_answers:
                for job in jobs:
                    log.arrival_s[job.id] = job.arrival_s - arrivals.delay_s
            rejected = self.ledger.submit(jobs)
            if rejected:
                log.rejected.update(job.id for job in rejected)
                arrivals.left(len(rejected), now)
            admitted += jobs
        return admitted

    def begin(self, lane: int, plan: Plan) -> bool:
        """Begin an iteration; return whether rows were moved into or out of the batch for it.

        Raises:
            IllegalPlan: The ledger refuses the plan; nothing was changed.
        """
        if not self.ledger.begin(lane, plan):
            return False
        log, clock = self.request_log, self.ledger.batch.clock
        if plan.park or plan.drop:
            log.interrupted([*plan.park, *plan.drop], clock, self._decoded_s)
        log.joined(plan.insert, clock)
        return True

    def commit(
        self, lane: int, plan: Plan, start: float, now: float, steps: int = 1, stopped: Iterable[int] = ()
    ) -> list[int]:
        """Close the iterations of a plan, which ran from `start` to `now`.

        Args:
            lane: Where they ran.
            plan: The plan that was begun.
            start: When it began, in seconds.
            now: When the last of them ended.
            steps: How many there were.
            stopped: Requests whose model has said with this token that their answers end.

        Returns:
            The requests that had their last token from them.
        """
        ledger, log = self.ledger, self.request_log
        clock, prefill = ledger.batch.clock, plan.prefill
        if plan.decode:
            clock += steps
            self._decoded_s = now
            ended = log.ending(clock, now)
        else:
            ended = []
        if prefill:
            scheduled: float | None = start
            if plan.tokens:
                log.scheduled(prefill, start)
                prefill, scheduled = ledger.chunks.completed(plan), None
            ended += log.prefilled(prefill, scheduled, now, None if plan.apart else clock)
        for request in stopped:
            if request not in ended:
                log.stopped(request, now)
                ended.append(request)
        ledger.commit(lane, ended, steps)
        if ended:
            leaving = log.leave(ended, now, bool(ledger.batch.rows))
            if leaving and self.arrivals.follow_answers:
                self.arrivals.left(leaving, now)
        return ended
