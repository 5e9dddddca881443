"""Contenders take turns: in which order, until when, and what becomes of one that fails."""

from collections.abc import Callable

import pytest

from benchmarks.rounds import Contender, Turns, in_one_line, rounds


class Clock:
    """Time that passes only where somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.worked: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float, said: float = 1.0) -> Contender:
        def work() -> float:
            self.worked.append(name)
            self.now += seconds
            return said

        return work

    def contenders(self, **seconds: float) -> dict[str, Contender]:
        return {name: self.contender(name, each) for name, each in seconds.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_order_turns_from_round_to_round(clock: Clock) -> None:
    turns = rounds(clock.contenders(a=1, b=1, c=1), 3, clock=clock)
    assert "".join(clock.worked) == "abc" + "bca" + "cab"
    assert turns.taken == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_no_turn_begins_late_nor_one_that_took_longer_than_what_is_left(clock: Clock) -> None:
    turns = rounds(clock.contenders(short=1, long=5), 3, until=10.0, clock=clock)
    # At 6 long would take until 11, short not; at 7 the third round finds the same, and is over at 8.
    assert clock.worked == ["short", "long", "short", "short"]
    assert turns.taken == {"short": [1.0, 1.0, 1.0], "long": [1.0, None, None]}


def test_after_the_end_nobody_takes_a_turn(clock: Clock) -> None:
    turns = rounds(clock.contenders(a=1), 1, until=0.0, clock=clock)
    assert not clock.worked and turns.taken == {"a": [None]} and turns.seconds("a") == []


def test_one_that_fails_is_told_of_and_is_not_asked_again(clock: Clock) -> None:
    asked: list[str] = []

    def fails() -> float:
        asked.append("bad")
        raise RuntimeError("\n  the kernel\nis not there")

    told: list[str] = []
    turns = rounds({"bad": fails, **clock.contenders(good=1)}, 2, tell=told.append, clock=clock)
    assert asked == ["bad"] and turns.failed == {"bad": "RuntimeError: the kernel"}
    assert turns.taken == {"bad": [None, None], "good": [1.0, 1.0]}
    assert told[0] == "round 1: bad failed: RuntimeError: the kernel"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_stop_stops_everybody(clock: Clock, stop: Callable[[], BaseException]) -> None:
    def stops() -> float:
        raise stop()

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        rounds({"stops": stops, **clock.contenders(other=1)}, 1, clock=clock)
    assert not clock.worked


def test_ratios_are_taken_within_a_round() -> None:
    turns = Turns({"a": [2.0, None, 6.0], "b": [1.0, 1.0, 2.0], "c": [None, 4.0, None]})
    assert turns.ratios("a", "b") == [2.0, 3.0] and turns.ratios("a", "c") == []


def test_an_error_without_words_goes_by_its_kind() -> None:
    assert in_one_line(ValueError()) == "ValueError"
