"""A run on tape: every question to the policy and every end of an iteration, in one order; and its replay.

The replay is the simulator's: a ledger, views and counts of its own. It takes from the tape only what the world
decides: when it was, which jobs had been seen, and which requests ended.
"""

from collections.abc import Iterable
from typing import NamedTuple

from policies.job import Job
from policies.ledger.ledger_view import LedgerView
from policies.ledger.opening import make_ledger
from policies.plan import Plan
from policies.policy import Policy
from policies.queue import Predictor, declared
from sim.cost.work import Work
from sim.engine.captured import counting
from sim.engine.execution import EAGER, Execution


class Asked(NamedTuple):
    """A lane was free, and the policy was asked.

    Attributes:
        lane: The lane.
        now: When, in seconds.
        arrived: Jobs first seen then, in order.
        plan: The answer.
    """

    lane: int
    now: float
    arrived: tuple[Job, ...]
    plan: Plan


class Committed(NamedTuple):
    """An iteration ended.

    Attributes:
        lane: The lane it ran on.
        now: When, in seconds.
        work: What it computed.
        finished: Requests that had their last token from it.
    """

    lane: int
    now: float
    work: Work
    finished: tuple[int, ...]


Tape = list[Asked | Committed]
"""The events of a run, in order."""


class Difference(NamedTuple):
    """Where a replay left the tape.

    Attributes:
        event: Index on the tape.
        what: `plan` or `work`.
        taped: What the tape says.
        replayed: What the replay found.
    """

    event: int
    what: str
    taped: Plan | Work
    replayed: Plan | Work


def replay(
    tape: Iterable[Asked | Committed],
    policy: Policy,
    kv_tokens: int,
    predictor: Predictor = declared,
    *,
    execution: Execution = EAGER,
) -> list[Difference]:
    """Run a tape through the simulator's state; return where its plans or its work differ, at the first such event.

    Args:
        tape: What happened.
        policy: What decided.
        kv_tokens: KV memory of the run, in tokens.
        predictor: What `sjf` orders by.
        execution: How the decode steps of the run were executed.
    """
    ledger = make_ledger(policy, kv_tokens, predictor)
    view, count = LedgerView(ledger), counting(policy.traits, execution).work
    begun: dict[int, Work] = {}
    for index, event in enumerate(tape):
        if isinstance(event, Committed):
            work = begun.pop(event.lane)
            if work != event.work:
                return [Difference(index, "work", event.work, work)]
            ledger.commit(event.lane, event.finished)
            continue
        ledger.submit(event.arrived)
        plan = policy.plan(view, event.now, event.lane)
        if plan != event.plan:
            return [Difference(index, "plan", event.plan, plan)]
        if plan.acts:
            ledger.begin(event.lane, plan)
            begun[event.lane] = count(ledger, plan, event.lane)
    return []
