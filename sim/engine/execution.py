"""How decode steps are executed: as they come, or captured once for each of a few shapes and replayed.

A captured step (on a GPU a CUDA graph) has fixed shapes. Live rows are filled up with dummy rows to the next shape that
is captured, and where attention reads the padded window, the window is rounded up as well. Both engines count what
that computes, so the rule is here.
"""

from dataclasses import dataclass

from policies.checks import InputError

EXECUTIONS = ("eager", "graphs")

WINDOW_STEP = 128
"""Captured windows are multiples of it, in KV tokens."""

ROWS_STEP = 8
"""Captured numbers of rows are 1, 2, 4, and multiples of it."""


@dataclass(frozen=True)
class Execution:
    """One of `EXECUTIONS`.

    Attributes:
        name: `eager` or `graphs`.
    """

    name: str = "eager"

    def __post_init__(self) -> None:
        """Refuse what is unknown."""
        if self.name not in EXECUTIONS:
            raise InputError(f"execution={self.name}: unknown; choose one of {', '.join(EXECUTIONS)}")

    @property
    def captured(self) -> bool:
        """Whether decode steps are captured and replayed."""
        return self.name == "graphs"

    def rows(self, rows: int, most: int) -> int:
        """Return how many rows a decode step of so many computes, where there is memory for at most `most`."""
        if not self.captured or rows >= most:
            return rows
        if rows <= ROWS_STEP // 2:
            return min(most, 1 << (rows - 1).bit_length())
        return min(most, -(-rows // ROWS_STEP) * ROWS_STEP)

    def window(self, window: int, capacity: int) -> int:
        """Return how many KV slots a padded row of a decode step reads, where a row has room for `capacity`."""
        if not self.captured:
            return window
        return min(capacity, -(-window // WINDOW_STEP) * WINDOW_STEP)


EAGER = Execution()
GRAPHS = Execution("graphs")
