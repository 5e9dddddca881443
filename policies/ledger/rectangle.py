"""BATON's KV memory: one rectangle of rows x capacity for the batch, and the prefilled groups that lie beside it.

Rows are aligned on the left: row r holds its tokens in columns [0, length). The rectangle is one allocation, so a
change of its shape is a copy that needs the old and the new buffer at once, and closes the holes between rows; it is
free only while no row is live. A row that leaves makes a hole; newcomers fill holes first, and before a decode step
the last rows move into those that are left, so that the live rows are always 0 to n - 1.
"""

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import UNBOUNDED, KVShortage

HEADROOM = 256
"""Columns beyond the window that a rectangle which follows it is given whenever it is shaped."""


class Rectangle:
    """KV book of the rectangular layouts.

    Attributes:
        limit: Tokens that the memory holds.
        rows: Rows allocated.
        capacity: Columns allocated.
        grows: Whether the capacity follows the window rather than reservations.
        slots: Request id by row, None for a hole.
    """

    follows_rows = True
    shaped = True

    def __init__(self, limit: int, batch: Batch, max_rows: int, reserve: str) -> None:
        self.limit = limit
        self.copied = self.transient = 0
        self.rows = self.capacity = 0
        self.slots: list[int | None] = []
        self._batch = batch
        self._max_rows = max_rows
        self.grows = reserve == "window"
        self._places: dict[int, int] = {}
        self._holes: list[int] = []
        self._needs: dict[int, int] = {}
        self._beside: dict[int, int] = {}
        self._beside_sum = 0

    @property
    def used(self) -> int:
        """Tokens in the rectangle and beside it."""
        return self.rows * self.capacity + self._beside_sum

    def possible(self, job: Job, apart: bool) -> bool:
        """Whether its row, and its prompt beside that if it must be prefilled apart, fit."""
        prompt, tokens = job.prompt_tokens, job.prompt_tokens + job.max_new_tokens
        if not apart:
            return tokens <= self.limit
        return max(tokens, 2 * prompt + 1) <= self.limit if self.grows else prompt + tokens <= self.limit

    def _need(self, job: Job, length: int, beside: int) -> int:
        return self._columns(length, beside) if self.grows else job[2] + job[3]

    def _columns(self, longest: int, beside: int) -> int:
        """Columns for a window that holds `longest` tokens and the next, with room to grow as far as there is any."""
        return max(longest + 1, min(self.limit - beside, longest + 1 + HEADROOM))

    def _fits(self, newcomers: int, need: int, beside: int) -> bool:
        """Whether the rectangle can stay as it is: what `_shape` finds out, and faster."""
        occupants = len(self._needs) + newcomers
        if occupants > self._max_rows:
            occupants = self._max_rows
        rows, capacity = self.rows, self.capacity
        return occupants <= rows and need <= capacity and rows * capacity + beside <= self.limit

    def _shape(self, newcomers: int, need: int, beside: int, leavers: int = 0) -> tuple[int, int] | None:
        """Return the (rows, capacity) that holds everyone and `newcomers`, or None if memory does not allow it.

        A new rectangle has as many of the `max_rows` as fit; with several rows, one more newcomer fits beside it.
        """
        occupants = len(self._needs) + newcomers - leavers
        if occupants > self._max_rows:
            occupants = self._max_rows
        size = self.rows * self.capacity
        if occupants <= self.rows and need <= self.capacity and size + beside <= self.limit:
            return self.rows, self.capacity
        fixed = (self._needs[request] for request in self._beside) if self.grows else self._needs.values()
        need = max(need, max(fixed, default=0))
        space = self.limit - beside - (size if self._places else 0)
        rows = (space - need) // need
        if occupants == 1:
            rows = max(rows, min(1, space // need))
        return (min(rows, self._max_rows), need) if rows >= occupants else None

    def _reshape(self, shape: tuple[int, int] | None) -> None:
        if shape is None:
            raise KVShortage(f"no rectangle for the batch fits into {self.limit} KV tokens")
        if shape != (self.rows, self.capacity):
            if self._places:
                self._copy_rows()
                self._close_holes()
            self.rows, self.capacity = shape

    def _copy_rows(self) -> None:
        rows = self._batch.rows
        self.copied += sum(self._batch.length(request) for request in self._places if request in rows)
        self.transient = self.rows * self.capacity

    def _close_holes(self) -> None:
        requests = [request for request in self.slots if request is not None]
        self._places = {request: place for place, request in enumerate(requests)}
        self.slots = [*requests]
        self._holes.clear()

    def fitting(self, jobs: Iterable[Job], length: Callable[[Job], int], apart: bool) -> list[Job]:
        """Return the jobs, from the first, that can be prefilled as one padded group and then have a row each."""
        taken: list[Job] = []
        longest, need, beside = 0, self._window_need() if self.grows else 0, self._beside_sum
        for count, job in enumerate(jobs, start=1):
            tokens = length(job)
            if apart:
                longest = tokens if tokens > longest else longest
                beside = self._beside_sum + count * longest
            columns = self._columns(tokens, beside) if self.grows else job[2] + job[3]
            need = columns if columns > need else need
            if not self._fits(count, need, beside) and self._shape(count, need, beside) is None:
                break
            taken.append(job)
        return taken

    def _window_need(self) -> int:
        return self._columns(self._batch.longest, self._beside_sum) if self.grows and self._places else 0

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Shape the rectangle for the newcomers; give each a row, or take the padded group beside it if `apart`."""
        longest = lengths[0] if len(lengths) == 1 else max(lengths)
        beside = self._beside_sum + len(jobs) * longest if apart else self._beside_sum
        need, needs = self._window_need() if self.grows else 0, {}
        for job, length in zip(jobs, lengths, strict=True):
            needs[job[0]] = columns = self._columns(length, beside) if self.grows else job[2] + job[3]
            need = columns if columns > need else need
        if not self._fits(len(jobs), need, beside):
            self._reshape(self._shape(len(jobs), need, beside))
        self._needs.update(needs)
        if apart:
            for request in needs:
                self._beside[request] = longest
            self._beside_sum = beside
        else:
            for request in needs:
                self._place(request)

    def join(self, job: Job, length: int) -> None:
        """Give the job a row unless it has one, and embed its KV there if it lay beside the rectangle."""
        request = job[0]
        if request in self._beside:
            self._beside_sum -= self._beside.pop(request)
            self.copied += length
        if request not in self._places:
            self._place(request)

    def _place(self, request: int) -> None:
        if self._holes:
            place = heappop(self._holes)
            self.slots[place] = request
        else:
            place = len(self.slots)
            self.slots.append(request)
        self._places[request] = place

    def release(self, job: Job, length: int) -> None:
        """Make a hole of the row, or free what lay beside; the last request frees the rectangle."""
        request = job[0]
        del self._needs[request]
        if request in self._beside:
            self._beside_sum -= self._beside.pop(request)
        place = self._places.pop(request, None)
        if place is not None:
            self.slots[place] = None
            heappush(self._holes, place)
        if not self._needs:
            self.rows = self.capacity = 0
        if not self._places:
            self.slots.clear()
            self._holes.clear()

    def park(self, job: Job, length: int) -> int:
        """Move the row's KV to host memory."""
        self.release(job, length)
        return length

    def resumable(self, jobs: Iterable[tuple[Job, int]]) -> int:
        """Count the parked requests, from the first, that can have a row again."""
        count, need = 0, self._window_need()
        for job, length in jobs:
            need = max(need, self._need(job, length, self._beside_sum))
            if len(self._needs) + count + 1 > self._max_rows or self._shape(count + 1, need, self._beside_sum) is None:
                break
            count += 1
        return count

    def resume(self, jobs: Sequence[tuple[Job, int]]) -> int:
        """Shape the rectangle for the requests and move their KV back from host memory."""
        needs = {job.id: self._need(job, length, self._beside_sum) for job, length in jobs}
        self._reshape(self._shape(len(jobs), max(*needs.values(), self._window_need()), self._beside_sum))
        self._needs.update(needs)
        return sum(length for _, length in jobs)

    def further_steps(self) -> int:
        """Columns that the window may still grow into."""
        return self.capacity - self._batch.longest - 1 if self.grows and self._places else UNBOUNDED

    def decode(self, steps: int, longest: int) -> None:
        """Close the holes and let the rectangle grow with the window."""
        if self.grows and longest + steps > self.capacity:
            self._reshape(self._shape(0, self._columns(longest, self._beside_sum), self._beside_sum))

    def compact(self) -> None:
        """Move the last rows into the holes that no newcomer filled."""
        slots = self.slots
        while self._holes:
            hole = heappop(self._holes)
            while slots and slots[-1] is None:
                slots.pop()
            if hole < len(slots):
                request = slots.pop()
                assert request is not None
                slots[hole], self._places[request] = request, hole
                self.copied += self._batch.length(request)

    def overflow(self) -> int:
        """Count the newest rows that must be parked for the rest to decode one step."""
        if not self.grows or self._batch.longest < self.capacity:
            return 0
        offsets = [offset for _, offset in self._batch.rows.values()]
        for leavers in range(len(offsets)):
            longest = self._batch.clock + max(offsets[: len(offsets) - leavers])
            if self._shape(0, self._columns(longest, self._beside_sum), self._beside_sum, leavers) is not None:
                return leavers
        return len(offsets)

    def save(self) -> object:
        """Return all that a plan can change."""
        copies = (list(self.slots), dict(self._places), list(self._holes), dict(self._needs), dict(self._beside))
        return self.rows, self.capacity, self._beside_sum, copies

    def restore(self, saved: object) -> None:
        """Set it back."""
        assert isinstance(saved, tuple)
        self.rows, self.capacity, self._beside_sum, copies = saved
        self.slots, self._places, self._holes, self._needs, self._beside = copies
