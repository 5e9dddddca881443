"""Ctrl-C and SIGTERM as one KeyboardInterrupt, which never comes in the middle of a write."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 2.0
"""A signal so soon after the first is its echo: `timeout` sends two."""


class Interruption:
    """Hears SIGINT and SIGTERM.

    Attributes:
        wanted: Whether one came.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = False
        self._clock = clock
        self._raised_s = -AGAIN_S
        self._depth = 0
        self._due = False
        self._over = False

    def listen(self) -> "Interruption":
        """Hear from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.hear)
        return self

    def hear(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """Raise, or make a note of it while something is written; once `over`, do nothing.

        Raises:
            KeyboardInterrupt: Whoever runs is to stop.
        """
        self.wanted = True
        if self._over or self._clock() < self._raised_s + AGAIN_S:
            return
        if self._depth:
            self._due = True
            return
        self._raise()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a write end first.

        Raises:
            KeyboardInterrupt: After the block, if a signal came meanwhile.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._due and not self._depth and not self._over:
            self._raise()

    def check(self) -> None:
        """Raise if somebody along the way swallowed the interrupt, as a destructor or a foreign library does.

        Raises:
            KeyboardInterrupt: A signal came.
        """
        if self.wanted and not self._over:
            self._raise()

    def over(self) -> None:
        """Heed no signal any more: what is left is to write."""
        self._over = True

    def _raise(self) -> None:
        self._due, self._raised_s = False, self._clock()
        raise KeyboardInterrupt
