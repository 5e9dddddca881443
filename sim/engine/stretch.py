"""A stretch of iterations: what a lane is doing."""

import math

from simpy.events import Event

from policies.ledger.ledger import Ledger
from policies.plan import Plan
from sim.cost.work import Work
from sim.engine.iteration_log import Head


class Stretch:
    """`steps` iterations of one plan: the first takes `first` seconds, each later one `growth` longer than before.

    Attributes:
        plan: The plan that was begun.
        work: Its first iteration's work.
        start: When it began.
        first: Seconds of its first iteration, alone on the GPU.
        growth: Seconds by which each iteration is longer than the one before.
        steps: Iterations it covers.
        fixed_window: Whether they all read one window, as captured steps do, rather than one that grows.
        waiting: Jobs in the queue as it began.
        kv: KV memory taken as it began, in tokens.
        live: Live rows of the batch as it began.
        left: Seconds still to run, alone on the GPU, as of `since`.
        since: When `left` was last brought up to date.
        slowdown: How many times slower than alone it has run since.
        usage: Shares of the GPU's FLOPs and memory traffic that it takes alone, where it shares the GPU.
        event: The SimPy event that ends it.
    """

    __slots__ = (
        "event", "first", "fixed_window", "growth", "kv", "left", "live", "plan", "since", "slowdown", "start", "steps",
        "usage", "waiting", "work",
    )  # fmt: skip

    def __init__(self, plan: Plan, work: Work, start: float, first: float, ledger: Ledger) -> None:
        book = ledger.book
        self.plan = plan
        self.work = work
        self.start = self.since = start
        self.first = self.left = first
        self.growth = 0.0
        self.steps = 1
        self.fixed_window = False
        self.waiting = len(ledger.waiting)
        self.kv = book.used + book.transient
        self.live = len(ledger.batch.rows)
        self.slowdown = 1.0
        self.usage: tuple[float, float] | None = None
        self.event: Event | None = None

    def head(self, duration: float, first: float, steps: int) -> Head:
        """Return what the iteration log records of its first `steps` iterations, of which the first took `first`."""
        return self.start, duration, first, steps, self.waiting, self.kv, self.live, self.fixed_window

    def elapsed(self, steps: int) -> float:
        """Seconds that the first `steps` iterations take, alone on the GPU."""
        return elapsed(self.first, self.growth, steps)

    def steps_within(self, seconds: float) -> int:
        """The most iterations that take `seconds` or less."""
        return steps_within(self.first, self.growth, seconds)


def elapsed(first: float, growth: float, steps: int) -> float:
    """Seconds that `steps` iterations take: the first of them `first`, each later one `growth` longer than before."""
    return steps * first + growth * (steps * (steps - 1) // 2)


def steps_until(first: float, growth: float, seconds: float) -> int:
    """The fewest iterations, at least one, that take `seconds` or more."""
    steps = steps_within(first, growth, seconds)
    return max(1, steps if elapsed(first, growth, steps) >= seconds else steps + 1)


def steps_within(first: float, growth: float, seconds: float) -> int:
    """The most iterations that take `seconds` or less."""
    half = first - growth / 2
    steps = int(2 * seconds / (half + math.sqrt(half * half + 2 * growth * seconds)))
    while elapsed(first, growth, steps + 1) <= seconds:
        steps += 1
    while elapsed(first, growth, steps) > seconds:
        steps -= 1
    return steps
