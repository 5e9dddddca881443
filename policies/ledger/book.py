"""KV memory, charged as an engine allocates it. One book per way of allocating.

Every book keeps these rules. `used` never exceeds `limit`. A call that does not fit raises `KVShortage` and changes
nothing. `save` and `restore` bracket a plan of several parts, so that it happens whole or not at all. What
`admit` took, `release` gives back: when no request is in flight, `used` is 0.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from policies.job import Job
from policies.ledger.batch import Batch

UNBOUNDED = 1 << 62


class KVShortage(Exception):
    """The plan needs more KV memory than is free."""


class KVBook(Protocol):
    """Accounts for the KV memory of requests in flight; all quantities are tokens.

    Attributes:
        limit: Tokens that the memory holds.
        copied: Tokens copied inside GPU memory since the ledger last set it to 0.
        transient: Tokens of an old buffer that a copy still needed, since the ledger last set it to 0.
        grows: Whether a decode step may need memory; if not, `decode`, `further_steps` and `overflow` are idle.
        follows_rows: Whether the book must hear of every `join`.
        shaped: Whether rows have places that `compact` must bring together.
    """

    limit: int
    copied: int
    transient: int
    grows: bool
    follows_rows: bool
    shaped: bool

    @property
    def used(self) -> int:
        """Tokens of memory taken, padding and reservations counted."""

    def possible(self, job: Job, apart: bool) -> bool:
        """Whether the job could be served if it were alone; `apart`: it must be prefilled beside the batch."""

    def fitting(self, jobs: Iterable[Job], length: Callable[[Job], int], apart: bool) -> list[Job]:
        """Return the jobs, from the first, that can be admitted together; stop at the first that cannot."""

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Take memory for jobs about to be prefilled, `lengths` tokens each, beside the batch if `apart`."""

    def join(self, job: Job, length: int) -> None:
        """A prefilled job becomes a row of the batch."""

    def release(self, job: Job, length: int) -> None:
        """A request that holds `length` tokens leaves, finished or dropped; it may have been a row or not."""

    def park(self, job: Job, length: int) -> int:
        """A row leaves and keeps its KV; return the tokens that move to host memory."""

    def resumable(self, jobs: Iterable[tuple[Job, int]]) -> int:
        """How many parked requests of (job, length), from the first, can be resumed together."""

    def resume(self, jobs: Sequence[tuple[Job, int]]) -> int:
        """Parked requests of (job, length) are about to become rows; return the tokens that come from host memory."""

    def further_steps(self) -> int:
        """How many decode steps fit after the one that has just begun, before an allocation must grow."""

    def decode(self, steps: int, longest: int) -> None:
        """Take the memory that `steps` decode steps need, of a batch whose longest row has `longest` tokens."""

    def compact(self) -> None:
        """Bring the live rows together before they decode, where the layout needs that."""

    def overflow(self) -> int:
        """How many of the newest rows must leave for the others to decode one step."""

    def save(self) -> object:
        """Return what `restore` needs."""

    def restore(self, saved: object) -> None:
        """Undo everything since `save`."""


class Reserving:
    """What books have in common that take all the memory a request may ever need when it is admitted.

    Attributes:
        limit: Tokens that the memory holds.
    """

    grows = False
    follows_rows = False
    shaped = False
    limit: int

    def possible(self, job: Job, apart: bool) -> bool:
        """Whether its prompt and all its new tokens fit."""
        return job[2] + job[3] <= self.limit

    def join(self, job: Job, length: int) -> None:
        """Nothing moves."""

    def further_steps(self) -> int:
        """The reservation covers every token that may come."""
        return UNBOUNDED

    def decode(self, steps: int, longest: int) -> None:
        """Nothing to take."""

    def compact(self) -> None:
        """Nothing moves."""

    def overflow(self) -> int:
        """None: the reservation covers every token that may come."""
        return 0


class Slots(Reserving):
    """Orca's reservation: a request takes prompt + max_new_tokens from admission to its end, parked or not."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.copied = self.transient = 0
        self.used = 0

    def fitting(self, jobs: Iterable[Job], length: Callable[[Job], int], apart: bool) -> list[Job]:
        """Return the jobs, from the first, whose reservations fit together."""
        free = self.limit - self.used
        taken: list[Job] = []
        for job in jobs:
            free -= job[2] + job[3]
            if free < 0:
                break
            taken.append(job)
        return taken

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Reserve slots."""
        used = self.used
        for job in jobs:
            used += job[2] + job[3]
        if used > self.limit:
            raise KVShortage(f"{used} KV slots reserved, {self.limit} there")
        self.used = used

    def release(self, job: Job, length: int) -> None:
        """Give the reservation back."""
        self.used -= job[2] + job[3]

    def park(self, job: Job, length: int) -> int:
        """Keep the reservation."""
        return 0

    def resumable(self, jobs: Iterable[tuple[Job, int]]) -> int:
        """All: their reservations were kept."""
        return sum(1 for _ in jobs)

    def resume(self, jobs: Sequence[tuple[Job, int]]) -> int:
        """Nothing moves."""
        return 0

    def save(self) -> object:
        """Return the reserved total."""
        return self.used

    def restore(self, saved: object) -> None:
        """Set the reserved total back."""
        assert isinstance(saved, int)
        self.used = saved


class StaticRectangle(Reserving):
    """Run-to-completion: rows x (longest prompt + most new tokens), taken and freed with the whole batch.

    Attributes:
        limit: Tokens that the memory holds.
        used: Tokens taken.
        capacity: Columns of the rectangle, 0 without one.
    """

    def __init__(self, limit: int, batch: Batch) -> None:
        self.limit = limit
        self.copied = self.transient = 0
        self.used = self.capacity = 0
        self._batch = batch
        self._requests = 0

    def fitting(self, jobs: Iterable[Job], length: Callable[[Job], int], apart: bool) -> list[Job]:
        """Return the jobs, from the first, whose common rectangle fits; none while a batch runs."""
        taken: list[Job] = []
        prompt = new = 0
        for job in () if self._requests else jobs:
            prompt, new = max(prompt, job.prompt_tokens), max(new, job.max_new_tokens)
            if (len(taken) + 1) * (prompt + new) > self.limit:
                break
            taken.append(job)
        return taken

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Take the rectangle of a new batch."""
        if self._requests:
            raise KVShortage("a static batch takes no newcomer")
        capacity = max(lengths) + max(job.max_new_tokens for job in jobs)
        size = len(jobs) * capacity
        if size > self.limit:
            raise KVShortage(f"the batch needs {size} KV tokens, {self.limit} there")
        self.used, self.capacity, self._requests = size, capacity, len(jobs)

    def release(self, job: Job, length: int) -> None:
        """Free the rectangle with its last request."""
        self._requests -= 1
        if not self._requests:
            self.used = self.capacity = 0

    def park(self, job: Job, length: int) -> int:
        """Refuse: a static batch keeps its rows."""
        raise KVShortage("a static batch cannot park a row")

    def resumable(self, jobs: Iterable[tuple[Job, int]]) -> int:
        """None."""
        return 0

    def resume(self, jobs: Sequence[tuple[Job, int]]) -> int:
        """Refuse."""
        raise KVShortage("a static batch cannot resume a row")

    def save(self) -> object:
        """Return the rectangle and its requests."""
        return self.used, self.capacity, self._requests

    def restore(self, saved: object) -> None:
        """Set them back."""
        assert isinstance(saved, tuple)
        self.used, self.capacity, self._requests = saved
