"""The discrete-event engine: the loop view, plan, begin, run, commit, on simulated time.

One lane runs the batch; a policy that prefills beside it has a second lane, on the same GPU or on one of its own.
Each lane has at most one `Task`. With two lanes every task ends by a SimPy timeout, and whatever one lane does
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
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import IterationLog
from sim.engine.loop import DECODE, PREFILL, Loop
from sim.engine.request_log import Answers
from sim.engine.stretch import Task
from workloads.requests import Requests


class Engine(Loop):
    """Runs one policy on one workload.

    Attributes:
        ledger: The state machine.
        answers: The true output lengths, and what became of every request.
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
        super().__init__(requests, policy, cost, log, ledger, stretch, frontend_s, execution, warm_up)
        self.link_busy_s = 0.0
        self._env = simpy.Environment()
        self._two_lanes = self._traits.lanes != "one"
        self._tasks: list[Task | None] = [None, None]
        self._alarms: list[Event | None] = [None, None]
        self._on_end = [partial(self._end, lane) for lane in (DECODE, PREFILL)]
        self._on_alarm = [partial(self._wake, lane) for lane in (DECODE, PREFILL)]
        self._shared = self._traits.lanes == "shared"
        self._link_free_s = 0.0

    def run(self) -> Answers:
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
        return self.answers

    def _ask(self, lane: int) -> Task | None:
        now = self._now
        if self._source.next_s <= now:
            self._admit(now)
        plan = self._policy.plan(self._view, now, lane)
        prefill, insert, park, drop, decode, _, _, _, _ = plan
        if decode or prefill or insert or park or drop:
            return self._begin(lane, plan, now)
        self._sleep(lane, plan)
        return None

    def _begin(self, lane: int, plan: Plan, now: float) -> Task:
        other = self._tasks[1 - lane]
        if other is not None and other.steps > 1:
            self._cut(1 - lane)
        if self._warming >= 0:
            self._warm(plan)
        ledger = self.ledger
        ledger.begin(lane, plan)
        prefill, insert, park, drop, _, _, _, steady, _ = plan
        rearranged = insert or park or drop
        if rearranged:
            self._rearranged(plan)
        work = self._count(ledger, plan, lane)
        task = Task(plan, work, now, self._cost.seconds(work), ledger)
        self._alarms[lane] = None
        self._tasks[lane] = task
        alike = not (prefill or rearranged or work.kv_copied or (work.inserted_rows and self._cost.counts_insertions))
        if steady and self._stretch and alike:
            self._extend(task, lane)
        return task

    def _extend(self, task: Task, lane: int) -> None:
        """Let a promised iteration run on until the promise can end."""
        if self._shared and self._tasks[1 - lane] is not None:
            return
        ledger = self.ledger
        steps = self.answers.next_finish - ledger.batch.clock
        if ledger.book.grows:
            steps = min(steps, 1 + ledger.book.further_steps())
        if steps > 1:
            work = task.work
            added = work.rows + work.held_rows
            if self._window_left is not None:
                steps, added, task.fixed_window = min(steps, self._window_left(ledger, 1)), 0, True
            _, task.growth, alike = self._cost.decode_steps(computed_rows(work), decode_kv(work), added)
            task.steps = self._steps(task.plan, task.start, task.first, task.growth, int(min(steps, alike)))
            task.left = task.elapsed(task.steps)

    def _sleep(self, lane: int, plan: Plan) -> None:
        if plan.ask_at <= self._now:
            raise IllegalPlan(f"an idle plan must name a later time to ask again, not {plan.ask_at}")
        until = plan.ask_at
        if plan.steady is not THROUGH_ARRIVALS and self._source.next_s < until:
            until = self._source.next_s
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

    # two lanes: every task is a SimPy event, so that one lane's can be re-timed by the other's

    def _turn(self, lane: int) -> None:
        """Something has changed: ask a lane that idles, cut the stretch of one that runs."""
        task = self._tasks[lane]
        if task is not None:
            if task.steps > 1:
                self._cut(lane)
        elif (task := self._ask(lane)) and not self._shared:
            self._schedule(lane, task, task.left)

    def _schedule(self, lane: int, task: Task, delay: float) -> None:
        task.event = event = Timeout(self._env, delay)
        event.callbacks.append(self._on_end[lane])

    def _end(self, lane: int, event: Event) -> None:
        task = self._tasks[lane]
        if task is None or task.event is not event:
            return
        self._now = now = self._env.now
        duration = now - task.start
        self._log.append(task, duration, duration if task.steps == 1 else task.first, task.steps)
        self._tasks[lane] = None
        self._commit(lane, task.plan, task.start, task.steps, now)
        self._turn(1 - lane)
        self._turn(lane)
        self._share()

    def _cut(self, lane: int) -> None:
        """End a stretch with the step now in progress."""
        task = self._tasks[lane]
        if task is None or task.steps == 1:
            return
        now = self._now
        done = min(task.steps_done(now - task.start), task.steps - 1)  # its last step is for its own end event
        if done:
            boundary = task.start + task.elapsed(done)
            self._log.append(task, boundary - task.start, task.first, done)
            self._commit(lane, task.plan, task.start, done, boundary)
            self.ledger.begin(lane, CARRY_ON)
            work = self._count(self.ledger, CARRY_ON, lane)
            task = self._tasks[lane] = Task(task.plan, work, boundary, self._cost.seconds(work), self.ledger)
        task.steps = 1
        task.left = max(0.0, task.start + task.first - now)
        task.since = now
        self._schedule(lane, task, task.left)

    def _share(self) -> None:
        """Re-time the lanes of a shared GPU: neither of its resources serves more than one second per second."""
        if not self._shared:
            return
        slowdown = 1.0
        one, other = self._tasks
        if one is not None and other is not None:
            flops, traffic = one.usage or self._usage(one)
            other_flops, other_traffic = other.usage or self._usage(other)
            flops, traffic = flops + other_flops, traffic + other_traffic
            slowdown = flops if flops > traffic else traffic
            if slowdown < 1.0:
                slowdown = 1.0
        if one is not None and (one.event is None or one.slowdown != slowdown):
            self._slow(DECODE, one, slowdown)
        if other is not None and (other.event is None or other.slowdown != slowdown):
            self._slow(PREFILL, other, slowdown)

    def _slow(self, lane: int, task: Task, slowdown: float) -> None:
        """Let what is left of a task take so many times longer than alone."""
        now = self._now
        if now > task.since:
            task.left = max(0.0, task.left - (now - task.since) / task.slowdown)
        task.since, task.slowdown = now, slowdown
        self._schedule(lane, task, task.left * slowdown)

    def _usage(self, task: Task) -> tuple[float, float]:
        flops_s, traffic_s = self._cost.demand(task.work)
        task.usage = usage = flops_s / task.first, traffic_s / task.first
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
