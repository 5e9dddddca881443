"""Contenders that take turns, since machines drift: a ratio is taken within a round."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Contender = Callable[[], float]
"""Does its work once; returns what is said of it, in seconds."""


@dataclass
class Turns:
    """What contenders did.

    Attributes:
        taken: Seconds by name, one for every round; None where there was no time for a turn.
        failed: Why a contender could not go on, in one line, by name.
    """

    taken: dict[str, list[float | None]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def seconds(self, name: str) -> list[float]:
        """Return the seconds of the turns that a contender took."""
        return [seconds for seconds in self.taken[name] if seconds is not None]

    def ratios(self, name: str, to: str) -> list[float]:
        """Return, for every round in which both took their turn, how many times as long the first took."""
        pairs = zip(self.taken[name], self.taken[to], strict=False)
        return [one / other for one, other in pairs if one is not None and other is not None]


def rounds(
    contenders: Mapping[str, Contender],
    count: int,
    until: float = math.inf,
    tell: Callable[[str], None] = lambda told: None,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[str, int, float], None] = lambda name, place, seconds: None,
) -> Turns:
    """Let everybody take a turn per round, in an order that turns.

    Args:
        contenders: By name, those first that are wanted most: the first round is in this order.
        count: Most rounds.
        until: No turn begins after this time, nor one that took longer before than what is left.
        tell: Hears of every turn.
        clock: What `until` is told by, in seconds.
        on_turn: Hears of every turn that ended well: whose it was, of which round, counted from 0, and its seconds.
    """
    turns, names = Turns({name: [] for name in contenders}), list(contenders)
    lasted = dict.fromkeys(names, 0.0)
    for place in range(count):
        for name in names[place % len(names) :] + names[: place % len(names)]:
            start = clock()
            seconds = None
            if name not in turns.failed and start + lasted[name] < until:
                try:
                    seconds = contenders[name]()
                    tell(f"round {place + 1}: {name} {seconds:.2f} s")
                    on_turn(name, place, seconds)
                except Exception as error:  # a peer may fail in ways of its own; the others go on
                    turns.failed[name] = in_one_line(error)
                    tell(f"round {place + 1}: {name} failed: {turns.failed[name]}")
                lasted[name] = clock() - start
            turns.taken[name].append(seconds)
    return turns


def in_one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
