"""The waiting queue and the orders it can be served in."""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from policies.errors import InputError
from policies.job import Job

Key = Callable[[Job], tuple[float, ...]]
"""The place of a job in the queue, smallest first; every key ends in (arrival_s, id), so that no two are equal."""

Predictor = Callable[[Job], float]
"""A prediction of how many tokens a job will generate."""

ORDERS = ("fcfs", "sjf", "priority")


def declared(job: Job) -> float:
    """Predict that a job generates all the tokens it declared."""
    return job.max_new_tokens


def first_come_first_served(job: Job) -> tuple[float, ...]:
    """Order by arrival."""
    return (job.arrival_s, job.id)


def order_key(order: str, predictor: Predictor = declared) -> Key:
    """Return the key of a queue order.

    Args:
        order: `fcfs` (arrival), `sjf` (fewest prompt plus predicted new tokens) or `priority` (lowest number).
        predictor: The prediction that `sjf` orders by.

    Raises:
        InputError: The order is unknown.
    """
    if order == "fcfs":
        return first_come_first_served
    if order == "sjf":
        return lambda job: (job.prompt_tokens + predictor(job), job.arrival_s, job.id)
    if order == "priority":
        return lambda job: (job.priority, job.arrival_s, job.id)
    raise InputError(f"policy.order={order}: unknown queue order; choose one of {', '.join(ORDERS)}")


class Queue(Protocol):
    """Jobs that wait, iterated in the order in which they are served.

    Attributes:
        key: The place of a job in that order.
    """

    key: Key

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Job]: ...

    def push(self, job: Job) -> None:
        """Put a job in its place."""

    def holds(self, jobs: Sequence[Job]) -> bool:
        """Whether all these jobs wait, none named twice."""

    def take(self, jobs: Sequence[Job]) -> None:
        """Remove jobs that wait."""


class ArrivalQueue:
    """First come, first served: a deque, since jobs arrive in order."""

    def __init__(self) -> None:
        self.key: Key = first_come_first_served
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def push(self, job: Job) -> None:
        """Append an arrival; a job that comes back goes where its arrival puts it, near the head."""
        jobs = self._jobs
        if not jobs or (jobs[-1].arrival_s, jobs[-1].id) < (job.arrival_s, job.id):
            jobs.append(job)
            return
        place = next(i for i, other in enumerate(jobs) if (job.arrival_s, job.id) <= (other.arrival_s, other.id))
        jobs.insert(place, job)

    def holds(self, jobs: Sequence[Job]) -> bool:
        """Whether all these jobs wait, none named twice."""
        waiting = iter(self._jobs)
        for job in jobs:
            if next(waiting, None) is not job:
                return len(set(jobs)) == len(jobs) and all(job in self._jobs for job in jobs)
        return True

    def take(self, jobs: Sequence[Job]) -> None:
        """Remove jobs that wait."""
        for job in jobs:
            if self._jobs[0] is job:
                self._jobs.popleft()
            else:
                self._jobs.remove(job)


class OrderedQueue:
    """Served by a key: a sorted front that has been looked at, and a heap behind it that has not."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self._front: list[tuple[tuple[float, ...], Job]] = []
        self._heap: list[tuple[tuple[float, ...], Job]] = []

    def __len__(self) -> int:
        return len(self._front) + len(self._heap)

    def __iter__(self) -> Iterator[Job]:
        front, heap = self._front, self._heap
        place = 0
        while place < len(front) or heap:
            if place == len(front):
                front.append(heapq.heappop(heap))
            yield front[place][1]
            place += 1

    def push(self, job: Job) -> None:
        """Put a job in its place."""
        entry = (self.key(job), job)
        if self._front and entry < self._front[-1]:
            insort(self._front, entry)
        else:
            heapq.heappush(self._heap, entry)

    def holds(self, jobs: Sequence[Job]) -> bool:
        """Whether all these jobs wait, none named twice."""
        ids = {job.id for job in jobs}
        if len(ids) != len(jobs):
            return False
        front = {job.id for _, job in self._front}
        return ids <= front or ids <= front | {job.id for _, job in self._heap}

    def take(self, jobs: Sequence[Job]) -> None:
        """Remove jobs that wait."""
        ids = {job.id for job in jobs}
        self._front = [entry for entry in self._front if entry[1].id not in ids]
        if any(entry[1].id in ids for entry in self._heap):
            self._heap = [entry for entry in self._heap if entry[1].id not in ids]
            heapq.heapify(self._heap)


def make_queue(order: str, predictor: Predictor = declared) -> Queue:
    """Return an empty queue that serves in this order."""
    return ArrivalQueue() if order == "fcfs" else OrderedQueue(order_key(order, predictor))
