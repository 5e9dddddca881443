"""The rows of the running batch, on one decode clock."""

from collections.abc import Iterable
from heapq import heappop, heappush

from policies.job import Job
from policies.view import Row

_ID_BITS = 32
_ID = (1 << _ID_BITS) - 1


class Batch:
    """All rows advance together, so a row's length is `clock + offset` and no step visits the rows.

    Attributes:
        clock: Decode steps so far.
        rows: Live rows by request id, in the order in which they joined.
        held: Finished rows that are still computed.
        offset_sum: Sum of the offsets of the live rows.
        fresh: Live rows that have joined since the last decode step began.
    """

    def __init__(self, track_longest: bool = True) -> None:
        """Start empty; a batch whose layout has no window need not `track_longest`."""
        self.clock = 0
        self.rows: dict[int, Row] = {}
        self.held: dict[int, Row] = {}
        self.offset_sum = 0
        self.fresh: set[int] = set()
        self._track_longest = track_longest
        self._tallest: list[int] = []

    def add(self, job: Job, length: int) -> None:
        """Let a request with `length` tokens of KV join."""
        offset = length - self.clock
        request = job[0]
        self.rows[request] = (job, offset)
        self.offset_sum += offset
        self.fresh.add(request)
        if self._track_longest:
            heappush(self._tallest, -offset << _ID_BITS | request)

    def remove(self, request: int) -> Row:
        """Let a live row leave."""
        row = self.rows.pop(request)
        self.offset_sum -= row[1]
        self.fresh.discard(request)
        return row

    def hold(self, requests: Iterable[int]) -> None:
        """Keep computing rows that have finished."""
        rows, held, fresh = self.rows, self.held, self.fresh
        for request in requests:
            held[request] = row = rows.pop(request)
            self.offset_sum -= row[1]
            fresh.discard(request)

    def length(self, request: int) -> int:
        """Tokens of KV that a live row holds."""
        return self.clock + self.rows[request][1]

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV that all live rows hold."""
        return len(self.rows) * self.clock + self.offset_sum

    @property
    def longest(self) -> int:
        """Tokens of KV that the longest row holds, held rows counted; 0 when the batch is empty."""
        tallest, rows, held = self._tallest, self.rows, self.held
        while tallest:
            entry = tallest[0]
            row = rows.get(entry & _ID) or held.get(entry & _ID)
            if row is not None and row[1] == -(entry >> _ID_BITS):
                return self.clock + row[1]
            heappop(tallest)
        return 0
