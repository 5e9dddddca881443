"""The waiting queue and the orders it can be served in."""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from policies.checks import InputError
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
    """Jobs that wait, iterated in the order in which they are served."""

    @property
    def key(self) -> Key:
        """The place of a job in that order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Job]: ...

    def __contains__(self, job: object) -> bool: ...

    def push(self, job: Job) -> None:
        """Put a job in its place."""

    def extend_arrivals(self, jobs: Iterable[Job]) -> None:
        """Put new arrivals in their places."""

    def take(self, jobs: Sequence[Job]) -> bool:
        """Remove jobs that wait; change nothing and return False unless all of them do, none named twice."""


class ArrivalQueue(deque[Job]):
    """First come, first served: a deque, since jobs arrive in order."""

    key = staticmethod(first_come_first_served)

    def push(self, job: Job) -> None:
        """Append an arrival; a job that comes back goes where its arrival puts it, near the head."""
        if not self or (self[-1].arrival_s, self[-1].id) < (job.arrival_s, job.id):
            self.append(job)
            return
        place = next(i for i, other in enumerate(self) if (job.arrival_s, job.id) <= (other.arrival_s, other.id))
        self.insert(place, job)

    def extend_arrivals(self, jobs: Iterable[Job]) -> None:
        """Append new arrivals, which are in order."""
        self.extend(jobs)

    def take(self, jobs: Sequence[Job]) -> bool:
        """Remove jobs that wait, most often the first ones."""
        if len(jobs) == 1 and self and self[0] is jobs[0]:
            self.popleft()
            return True
        if len(jobs) > len(self):
            return False
        for job, head in zip(jobs, self, strict=False):
            if job is not head:
                break
        else:
            for _ in jobs:
                self.popleft()
            return True
        if len({job.id for job in jobs}) < len(jobs) or not all(job in self for job in jobs):
            return False
        for job in jobs:
            self.remove(job)
        return True


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

    def __contains__(self, job: object) -> bool:
        return any(entry[1] is job for entry in self._front) or any(entry[1] is job for entry in self._heap)

    def push(self, job: Job) -> None:
        """Put a job in its place."""
        entry = (self.key(job), job)
        if self._front and entry < self._front[-1]:
            insort(self._front, entry)
        else:
            heapq.heappush(self._heap, entry)

    def extend_arrivals(self, jobs: Iterable[Job]) -> None:
        """Put new arrivals in their places."""
        for job in jobs:
            self.push(job)

    def take(self, jobs: Sequence[Job]) -> bool:
        """Remove jobs that wait, most often from the front."""
        ids = {job.id for job in jobs}
        if len(ids) < len(jobs):
            return False
        in_front = sum(entry[1].id in ids for entry in self._front)
        if in_front < len(ids):
            if in_front + sum(entry[1].id in ids for entry in self._heap) < len(ids):
                return False
            self._heap = [entry for entry in self._heap if entry[1].id not in ids]
            heapq.heapify(self._heap)
        self._front = [entry for entry in self._front if entry[1].id not in ids]
        return True


def make_queue(order: str, predictor: Predictor = declared) -> Queue:
    """Return an empty queue that serves in this order."""
    return ArrivalQueue() if order == "fcfs" else OrderedQueue(order_key(order, predictor))
