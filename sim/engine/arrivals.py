"""Where jobs come from while an engine runs."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from operator import attrgetter
from typing import Protocol

from policies.job import Job
from workloads.requests import Requests

CHUNK = 8192
_arrival = attrgetter("arrival_s")


def chunks_of(requests: Requests) -> Iterator[list[Job]]:
    """Yield the requests as jobs, by id, a chunk at a time."""
    for start in range(0, len(requests), CHUNK):
        part = slice(start, start + CHUNK)
        columns = (
            requests.arrival_s[part].tolist(),
            requests.prompt_tokens[part].tolist(),
            requests.max_new_tokens[part].tolist(),
            requests.priority[part].tolist(),
            requests.prefix_id[part].tolist(),
            requests.prefix_tokens[part].tolist(),
            repeat(()) if requests.prefix_hashes is None else requests.prefix_hashes[part].tolist(),
            repeat(requests.hash_tokens),
        )
        fields = zip(range(start, start + CHUNK), *columns, strict=False)
        yield list(map(tuple.__new__, repeat(Job), fields))


class Arrivals(Protocol):
    """Hands out jobs as they arrive.

    Attributes:
        next_s: When the next job arrives; infinity when none is known to come.
        delay_s: How long after a job is sent it arrives.
        follow_answers: Whether a job is sent as an answer leaves, so that no arrival is known beforehand.
    """

    next_s: float
    delay_s: float
    follow_answers: bool

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have arrived by `now` and were not taken yet."""

    def left(self, count: int, now: float) -> None:
        """Hear that `count` requests have left the system."""


class OpenLoop:
    """Jobs are sent at times of their own."""

    follow_answers = False

    def __init__(self, requests: Requests, delay_s: float = 0.0) -> None:
        """Begin with the first request; each arrives `delay_s` later than it is sent."""
        self.delay_s = delay_s
        self._chunks = chunks_of(replace(requests, arrival_s=requests.arrival_s + delay_s) if delay_s else requests)
        self._jobs: list[Job] = []
        self._place = 0
        self.next_s = -math.inf
        self._look_ahead()

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have arrived by `now` and were not taken yet."""
        taken: list[Job] = []
        while self.next_s <= now:
            jobs, start = self._jobs, self._place
            if jobs[-1].arrival_s <= now:
                self._place = len(jobs)
            else:
                self._place = bisect_right(jobs, now, start + 1, key=_arrival)
            taken += jobs[start : self._place] if start or self._place < len(jobs) else jobs
            self._look_ahead()
        return taken

    def _look_ahead(self) -> None:
        if self._place == len(self._jobs):
            self._jobs, self._place = next(self._chunks, []), 0
        self.next_s = self._jobs[self._place].arrival_s if self._jobs else math.inf

    def left(self, count: int, now: float) -> None:
        """Requests that leave do not matter here."""


class ClosedLoop:
    """A fixed number of clients, each with one request in flight: the next is sent as one leaves."""

    follow_answers = True

    def __init__(self, requests: Requests, concurrency: int, delay_s: float = 0.0) -> None:
        """Let every client send its first request; each arrives `delay_s` later."""
        self.delay_s = delay_s
        self._jobs = chain.from_iterable(chunks_of(requests))
        self._remaining = len(requests)
        self._due: list[float] = []
        self.next_s = math.inf
        self.left(concurrency, 0.0)

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have arrived by `now` and were not taken yet."""
        place = bisect_right(self._due, now)
        taken = [next(self._jobs)._replace(arrival_s=arrival) for arrival in self._due[:place]]
        del self._due[:place]
        self.next_s = self._due[0] if self._due else math.inf
        return taken

    def left(self, count: int, now: float) -> None:
        """Let as many clients send their next request."""
        released = min(count, self._remaining)
        if released:
            self._remaining -= released
            self._due.extend([now + self.delay_s] * released)
            self.next_s = self._due[0]


def arrivals_of(requests: Requests, delay_s: float = 0.0) -> Arrivals:
    """Return the arrivals of a workload; jobs arrive `delay_s` after clients have sent them."""
    if requests.concurrency is not None:
        return ClosedLoop(requests, requests.concurrency, delay_s)
    return OpenLoop(requests, delay_s)
