"""Where jobs come from while a simulation runs."""

import math
from collections.abc import Iterator
from itertools import repeat
from typing import Protocol

from policies.job import Job
from workloads.requests import Requests

CHUNK = 8192


def jobs_of(requests: Requests) -> Iterator[Job]:
    """Yield the requests as jobs, by id, made a chunk at a time."""
    for start in range(0, len(requests), CHUNK):
        part = slice(start, start + CHUNK)
        columns = (
            requests.arrival_s[part].tolist(),
            requests.prompt_tokens[part].tolist(),
            requests.max_new_tokens[part].tolist(),
            requests.priority[part].tolist(),
            requests.prefix_id[part].tolist(),
            requests.prefix_tokens[part].tolist(),
        )
        yield from map(tuple.__new__, repeat(Job), zip(range(start, start + CHUNK), *columns, strict=False))


class Source(Protocol):
    """Hands out jobs as they arrive.

    Attributes:
        next_s: When the next job arrives; infinity when none is known to come.
    """

    next_s: float

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have arrived by `now` and were not taken yet."""

    def left(self, count: int, now: float) -> None:
        """Hear that `count` requests have left the system."""


class OpenSource:
    """Jobs arrive at times of their own."""

    def __init__(self, requests: Requests) -> None:
        self._jobs = jobs_of(requests)
        self._next = next(self._jobs, None)
        self.next_s = self._next.arrival_s if self._next else math.inf

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have arrived by `now` and were not taken yet."""
        taken = []
        job = self._next
        while job is not None and job.arrival_s <= now:
            taken.append(job)
            job = next(self._jobs, None)
        self._next = job
        self.next_s = job.arrival_s if job else math.inf
        return taken

    def left(self, count: int, now: float) -> None:
        """Departures do not matter here."""


class ClosedLoop:
    """A fixed number of clients, each with one request in flight: the next arrives as one leaves."""

    def __init__(self, requests: Requests, concurrency: int) -> None:
        self._jobs = jobs_of(requests)
        self._remaining = len(requests)
        self._due: list[float] = []
        self.next_s = math.inf
        self.left(concurrency, 0.0)

    def take(self, now: float) -> list[Job]:
        """Return the jobs that were released; they arrive when released."""
        taken = [next(self._jobs)._replace(arrival_s=released) for released in self._due]
        self._due.clear()
        self.next_s = math.inf
        return taken

    def left(self, count: int, now: float) -> None:
        """Let as many clients send their next request."""
        released = min(count, self._remaining)
        if released:
            self._remaining -= released
            self._due.extend([now] * released)
            self.next_s = self._due[0]


def source_of(requests: Requests) -> Source:
    """Return the source that a workload's arrivals ask for."""
    if requests.concurrency is not None:
        return ClosedLoop(requests, requests.concurrency)
    return OpenSource(requests)
