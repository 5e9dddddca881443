"""What a policy sees."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from policies.batch import Row
from policies.job import Job
from policies.ledger import Ledger


class View:
    """A read-only window on the ledger. Nothing here tells how long an answer will be."""

    __slots__ = ("_ledger", "parked", "ready", "rows")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.rows: Mapping[int, Row] = MappingProxyType(ledger.batch.rows)
        """Live rows by request id, in the order in which they joined."""
        self.ready: Mapping[int, Job] = MappingProxyType(ledger.ready)
        """Prefilled requests that are not yet in the batch."""
        self.parked: Mapping[int, tuple[Job, int]] = MappingProxyType(ledger.parked)
        """Preempted requests with their KV kept, and its length in tokens."""

    @property
    def waiting(self) -> int:
        """How many jobs wait to be prefilled."""
        return len(self._ledger.waiting)

    def head(self, count: int) -> Iterator[Job]:
        """The first `count` waiting jobs, in queue order."""
        return islice(self._ledger.waiting, count)

    def key(self, job: Job) -> tuple[float, ...]:
        """The place of a job in the queue order, smallest first."""
        return self._ledger.waiting.key(job)

    @property
    def beside(self) -> int:
        """Requests that are being prefilled, sent or ready, and will want a row."""
        ledger = self._ledger
        return len(ledger.prefilling[0]) + len(ledger.prefilling[1]) + len(ledger.sending) + len(ledger.ready)

    @property
    def kv_free(self) -> int:
        """Tokens of KV memory that are free."""
        return self._ledger.book.limit - self._ledger.book.used

    def length(self, request: int) -> int:
        """Tokens of KV that a live row holds."""
        return self._ledger.batch.length(request)

    def prefill_length(self, job: Job) -> int:
        """Tokens that a prefill of the job would compute."""
        return self._ledger.prefill_length(job)

    def fitting(self, jobs: Iterable[Job], apart: bool = False) -> list[Job]:
        """Return the jobs, from the first, that KV memory can take together; stop at the first that does not fit."""
        return self._ledger.fitting(jobs, apart)

    def resumable(self) -> int:
        """How many parked requests, from the first parked, KV memory can take back together."""
        return self._ledger.book.resumable(self.parked.values())

    def overflow(self) -> int:
        """How many of the newest rows must leave before the rest can decode one step."""
        return self._ledger.book.overflow()
