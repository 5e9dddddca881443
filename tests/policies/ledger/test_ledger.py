"""The ledger under random plans, legal and illegal, with every KV book and both lanes."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import KVBook, Slots, StaticRectangle
from policies.ledger.ledger import Ledger
from policies.ledger.paged import Paged
from policies.ledger.rectangle import Rectangle
from policies.plan import CARRY_ON, IllegalPlan, Plan
from policies.queue import make_queue

MAX_ROWS = 4
LIMITS = {"slots": 160, "paged": 160, "static": 160, "rectangle_max": 160, "rectangle_window": 1500}
BOOKS = tuple(LIMITS)


def make_ledger(kind: str, order: str = "fcfs", remote_limit: int | None = None) -> Ledger:
    batch, limit = Batch(), LIMITS[kind]
    books: dict[str, KVBook] = {
        "slots": Slots(limit),
        "paged": Paged(limit, batch),
        "static": StaticRectangle(limit, batch),
        "rectangle_max": Rectangle(limit, batch, MAX_ROWS, "max"),
        "rectangle_window": Rectangle(limit, batch, MAX_ROWS, "window"),
    }
    return Ledger(batch, books[kind], make_queue(order), MAX_ROWS, kind == "static", remote_limit)


def state(ledger: Ledger) -> dict[str, Any]:
    """Everything that an illegal plan must leave as it was."""
    batch = ledger.batch
    return {
        "waiting": list(ledger.waiting),
        "beside": (list(ledger.prefilling), dict(ledger.ready), dict(ledger.sending), dict(ledger.remote)),
        "rows": (list(batch.rows.items()), dict(batch.held), batch.clock, batch.offset_sum, set(batch.fresh)),
        "preempted": (dict(ledger.parked), dict(ledger.progress)),
        "memory": (ledger.book.used, ledger.book.save()),
        "busy": (ledger.busy(0), ledger.busy(1)),
    }


class LedgerMachine(RuleBasedStateMachine):
    """Mirrors the state of every request in a plain dict and compares after every move."""

    @initialize(
        kind=st.sampled_from(BOOKS),
        order=st.sampled_from(["fcfs", "sjf", "priority"]),
        remote=st.sampled_from([None, None, 60]),
    )
    def start(self, kind: str, order: str, remote: int | None) -> None:
        self.kind = kind
        self.ledger = make_ledger(kind, order, remote)
        self.where: dict[int, str] = {}
        self.jobs: dict[int, Job] = {}
        self.flying: dict[int, Plan] = {}

    def ids(self, *places: str) -> list[int]:
        return [request for request, place in self.where.items() if place in places]

    @rule(prompt=st.integers(1, 60) | st.integers(61, 400), new=st.integers(1, 120), priority=st.integers(0, 2))
    def submit(self, prompt: int, new: int, priority: int) -> None:
        job = Job(len(self.jobs), float(len(self.jobs)), prompt, new, priority)
        self.jobs[job.id] = job
        rejected = self.ledger.submit([job])
        remote_limit, needed = self.ledger._remote_limit, prompt + new - (self.kind == "paged")
        if remote_limit is not None and self.kind == "rectangle_max":
            needed += prompt  # its prompt lies beside its row
        elif remote_limit is not None and self.kind == "rectangle_window":
            needed = max(needed, 2 * prompt + 1)
        assert bool(rejected) == (needed > self.ledger.book.limit or (remote_limit or prompt) < prompt)
        if not rejected:
            self.where[job.id] = "waiting"

    @rule(data=st.data(), lane=st.integers(0, 1), apart=st.booleans(), decode=st.booleans())
    def wild(self, data: st.DataObject, lane: int, apart: bool, decode: bool) -> None:
        """A plan about anything at all; most are illegal."""
        some = st.lists(st.sampled_from(sorted(self.jobs) or [0]), max_size=3)
        jobs = [self.jobs[request] for request in data.draw(some) if request in self.jobs]
        plan = Plan(jobs, data.draw(some), data.draw(some), data.draw(some), decode, apart)
        self.attempt(lane, plan)

    @rule(data=st.data(), lane=st.integers(0, 1), count=st.integers(0, 3), apart=st.booleans(), decode=st.booleans())
    def sensible(self, data: st.DataObject, lane: int, count: int, apart: bool, decode: bool) -> None:
        """A plan that names the right requests; memory, rows and lanes may still refuse it."""
        head = self.ledger.admissible(count, apart) if count else []
        insert = data.draw(st.lists(st.sampled_from(self.ids("ready", "parked") or [-1]), unique=True, max_size=2))
        rows = data.draw(st.lists(st.sampled_from(self.ids("running") or [-1]), unique=True, max_size=2))
        choice = data.draw(st.sampled_from(["prefill", "insert", "park", "drop", "all at once"]))
        waiting = list(self.ledger.waiting)[: data.draw(st.integers(0, 3))]
        inserted, leaving = [request for request in insert if request >= 0], [r for r in rows if r >= 0]
        plan = {
            "prefill": Plan(head, decode=decode and not apart, apart=apart),
            "insert": Plan(insert=inserted, decode=decode),
            "park": Plan(park=leaving, decode=decode),
            "drop": Plan(drop=leaving, decode=decode),
            "all at once": Plan(waiting, inserted, leaving[:1], leaving[1:], decode=decode),
        }[choice]
        self.attempt(lane, plan)

    @rule()
    def carry_on(self) -> None:
        self.attempt(0, CARRY_ON)

    def attempt(self, lane: int, plan: Plan) -> None:
        before = state(self.ledger)
        try:
            self.ledger.begin(lane, plan)
        except IllegalPlan:
            assert state(self.ledger) == before
            return
        self.flying[lane] = plan
        for place, requests in (("parked", plan.park), ("waiting", plan.drop), ("running", plan.insert)):
            for request in requests:
                self.where[request] = place
        for job in plan.prefill:
            assert self.where[job.id] == "waiting"
            self.where[job.id] = "prefilling"

    @rule(data=st.data(), lane=st.integers(0, 1), steps=st.integers(1, 40))
    def commit(self, data: st.DataObject, lane: int, steps: int) -> None:
        plan = self.flying.pop(lane, None)
        if plan is None:
            with pytest.raises(IllegalPlan):
                self.ledger.commit(lane, [])
            return
        left = {request: self.left(request) for request in (self.ids("running") if plan.decode else [])}
        steps = 1 if plan.prefill else min([steps, 1 + self.ledger.book.further_steps(), *left.values()])
        left = {request: tokens - steps for request, tokens in left.items()}
        left |= {job.id: job.max_new_tokens - 1 - self.ledger.progress.get(job.id, 0) for job in plan.prefill}
        ended = data.draw(st.lists(st.sampled_from(sorted(left)), unique=True)) if left else []
        ended += [request for request, tokens in left.items() if tokens == 0 and request not in ended]
        self.ledger.commit(lane, ended, steps)
        for job in plan.prefill:
            beside = "sending" if self.ledger._remote_limit is not None else "ready"
            self.where[job.id] = beside if plan.apart else "running"
        for request in ended:
            self.where[request] = "held" if self.kind == "static" else "finished"
        if self.kind == "static" and not self.ids("running"):
            self.where.update(dict.fromkeys(self.ids("held"), "finished"))

    def left(self, request: int) -> int:
        """Tokens that a live row may still generate: its prefill gave the first."""
        job = self.jobs[request]
        return job.prompt_tokens + job.max_new_tokens - 1 - self.ledger.batch.length(request)

    @rule()
    def deliver(self) -> None:
        sent = self.ids("sending")
        self.ledger.deliver([self.jobs[request] for request in sent])
        self.where.update(dict.fromkeys(sent, "ready"))

    @invariant()
    def every_request_is_in_one_state(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger = self.ledger
        assert sorted(job.id for job in ledger.waiting) == sorted(self.ids("waiting"))
        assert sorted(ledger.batch.rows) == sorted(self.ids("running"))
        assert sorted(ledger.batch.held) == sorted(self.ids("held"))
        assert sorted(ledger.ready) == sorted(self.ids("ready"))
        assert sorted(ledger.sending) == sorted(self.ids("sending"))
        assert sorted(ledger.parked) == sorted(self.ids("parked"))
        assert sorted(job.id for jobs in ledger.prefilling for job in jobs) == sorted(self.ids("prefilling"))

    @invariant()
    def the_queue_is_in_order(self) -> None:
        if hasattr(self, "ledger"):
            keys = [self.ledger.waiting.key(job) for job in self.ledger.waiting]
            assert keys == sorted(keys)

    @invariant()
    def memory_is_never_above_its_limit_and_balances(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, book = self.ledger, self.ledger.book
        assert 0 <= book.used <= book.limit
        in_memory = self.ids("prefilling", "ready", "sending", "running", "held")
        if self.kind in ("slots", "paged"):
            in_memory += self.ids("parked")
        if not in_memory:
            assert book.used == 0
        if self.kind == "slots":
            jobs = [self.jobs[request] for request in in_memory]
            assert book.used == sum(job.prompt_tokens + job.max_new_tokens for job in jobs)
        else:
            live = sum(ledger.batch.length(request) for request in ledger.batch.rows)
            assert book.used >= live == ledger.batch.kv_tokens

    @invariant()
    def rows_are_bounded_and_compact_when_they_decode(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger = self.ledger
        assert len(ledger.batch.rows) + len(ledger.batch.held) <= MAX_ROWS
        plan = self.flying.get(0)
        if isinstance(ledger.book, Rectangle) and plan is not None and plan.decode:
            rows = len(ledger.batch.rows)
            assert sorted(r for r in ledger.book.slots[:rows] if r is not None) == sorted(ledger.batch.rows)
            assert len(ledger.batch.rows) <= ledger.book.rows
            assert ledger.batch.longest + 1 <= ledger.book.capacity

    @invariant()
    def the_window_is_the_longest_row(self) -> None:
        if hasattr(self, "ledger"):
            batch = self.ledger.batch
            rows = [*batch.rows.values(), *batch.held.values()]
            assert batch.longest == max((batch.clock + offset for _, offset in rows), default=0)


LedgerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedger = LedgerMachine.TestCase


def test_an_illegal_plan_names_its_reason() -> None:
    ledger = make_ledger("slots")
    job = Job(0, 0.0, 10, 10)
    with pytest.raises(IllegalPlan, match="waiting"):
        ledger.begin(0, Plan([job]))
    ledger.submit([job])
    with pytest.raises(IllegalPlan, match="rows that decode"):
        ledger.begin(0, CARRY_ON)
    ledger.begin(0, Plan([job]))
    with pytest.raises(IllegalPlan, match="busy"):
        ledger.begin(0, CARRY_ON)


@pytest.mark.parametrize("kind", ["slots", "paged", "rectangle_max", "rectangle_window"])
@pytest.mark.parametrize("leave", ["park", "drop"])
def test_a_plan_of_several_parts_happens_whole_or_not_at_all(kind: str, leave: str) -> None:
    ledger = make_ledger(kind)
    running = [Job(0, 0.0, 20, 20), Job(1, 0.0, 20, 20)]
    large = Job(2, 1.0, ledger.book.limit - 20, 20)  # fits alone, not beside either of the two
    ledger.submit([*running, large])
    for job in running:
        ledger.begin(0, Plan([job], decode=bool(ledger.batch.rows)))
        ledger.commit(0, [])
    before = state(ledger)
    with pytest.raises(IllegalPlan, match="KV"):
        ledger.begin(
            0, Plan([large], park=[0] if leave == "park" else (), drop=[0] if leave == "drop" else (), decode=True)
        )
    assert state(ledger) == before
    ledger.begin(0, CARRY_ON)
