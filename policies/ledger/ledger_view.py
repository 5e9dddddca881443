"""The view of a ledger: what a policy sees of it."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.ledger.paged import Paged
from policies.view import Draft, Row


class LedgerView:
    """A read-only window on a ledger; what is in it is that of `policies.view.View`."""

    __slots__ = ("_ledger", "admissible", "parked", "partial", "ready", "rows", "running", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        """Look at a ledger."""
        self._ledger = ledger
        self.admissible = ledger.admissible
        self.waiting: Collection[Job] = ledger.waiting
        self.rows: Mapping[int, Row] = MappingProxyType(ledger.batch.rows)
        self.ready: Mapping[int, Job] = MappingProxyType(ledger.ready)
        self.parked: Mapping[int, tuple[Job, int]] = MappingProxyType(ledger.parked)
        self.running: Mapping[int, Job] = MappingProxyType(ledger.chunks.running)
        self.partial: Mapping[int, tuple[Job, int]] = MappingProxyType(ledger.chunks.partial)

    def key(self, job: Job) -> tuple[float, ...]:
        """The place of a job in the queue order, smallest first."""
        return self._ledger.waiting.key(job)

    @property
    def beside(self) -> int:
        """Requests that are being prefilled, sent or ready, and will want a row."""
        ledger = self._ledger
        one, other = ledger.prefilling
        return len(one) + len(other) + len(ledger.sending) + len(ledger.ready)

    def length(self, request: int) -> int:
        """Tokens of KV that a live row or a partly prefilled request holds."""
        return self._ledger.chunks.length(request)

    def draft(self) -> Draft:
        """Return a draft of the next step; only of paged memory."""
        book = self._ledger.book
        assert isinstance(book, Paged)
        return book.draft()

    def prefill_length(self, job: Job) -> int:
        """Tokens that a prefill of the job would compute."""
        return self._ledger.prefill_length(job)

    def resumable(self) -> int:
        """How many parked requests, from the first parked, KV memory can take back together."""
        return self._ledger.book.resumable(self.parked.values())

    def overflow(self) -> int:
        """How many of the newest rows must leave before the rest can decode one step."""
        return self._ledger.book.overflow()
