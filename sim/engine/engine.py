"""The discrete-event engine: the loop view, plan, begin, run, commit, on simulated time.

One lane runs the batch; a policy that prefills beside it has a second lane, on the same GPU or on one of its own.
Each lane runs at most one stretch of iterations. With two lanes each ends by a SimPy timeout; whatever one lane does
re-times or cuts short the other's; a lane that is alone runs ahead until it must wait. An iteration that a policy has
promised to repeat is stretched over many steps at once; whatever ends the promise cuts the stretch at the next step.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import simpy
from simpy.events import Event, Timeout

from policies.job import Job
from policies.ledger.opening import make_ledger
from policies.plan import CARRY_ON, THROUGH_ARRIVALS, IllegalPlan, Plan
from policies.policy import Policy
from policies.queue import Predictor, declared
from sim.cost.device import CostModel, computed_rows, decode_kv
from sim.engine.arrivals import arrivals_of
from sim.engine.bookkeeping import Bookkeeping
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import IterationLog
from sim.engine.loop import DECODE, PREFILL, Loop
from sim.engine.request_log import RequestLog
from sim.engine.stretch import Stretch
from workloads.requests import Requests


class Engine(Loop):
    """Runs one policy on one workload.

    Attributes:
        ledger: The state machine.
        request_log: The true output lengths, and what became of every request.
        link_busy_s: How long KV has been on the link between two GPUs since the warm-up, what still waits included.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        cost: CostModel,
        log: IterationLog,
        kv_tokens: int,
        *,
        remote_kv_tokens: int | None = None,
        predictor: Predictor = declared,
        stretch: bool = True,
        frontend_s: float = 0.0,
        execution: Execution = EAGER,
        warm_up: int = 0,
    ) -> None:
        """Prepare a run.

        Args:
            requests: The workload.
            policy: What to run next.
            cost: How long it takes.
            log: Where iterations are recorded.
            kv_tokens: KV memory of the batch's GPU, in tokens.
            remote_kv_tokens: KV memory of the prefill GPU, where the policy has one; the same if None.
            predictor: What `sjf` orders by.
            stretch: Whether promised iterations are run in one event; the results do not depend on it.
            frontend_s: How long after a request is sent the scheduler sees it.
            execution: How decode steps are executed.
            warm_up: How many requests, the first to be prefilled, come before what is counted (`sim.metrics.warm_up`).
        """
        ledger = make_ledger(policy, kv_tokens, predictor, remote_kv_tokens or kv_tokens)
        request_log = RequestLog(requests, policy.traits.release_with_batch)
        books = Bookkeeping(ledger, request_log, arrivals_of(requests, frontend_s))
        super().__init__(books, policy, cost, log, stretch, execution, warm_up)
        lanes = policy.traits.lanes
        self.link_busy_s = 0.0
        self._env = simpy.Environment()
        self._two_lanes = lanes != "one"
        self._shared = lanes == "shared"
        self._lanes: list[Stretch | None] = [None, None]
        self._alarms: list[Event | None] = [None, None]
        self._on_end = [partial(self._end, lane) for lane in (DECODE, PREFILL)]
        self._on_alarm = [partial(self._wake, lane) for lane in (DECODE, PREFILL)]
        self._link_free_s = 0.0

    def run(self) -> RequestLog:
        """Simulate until every request has left, or nothing can happen any more."""
        with _no_garbage_collection():
            if self._two_lanes:
                self._turn(DECODE)
                self._turn(PREFILL)
                self._share()
            else:
                self._run_alone()
            self._env.run()
        self._log.flush()
        return self.request_log

    def _sleep(self, lane: int, plan: Plan) -> None:
        if plan.ask_at <= self._now:
            raise IllegalPlan(f"an idle plan must name a later time to ask again, not {plan.ask_at}")
        until = plan.ask_at
        if plan.steady is not THROUGH_ARRIVALS and self._arrivals.next_s < until:
            until = self._arrivals.next_s
        self._alarms[lane] = None
        if until < math.inf:
            self._alarms[lane] = alarm = Timeout(self._env, until - self._env.now)
            alarm.callbacks.append(self._on_alarm[lane])

    def _wake(self, lane: int, alarm: Event) -> None:
        if self._alarms[lane] is not alarm:
            return
        self._now = self._env.now
        if self._two_lanes:
            self._cut(1 - lane)
            self._turn(lane)
            self._share()
        else:
            self._run_alone()

    # two lanes: every stretch ends by a SimPy event, so that one lane's can be re-timed by the other's

    def _turn(self, lane: int) -> None:
        """Something has changed: ask a lane that idles, cut the stretch of one that runs."""
        running, other = self._lanes[lane], self._lanes[1 - lane]
        if running is not None:
            if running.steps > 1:
                self._cut(lane)
            return
        now = self._now
        if self._arrivals.next_s <= now:
            self._books.admit(now)
        plan = self._policy.plan(self._view, now, lane)
        if not (plan.decode or plan.acts):
            return self._sleep(lane, plan)
        if other is not None and other.steps > 1:
            self._cut(1 - lane)
        self._alarms[lane] = None
        self._lanes[lane] = running = self._begin(lane, plan, now)
        if not self._shared:
            self._schedule(lane, running, running.left)

    def _begin(self, lane: int, plan: Plan, now: float) -> Stretch:
        """Begin an iteration, and those that are promised to follow and are like it, if the lane has the GPU alone."""
        if self._warming >= 0:
            self._warm(plan)
        ledger, cost = self.ledger, self._cost
        rearranged = self._books.begin(lane, plan)
        if plan.prefill or not plan.decode:
            work = self._count(ledger, plan, lane)
            return Stretch(plan, work, now, cost.seconds(work), ledger)
        work = self._count_decode(ledger).work()
        alike = not (rearranged or work.kv_copied or (work.inserted_rows and cost.counts_insertions))
        goes_on = alike and self._stretches and plan.steady and not (self._shared and any(self._lanes))
        added = work.rows + work.held_rows if goes_on and not self._fixed_window else 0
        price = cost.decode_steps(
            computed_rows(work), decode_kv(work), added,
            work.attention_launches, work.kv_copied, work.kv_host, work.inserted_rows,
        )  # fmt: skip
        stretch = Stretch(plan, work, now, price[0], ledger)
        stretch.fixed_window = self._fixed_window
        if goes_on:
            stretch.growth, stretch.steps = price[1], self._extent(plan, now, price)
            stretch.left = stretch.elapsed(stretch.steps)
        return stretch

    def _schedule(self, lane: int, running: Stretch, delay: float) -> None:
        running.event = event = Timeout(self._env, delay)
        event.callbacks.append(self._on_end[lane])

    def _end(self, lane: int, event: Event) -> None:
        running = self._lanes[lane]
        if running is None or running.event is not event:
            return
        self._now = now = self._env.now
        duration, plan, steps = now - running.start, running.plan, running.steps
        self._log.append(running.head(duration, duration if steps == 1 else running.first, steps), running.work)
        self._lanes[lane] = None
        self._books.commit(lane, plan, running.start, now, steps)
        if plan.prefill and self.ledger.sending:
            self._send([job for job in plan.prefill if job.id in self.ledger.sending])
        self._turn(1 - lane)
        self._turn(lane)
        self._share()

    def _cut(self, lane: int) -> None:
        """End a stretch with the step now in progress."""
        running = self._lanes[lane]
        if running is None or running.steps == 1:
            return
        now, start = self._now, running.start
        done = min(running.steps_within(now - start), running.steps - 1)  # its last step ends by its own event
        if done:
            boundary = start + running.elapsed(done)
            self._log.append(running.head(boundary - start, running.first, done), running.work)
            self._books.commit(lane, running.plan, start, boundary, done)
            self._lanes[lane] = running = self._begin(lane, CARRY_ON, boundary)
        running.steps = 1
        running.left = max(0.0, running.start + running.first - now)
        running.since = now
        self._schedule(lane, running, running.left)

    def _share(self) -> None:
        """Re-time the lanes of a shared GPU: neither of its resources serves more than one second per second."""
        if not self._shared:
            return
        slowdown = 1.0
        one, other = self._lanes
        if one is not None and other is not None:
            flops, traffic = one.usage or self._usage(one)
            other_flops, other_traffic = other.usage or self._usage(other)
            slowdown = max(1.0, flops + other_flops, traffic + other_traffic)
        if one is not None and (one.event is None or one.slowdown != slowdown):
            self._slow(DECODE, one, slowdown)
        if other is not None and (other.event is None or other.slowdown != slowdown):
            self._slow(PREFILL, other, slowdown)

    def _slow(self, lane: int, running: Stretch, slowdown: float) -> None:
        """Let what is left of a stretch take so many times longer than alone."""
        now = self._now
        if now > running.since:
            running.left = max(0.0, running.left - (now - running.since) / running.slowdown)
        running.since, running.slowdown = now, slowdown
        self._schedule(lane, running, running.left * slowdown)

    def _usage(self, running: Stretch) -> tuple[float, float]:
        flops_s, traffic_s = self._cost.demand(running.work)
        running.usage = usage = flops_s / running.first, traffic_s / running.first
        return usage

    def _send(self, jobs: Sequence[Job]) -> None:
        """Queue the KV of prefilled jobs on the link."""
        seconds = self._cost.link_seconds(sum(self.ledger.prefill_length(job) for job in jobs))
        self._link_free_s = max(self._link_free_s, self._now) + seconds
        self.link_busy_s += seconds
        arrival = Timeout(self._env, self._link_free_s - self._env.now)
        arrival.callbacks.append(partial(self._deliver, jobs))

    def _count_anew(self) -> None:
        super()._count_anew()
        self.link_busy_s = max(0.0, self._link_free_s - self._now)  # without a gap: transfers queue

    def _deliver(self, jobs: Sequence[Job], _: Event) -> None:
        self._now = self._env.now
        self._cut(DECODE)
        self.ledger.deliver(jobs)
        self._turn(DECODE)
        self._turn(PREFILL)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The loop makes no cycles worth collecting, and a million live jobs make every collection slow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
