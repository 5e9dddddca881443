"""The rows of the running batch, on one decode clock."""

from heapq import heappop, heappush
from typing import NamedTuple

from policies.job import Job


class Row(NamedTuple):
    """One request in the batch; it holds `clock + offset` tokens of KV.

    Attributes:
        job: The request.
        offset: Its length less the decode clock; it never changes while the row stays in the batch.
    """

    job: Job
    offset: int


class Batch:
    """All rows advance together, so a row's length is `clock + offset` and no step visits the rows.

    Attributes:
        clock: Decode steps so far.
        rows: Live rows by request id, in the order in which they joined.
        held: Finished rows that are still computed.
        offset_sum: Sum of the offsets of the live rows.
    """

    def __init__(self) -> None:
        self.clock = 0
        self.rows: dict[int, Row] = {}
        self.held: dict[int, Row] = {}
        self.offset_sum = 0
        self._tallest: list[tuple[int, int]] = []

    def add(self, job: Job, length: int) -> None:
        """Let a request with `length` tokens of KV join."""
        offset = length - self.clock
        self.rows[job.id] = Row(job, offset)
        self.offset_sum += offset
        heappush(self._tallest, (-offset, job.id))

    def remove(self, request: int) -> Row:
        """Let a live row leave."""
        row = self.rows.pop(request)
        self.offset_sum -= row.offset
        return row

    def hold(self, request: int) -> None:
        """Keep computing a row that has finished."""
        self.held[request] = self.remove(request)

    def length(self, request: int) -> int:
        """Tokens of KV that a live row holds."""
        return self.clock + self.rows[request].offset

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV that all live rows hold."""
        return len(self.rows) * self.clock + self.offset_sum

    @property
    def longest(self) -> int:
        """Tokens of KV that the longest row holds, held rows counted; 0 when the batch is empty."""
        tallest, rows, held = self._tallest, self.rows, self.held
        while tallest:
            offset, request = tallest[0]
            row = rows.get(request) or held.get(request)
            if row is not None and row.offset == -offset:
                return self.clock - offset
            heappop(tallest)
        return 0
