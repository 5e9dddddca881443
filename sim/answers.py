"""The true output lengths, which only the engine knows, and what became of every request."""

import heapq
from array import array
from collections.abc import Sequence
from enum import IntEnum

from policies.job import Job
from workloads.requests import Requests

_ID_BITS = 32
_ID = (1 << _ID_BITS) - 1


class Status(IntEnum):
    """How a request stands when the run is over."""

    UNFINISHED = 0
    FINISHED = 1
    REJECTED = 2


class Answers:
    """When each request ends, on the decode clock of the batch, and when things happened to it, in seconds.

    Attributes:
        first_scheduled_s: Start of its first prefill; NaN until then. One entry per request, as below.
        first_token_s: End of its first prefill.
        finish_s: End of the iteration that gave its last token, or that released it.
        join_clock: Decode clock when it first joined the batch; -1 if it never did.
        preemptions: How often it was parked or dropped.
        status: A `Status`.
        rejoins: (decode clock, time of the token before) of every return to the batch after a preemption.
        finished: How many requests have finished.
    """

    def __init__(self, requests: Requests) -> None:
        count = len(requests)
        unknown = array("d", [float("nan")]) * count
        self.arrival_s = array("d", requests.arrival_s.tobytes())
        self.first_scheduled_s = unknown[:]
        self.first_token_s = unknown[:]
        self.finish_s = unknown
        self.join_clock = array("q", [-1]) * count
        self.preemptions = array("q", [0]) * count
        self.status = array("b", [Status.UNFINISHED]) * count
        self.rejoins: list[tuple[int, float]] = []
        self.finished = 0
        self._output_tokens = array("q", requests.output_tokens.tobytes())
        self._left: dict[int, int] = {}
        self._interrupted_s: dict[int, float] = {}
        self._due: list[int] = []

    @property
    def next_finish(self) -> int:
        """Decode clock at which the next row of the batch ends; only of a batch that has live rows."""
        return self._due[0] >> _ID_BITS

    def scheduled(self, jobs: Sequence[Job], now: float) -> None:
        """A prefill of these jobs starts."""
        for job in jobs:
            if self.preemptions[job.id] == 0:
                self.first_scheduled_s[job.id] = now

    def prefilled(self, jobs: Sequence[Job], now: float) -> list[int]:
        """A prefill ended and gave each job a token; return those for which it was the last."""
        ended = []
        for job in jobs:
            request = job.id
            if self.preemptions[request] == 0:
                self.first_token_s[request] = now
                left = self._output_tokens[request] - 1
            else:
                left = self._left[request] - 1
            if left:
                self._left[request] = left
            else:
                ended.append(request)
        return ended

    def joined(self, request: int, clock: int) -> None:
        """A request has become a row; its next token comes with the decode step that starts at `clock`."""
        heapq.heappush(self._due, (clock + self._left.pop(request)) << _ID_BITS | request)
        if self.join_clock[request] < 0:
            self.join_clock[request] = clock
        else:
            self.rejoins.append((clock, self._interrupted_s.pop(request)))

    def interrupted(self, requests: Sequence[int], clock: int, now: float) -> None:
        """Rows have left the batch before their end."""
        leaving = set(requests)
        for entry in self._due:
            request = entry & _ID
            if request in leaving:
                self._left[request] = (entry >> _ID_BITS) - clock
                self._interrupted_s[request] = now
                self.preemptions[request] += 1
        self._due = [entry for entry in self._due if entry & _ID not in leaving]
        heapq.heapify(self._due)

    def ending(self, clock: int) -> list[int]:
        """Return, and forget, the rows whose last token comes with the step that ends at `clock`."""
        due = self._due
        ended = []
        limit = (clock + 1) << _ID_BITS
        while due and due[0] < limit:
            ended.append(heapq.heappop(due) & _ID)
        return ended

    def finish(self, requests: Sequence[int], now: float) -> None:
        """Requests have left with their whole answers."""
        for request in requests:
            self.finish_s[request] = now
            self.status[request] = Status.FINISHED
        self.finished += len(requests)

    def reject(self, request: int) -> None:
        """A request can never be served."""
        self.status[request] = Status.REJECTED
