"""The discrete-event engine: the loop view, plan, begin, run, commit, on simulated time.

One lane runs the batch; a policy that prefills beside it has a second lane, on the same GPU or on one of its own.
Each lane has at most one `Task`. With two lanes every task ends by a SimPy timeout, and whatever one lane does
re-times or cuts short the other's; a lane that is alone runs ahead until it must wait. An iteration that a policy has
promised to repeat is stretched over many steps at once; whatever ends the promise cuts the stretch at the next step.
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
from policies.plan import (
    CARRY_ON,
    CARRY_ON_THROUGH_ARRIVALS,
    CARRY_ON_UNTIL_ARRIVAL,
    THROUGH_ARRIVALS,
    UNTIL_ARRIVAL,
    Plan,
)
from policies.policy import Policy
from policies.queue import Predictor, declared, make_queue
from policies.rectangle import Rectangle
from policies.view import View
from sim.answers import Answers
from sim.cost import CostModel
from sim.layout import COUNTS, STEPS, Step
from sim.log import IterationLog
from sim.source import source_of
from sim.task import Task, elapsed, steps_until
from workloads.requests import Requests

DECODE, PREFILL = 0, 1


def make_ledger(policy: Policy, kv_tokens: int, predictor: Predictor, remote_tokens: int | None = None) -> Ledger:
    """Return an empty ledger with the KV book and the queue that a policy asks for."""
    traits = policy.traits
    batch = Batch(track_longest=traits.memory in ("rectangle", "static"))
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
        self._count_step = STEPS[self._traits.layout]
        self._log = log
        self._stretch = stretch
        self._trusts = stretch and not self.ledger.book.grows
        self._source = source_of(requests)
        self._closed_loop = requests.concurrency is not None
        self._env = simpy.Environment()
        self._now = 0.0
        self._two_lanes = self._traits.lanes != "one"
        self._tasks: list[Task | None] = [None, None]
        self._alarms: list[Event | None] = [None, None]
        self._on_end = [partial(self._end, lane) for lane in (DECODE, PREFILL)]
        self._on_alarm = [partial(self._wake, lane) for lane in (DECODE, PREFILL)]
        self._shared = self._traits.lanes == "shared"
        self._release_with_batch = self._traits.release_with_batch
        self._unreleased: list[int] = []
        self._decoded_s = 0.0
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

    # the loop: ask, begin, commit

    def _run_alone(self) -> None:
        """Run the only lane until it idles. Nothing else can happen in the meantime, so no event is needed."""
        ask, view, source = self._policy.plan, self._view, self._source
        promised: Plan | None = None
        while True:
            now = self._now
            if source.next_s <= now:
                self._admit(now)
            plan = promised or ask(view, now, DECODE)
            prefill, insert, park, drop, decode, _, _, _ = plan
            if decode and not prefill:
                promised = None
                self._decode(plan, now)
            elif prefill or insert or park or drop:
                promised = self._run_once(plan, now)
            else:
                return self._sleep(DECODE, plan)

    def _rearranged(self, plan: Plan) -> None:
        """Rows have joined or left the batch as a plan began."""
        _, insert, park, drop, _, _, _, _ = plan
        clock = self.ledger.batch.clock
        if park or drop:
            self.answers.interrupted([*park, *drop], clock, self._decoded_s)
        if insert:
            self.answers.joined(insert, clock)

    def _run_once(self, plan: Plan, now: float) -> Plan | None:
        """Run one iteration; return the answer to the next ask, if the plan has promised it."""
        ledger = self.ledger
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
        if rearranged or book.copied:  # those that follow are like each other, but not like this one
            steps = self._run_steps(plan, now, 1, step, ledger.inserted, book.transient)
            if most > 1 and self._is_steady(plan, self._now):
                if self._source.next_s <= self._now:
                    self._admit(self._now)
                rows, held, kv, kv_held, padding, launches = step
                book.copied = ledger.host_tokens = 0
                steps += self._run_steps(
                    plan, self._now, most - 1, (rows, held, kv + rows, kv_held + held, padding, launches)
                )
        else:
            if not plan[7] or not self._stretch:
                most = 1
            elif book.grows:
                most = min(most, 1 + book.further_steps())
            steps = self._run_steps(plan, now, most, step, ledger.inserted)
        self._decoded_s = end = self._now
        ended = answers.ending(batch.clock + steps, end)
        ledger.commit(DECODE, ended, steps)
        if ended:
            self._leave(ended, end)

    def _run_steps(self, plan: Plan, now: float, most: int, step: Step, inserted: int = 0, transient: int = 0) -> int:
        """Run and log at most so many iterations like `step` in a row; return how many."""
        ledger, cost = self.ledger, self._cost
        book = ledger.book
        rows, held, kv, kv_held, padding, launches = step
        copied, host = book.copied, ledger.host_tokens
        first = seconds = cost.decode_seconds(rows + held, kv + kv_held + padding, launches, copied, host)
        if most > 1:
            growth = cost.growth(rows + held)
            most = self._steps(plan, now, first, growth, most)
            seconds = elapsed(first, growth, most)
        else:
            most = 1
        self._now = now + seconds
        self._log.add_decode(
            now, seconds, first, most, len(ledger.waiting), book.used + transient, rows,
            DECODE, rows, held, inserted, kv, kv_held, padding, copied, host, launches,
        )  # fmt: skip
        return most

    def _steps(self, plan: Plan, start: float, first: float, growth: float, steps: int) -> int:
        """How many of the `steps` iterations until a row ends or memory does a promise lasts.

        The first of them takes `first` seconds, each later one `growth` longer.
        """
        _, _, _, _, _, _, until, steady = plan
        if steady is UNTIL_ARRIVAL and self._source.next_s < until:
            until = self._source.next_s
        if until < math.inf and until < start + elapsed(first, growth, steps):
            steps = min(steps, steps_until(first, growth, until - start))
        return steps

    def _ask(self, lane: int) -> Task | None:
        now = self._now
        if self._source.next_s <= now:
            self._admit(now)
        plan = self._policy.plan(self._view, now, lane)
        prefill, insert, park, drop, decode, _, _, _ = plan
        if decode or prefill or insert or park or drop:
            return self._begin(lane, plan, now)
        self._sleep(lane, plan)
        return None

    def _begin(self, lane: int, plan: Plan, now: float) -> Task:
        other = self._tasks[1 - lane]
        if other is not None and other.steps > 1:
            self._cut(1 - lane)
        ledger = self.ledger
        ledger.begin(lane, plan)
        prefill, insert, park, drop, _, _, _, steady = plan
        rearranged = insert or park or drop
        if rearranged:
            self._rearranged(plan)
        work = self._count(ledger, plan, lane)
        task = Task(plan, work, now, self._cost.seconds(work), ledger)
        self._alarms[lane] = None
        self._tasks[lane] = task
        if steady and self._stretch and not (prefill or rearranged or work.kv_copied):
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
            task.growth = self._cost.growth(task.work.rows + task.work.held_rows)
            task.steps = self._steps(task.plan, task.start, task.first, task.growth, steps)
            task.left = task.elapsed(task.steps)

    def _commit(self, lane: int, plan: Plan, start: float, steps: int, now: float) -> bool:
        """Close the iterations of a plan; return whether a request has ended."""
        ledger, answers = self.ledger, self.answers
        prefill, _, _, _, decode, apart, _, _ = plan
        ended: list[int] = []
        clock = ledger.batch.clock
        if decode:
            clock += steps
            self._decoded_s = now
            ended = answers.ending(clock, now)
        if prefill:
            ended += answers.prefilled(prefill, start, now, None if apart else clock)
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
            ended = self._released(ended, now)
        self.answers.finished += len(ended)
        if self._closed_loop:
            self._source.left(len(ended), now)

    def _released(self, ended: list[int], now: float) -> list[int]:
        """Of a batch whose answers leave together: all of them once its last row has ended."""
        self._unreleased += ended
        if self.ledger.batch.rows:
            return []
        released, self._unreleased = self._unreleased, []
        self.answers.released(released, now)
        return released

    # arrivals and idle lanes

    def _admit(self, now: float) -> None:
        while self._source.next_s <= now:
            jobs = self._source.take(now)
            if self._closed_loop:
                for job in jobs:
                    self.answers.arrival_s[job.id] = job.arrival_s
            rejected = self.ledger.submit(jobs)
            if rejected:
                self.answers.rejected.update(job.id for job in rejected)
                self._source.left(len(rejected), now)

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
