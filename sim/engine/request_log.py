"""The true output lengths, which only the engine knows, and what became of every request."""

from array import array
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import isnan

from policies.job import Job
from workloads.requests import Requests

_ID_BITS = 32
_ID = (1 << _ID_BITS) - 1


class RequestLog:
    """When each request ends, on the decode clock of the batch, and when things happened to it, in seconds.

    Attributes:
        arrival_s: When it arrived (known only then in a closed loop). One entry per request, as below.
        first_scheduled_s: Start of its first prefill; NaN until then.
        first_token_s: End of its first prefill.
        finish_s: End of the iteration that gave its last token, or that released it.
        join_clock: Decode clock when it first joined the batch; -1 if it never decoded before it was preempted.
        preemptions: How often a request was preempted, by id.
        recomputed: (request, time of the token before, time of the token) of every prefill after a drop.
        last_token_s: End of the iteration that gave its last token.
        rejected: Requests that can never be served.
        finished: How many requests have finished.
    """

    def __init__(self, requests: Requests, release_with_batch: bool = False) -> None:
        """Know the output lengths of a workload.

        Args:
            requests: The workload.
            release_with_batch: Whether answers leave with their batch: until then they are not finished.
        """
        count = len(requests)
        self._release_with_batch = release_with_batch
        unknown = array("d", [float("nan")]) * count
        self.arrival_s = array("d", requests.arrival_s.tobytes())
        self.first_scheduled_s = unknown[:]
        self.first_token_s = unknown[:]
        self.finish_s = unknown
        self.last_token_s = unknown[:] if release_with_batch else unknown
        self.join_clock = array("q", [-1]) * count
        self.preemptions: dict[int, int] = {}
        self._rejoins: dict[tuple[int, int], float] = {}
        self.recomputed: list[tuple[int, float, float]] = []
        self.rejected: set[int] = set()
        self.finished = 0
        self._output_tokens = array("q", requests.output_tokens.tobytes())
        self._left: dict[int, int] = {}
        self._token_s: dict[int, float] = {}
        self._due: list[int] = []
        self._unreleased: list[int] = []

    @property
    def next_finish(self) -> int:
        """Decode clock at which the next row of the batch ends; only of a batch that has live rows."""
        return self._due[0] >> _ID_BITS

    def scheduled(self, jobs: Iterable[Job], start: float) -> None:
        """A part of each job's prompt was computed from `start` on, perhaps its first."""
        for job in jobs:
            if isnan(self.first_scheduled_s[job[0]]):
                self.first_scheduled_s[job[0]] = start

    def prefilled(self, jobs: Sequence[Job], start: float | None, now: float, clock: int | None) -> list[int]:
        """A prefill gave each job a token; return those for which it was the last.

        The others have become rows at decode clock `clock`, or lie beside the batch if it is None. The prefill began at
        `start`; None: `scheduled` has said when.
        """
        ended: list[int] = []
        output_tokens, left, interrupted = self._output_tokens, self._left, self._token_s
        due, join_clock = self._due, self.join_clock
        for job in jobs:
            request = job[0]
            if interrupted and request in interrupted:
                remaining = left.pop(request) - 1
                self.recomputed.append((request, self._token_s[request], now))
                self._token_s[request] = now
            else:
                if start is not None:
                    self.first_scheduled_s[request] = start
                self.first_token_s[request] = now
                remaining = output_tokens[request] - 1
            if not remaining:
                ended.append(request)
                self.last_token_s[request] = now
            elif clock is None:
                left[request] = remaining
            elif interrupted:
                self._join(request, clock, remaining)
            else:
                heappush(due, (clock + remaining) << _ID_BITS | request)
                join_clock[request] = clock
        return ended

    def joined(self, requests: Iterable[int], clock: int) -> None:
        """Requests have become rows; their next tokens come with the decode step that starts at `clock`."""
        left, due, join_clock = self._left, self._due, self.join_clock
        for request in requests:
            if self._token_s:
                self._join(request, clock, left.pop(request))
            else:
                heappush(due, (clock + left.pop(request)) << _ID_BITS | request)
                join_clock[request] = clock

    def _join(self, request: int, clock: int, left: int) -> None:
        heappush(self._due, (clock + left) << _ID_BITS | request)
        if self.join_clock[request] < 0 and request not in self._token_s:
            self.join_clock[request] = clock
        else:
            self._rejoins[clock, request] = self._token_s[request]

    def _undo_join(self, request: int, clock: int) -> None:
        """Forget that a row joined at `clock` if it leaves at the same: it has decoded nothing in between."""
        if self.join_clock[request] == clock:
            self.join_clock[request] = -1
        self._rejoins.pop((clock, request), None)

    @property
    def rejoins(self) -> list[tuple[int, int, float]]:
        """(request, decode clock, time of the token before) of every return to the batch after a preemption."""
        return [(request, clock, token_s) for (clock, request), token_s in self._rejoins.items()]

    def interrupted(self, requests: Sequence[int], clock: int, token_s: float) -> None:
        """Requests have left the batch before their end; the last tokens of those that were rows came at `token_s`."""
        leaving = set(requests)
        for request in requests:
            self.preemptions[request] = self.preemptions.get(request, 0) + 1
        for entry in self._due:
            request = entry & _ID
            if request in leaving:
                self._left[request] = (entry >> _ID_BITS) - clock
                self._token_s[request] = max(token_s, self._token_s.get(request, self.first_token_s[request]))
                self._undo_join(request, clock)
        self._due = [entry for entry in self._due if entry & _ID not in leaving]
        heapify(self._due)

    def ending(self, clock: int, now: float) -> list[int]:
        """Return, and forget, the rows whose last token came with the step that ended at `clock`, at time `now`."""
        due, ended = self._due, []
        limit = (clock + 1) << _ID_BITS
        while due and due[0] < limit:
            request = heappop(due) & _ID
            self.last_token_s[request] = now
            ended.append(request)
        return ended

    def leave(self, requests: Sequence[int], now: float, batch_runs_on: bool) -> int:
        """Answers have ended: return how many leave at time `now`.

        All of them; but where they leave with their batch none while it runs on, then all that have ended since.
        """
        if self._release_with_batch:
            self._unreleased += requests
            if batch_runs_on:
                return 0
            requests, self._unreleased = self._unreleased, []
            for request in requests:
                self.finish_s[request] = now
        self.finished += len(requests)
        return len(requests)

    def stopped(self, request: int, now: float) -> None:
        """A request has ended before its output length: its model said so with the token that came at `now`."""
        self._due = [entry for entry in self._due if entry & _ID != request]
        heapify(self._due)
        self._left.pop(request, None)
        self.last_token_s[request] = now
