"""The discrete-event engine: the loop view, plan, begin, run, commit, on simulated time.

One lane runs the batch; a policy that prefills beside it has a second lane, on the same GPU or on one of its own.
Each lane has at most one `Task`, ended by a SimPy timeout. An iteration that a policy has promised to repeat is
stretched over many steps in one event; whatever ends the promise early cuts the stretch at the next step boundary.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import simpy
from simpy.events import Event, Timeout

from policies.batch import Batch
from policies.job import Job
from policies.kv import KVBook, Paged, Slots, StaticRectangle
from policies.ledger import IllegalPlan, Ledger
from policies.plan import CARRY_ON, Plan, Steady
from policies.policy import Policy
from policies.queue import Predictor, declared, make_queue
from policies.rectangle import Rectangle
from policies.view import View
from sim.answers import Answers
from sim.cost import CostModel
from sim.layout import COUNTS
from sim.log import IterationLog
from sim.source import source_of
from sim.task import Task
from workloads.requests import Requests

DECODE, PREFILL = 0, 1


def make_ledger(policy: Policy, kv_tokens: int, predictor: Predictor, remote_tokens: int | None = None) -> Ledger:
    """Return an empty ledger with the KV book and the queue that a policy asks for."""
    traits, batch = policy.traits, Batch()
    books: dict[str, Callable[[], KVBook]] = {
        "slots": lambda: Slots(kv_tokens),
        "paged": lambda: Paged(kv_tokens, batch),
        "static": lambda: StaticRectangle(kv_tokens, batch),
        "rectangle": lambda: Rectangle(kv_tokens, batch, policy.max_batch, traits.reserve),
    }
    queue = make_queue(policy.order, predictor)
    remote = remote_tokens if traits.lanes == "separate" else None
    return Ledger(batch, books[traits.memory](), queue, policy.max_batch, traits.hold_finished, remote)


class Engine:
    """Runs one policy on one workload.

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
        kv_tokens: int,
        *,
        remote_kv_tokens: int | None = None,
        predictor: Predictor = declared,
        stretch: bool = True,
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
        """
        self.ledger = make_ledger(policy, kv_tokens, predictor, remote_kv_tokens or kv_tokens)
        self.answers = Answers(requests)
        self.link_busy_s = 0.0
        self._policy = policy
        self._traits = policy.traits
        self._view = View(self.ledger)
        self._cost = cost
        self._count = COUNTS[self._traits.layout]
        self._log = log
        self._stretch = stretch
        self._source = source_of(requests)
        self._env = simpy.Environment()
        lanes = (DECODE,) if self._traits.lanes == "one" else (DECODE, PREFILL)
        self._lanes = lanes
        self._tasks: list[Task | None] = [None, None]
        self._alarms: list[Event | None] = [None, None]
        self._on_end = [partial(self._end, lane) for lane in (DECODE, PREFILL)]
        self._on_alarm = [partial(self._wake, lane) for lane in (DECODE, PREFILL)]
        self._shared = self._traits.lanes == "shared"
        self._unreleased: list[int] = []
        self._decoded_s = 0.0
        self._link_free_s = 0.0

    def run(self) -> Answers:
        """Simulate until every request has left, or nothing can happen any more."""
        with _no_garbage_collection():
            for lane in self._lanes:
                self._ask(lane)
            self._share()
            self._env.run()
        self._log.flush()
        return self.answers

    # the loop: ask, begin, end

    def _ask(self, lane: int) -> None:
        now = self._env.now
        if self._source.next_s <= now:
            self._admit(now)
        plan = self._policy.plan(self._view, now, lane)
        if plan.idle:
            self._sleep(lane, plan)
        else:
            self._begin(lane, plan)

    def _begin(self, lane: int, plan: Plan) -> None:
        now, ledger, answers = self._env.now, self.ledger, self.answers
        ledger.begin(lane, plan)
        if plan.park or plan.drop:
            answers.interrupted([*plan.park, *plan.drop], ledger.batch.clock, self._decoded_s)
        for request in plan.insert:
            answers.joined(request, ledger.batch.clock)
        if plan.prefill:
            answers.scheduled(plan.prefill, now)
        work = self._count(ledger, plan, lane)
        task = Task(plan, work, now, self._cost.seconds(work), ledger)
        self._alarms[lane] = None
        self._tasks[lane] = task
        if self._stretch and plan.steady and not (plan.prefill or plan.insert or plan.park or plan.drop or work.kv_copied):
            self._extend(task, lane)
        if not self._shared:
            self._schedule(lane, task, task.left)

    def _extend(self, task: Task, lane: int) -> None:
        """Let a promised iteration run on until the promise can end."""
        if self._shared and self._tasks[1 - lane] is not None:
            return
        ledger, now = self.ledger, task.start
        steps = min(self.answers.next_finish - ledger.batch.clock, 1 + ledger.book.further_steps())
        if steps > 1:
            task.growth = self._cost.growth(task.work.rows + task.work.held_rows)
            until = task.plan.ask_at
            if task.plan.steady is Steady.UNTIL_ARRIVAL:
                until = min(until, self._source.next_s)
            if until < now + task.elapsed(steps):
                steps = min(steps, task.steps_until(until - now))
            task.steps = steps
            task.left = task.elapsed(steps)

    def _schedule(self, lane: int, task: Task, delay: float) -> None:
        task.event = event = Timeout(self._env, delay)
        event.callbacks.append(self._on_end[lane])

    def _end(self, lane: int, event: Event) -> None:
        task = self._tasks[lane]
        if task is None or task.event is not event:
            return
        now = self._env.now
        self._log.append(task.start, now - task.start, task.first_in(now), task.steps, task.waiting, task.kv, task.work)
        self._tasks[lane] = None
        self._commit(lane, task.plan, task.steps, now)
        if len(self._lanes) > 1:
            self._turn(1 - lane)
        self._ask(lane)
        self._share()

    def _commit(self, lane: int, plan: Plan, steps: int, now: float) -> None:
        ledger, answers = self.ledger, self.answers
        ended: list[int] = []
        if plan.decode:
            self._decoded_s = now
            ended = answers.ending(ledger.batch.clock + steps)
        if not plan.prefill:
            ledger.commit(lane, ended, steps)
        else:
            at_once = answers.prefilled(plan.prefill, now)
            ended += at_once
            ledger.commit(lane, ended, steps)
            if not plan.apart:
                clock = ledger.batch.clock
                for job in plan.prefill:
                    if job.id not in at_once:
                        answers.joined(job.id, clock)
            elif ledger.sending:
                self._send([job for job in plan.prefill if job.id not in at_once])
        if ended:
            self._leave(ended, now)

    def _leave(self, requests: list[int], now: float) -> None:
        if self._traits.release_with_batch:
            self._unreleased += requests
            if self.ledger.batch.rows:
                return
            requests, self._unreleased = self._unreleased, []
        self.answers.finish(requests, now)
        self._source.left(len(requests), now)

    # arrivals and idle lanes

    def _admit(self, now: float) -> None:
        rejected = 0
        for job in self._source.take(now):
            self.answers.arrival_s[job.id] = job.arrival_s
            if not self.ledger.submit(job):
                self.answers.reject(job.id)
                rejected += 1
        if rejected:
            self._source.left(rejected, now)
            if self._source.next_s <= now:
                self._admit(now)

    def _sleep(self, lane: int, plan: Plan) -> None:
        if plan.ask_at <= self._env.now:
            raise IllegalPlan(f"an idle plan must name a later time to ask again, not {plan.ask_at}")
        until = plan.ask_at
        if plan.steady is not Steady.THROUGH_ARRIVALS:
            until = min(until, self._source.next_s)
        self._alarms[lane] = None
        if until < math.inf:
            self._alarms[lane] = alarm = Timeout(self._env, until - self._env.now)
            alarm.callbacks.append(self._on_alarm[lane])

    def _wake(self, lane: int, alarm: Event) -> None:
        if self._alarms[lane] is alarm:
            self._cut(1 - lane)
            self._ask(lane)
            self._share()

    # two lanes

    def _turn(self, lane: int) -> None:
        """Tell a lane that the other has changed: ask it if it idles, cut its stretch short if it runs."""
        if self._tasks[lane] is None:
            self._ask(lane)
        else:
            self._cut(lane)

    def _cut(self, lane: int) -> None:
        """End a stretch with the step now in progress."""
        task = self._tasks[lane]
        if task is None or task.steps == 1:
            return
        now = self._env.now
        done = task.steps_done(now - task.start)
        if done:
            boundary = task.start + task.elapsed(done)
            self._log.append(task.start, boundary - task.start, task.first, done, task.waiting, task.kv, task.work)
            self._commit(lane, task.plan, done, boundary)
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
        now = self._env.now
        tasks = [task for task in self._tasks if task is not None]
        slowdown = 1.0
        if len(tasks) > 1:
            usage = [self._cost.demand(task.work) for task in tasks]
            flops = sum(demand.flops_s / task.first for demand, task in zip(usage, tasks, strict=True))
            traffic = sum(demand.traffic_s / task.first for demand, task in zip(usage, tasks, strict=True))
            slowdown = max(1.0, flops, traffic)
        for lane, task in enumerate(self._tasks):
            if task is not None and (task.event is None or task.slowdown != slowdown):
                task.left = max(0.0, task.left - (now - task.since) / task.slowdown)
                task.since, task.slowdown = now, slowdown
                self._schedule(lane, task, task.left * slowdown)

    def _send(self, jobs: Sequence[Job]) -> None:
        """Queue the KV of prefilled jobs on the link."""
        seconds = self._cost.link_seconds(sum(self.ledger.prefill_length(job) for job in jobs))
        self._link_free_s = max(self._link_free_s, self._env.now) + seconds
        self.link_busy_s += seconds
        arrival = Timeout(self._env, self._link_free_s - self._env.now)
        arrival.callbacks.append(partial(self._deliver, jobs))

    def _deliver(self, jobs: Sequence[Job], _: Event) -> None:
        self._cut(DECODE)
        self.ledger.deliver(jobs)
        for lane in self._lanes:
            self._turn(lane)


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
