"""What a policy sees: read-only, and nothing in it tells how long an answer will be.

The engines show a policy their ledger through it (`policies.ledger.ledger_view`); a policy needs to know no ledger.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from policies.job import Job

Row = tuple[Job, int]
"""A request in the batch and its offset: it holds `clock + offset` tokens of KV, and the offset never changes."""


class Draft(Protocol):
    """What the next step would take of paged memory, worked out part by part. The memory itself does not change.

    The order is that of the step: rows and prefills that go on, and requests that are dropped for them; then newcomers.

    Attributes:
        free: Blocks that the parts so far leave.
        limit: Tokens that the whole memory holds.
    """

    free: int
    limit: int

    def decode(self) -> bool:
        """Let all rows that were not dropped decode one token, if their blocks can be had; return whether they can."""

    def grow(self, job: Job, before: int, tokens: int) -> bool:
        """Let one request in flight go from `before` to `tokens` more, if its blocks can be had; return whether."""

    def drop(self, job: Job, length: int) -> None:
        """Free the blocks of a request in flight."""

    def found(self, job: Job, length: int) -> int:
        """Tokens of a newcomer of `length` tokens whose KV is in memory, or will be within the step."""

    def admit(self, job: Job, found: int, tokens: int, room: int = 0) -> bool:
        """Let a newcomer in, if its blocks can be had; return whether they can.

        Args:
            job: The newcomer.
            found: What `found` has just said of it.
            tokens: Tokens that the step computes of it.
            room: Tokens there must be room for, if more than `found + tokens`; only those are taken.
        """


class View(Protocol):
    """A read-only window on the requests in flight and on KV memory.

    Attributes:
        waiting: The jobs to prefill, in queue order.
        rows: Live rows by request id, in the order in which they joined.
        ready: Prefilled requests that are not yet in the batch.
        parked: Preempted requests with their KV kept, and its length in tokens.
        running: Where prompts are prefilled in chunks: rows and partly prefilled requests, in the order in which they
            were admitted.
        partial: Partly prefilled requests, and the tokens of KV that each has.
    """

    waiting: Collection[Job]
    rows: Mapping[int, Row]
    ready: Mapping[int, Job]
    parked: Mapping[int, tuple[Job, int]]
    running: Mapping[int, Job]
    partial: Mapping[int, tuple[Job, int]]

    def admissible(self, count: int, apart: bool = False) -> list[Job]:
        """Of the first `count` waiting jobs, those that memory can take together.

        From the first to the last before one that does not fit; `apart`: their KV is to lie beside the batch at first.
        """

    def key(self, job: Job) -> tuple[float, ...]:
        """The place of a job in the queue order, smallest first."""

    @property
    def beside(self) -> int:
        """Requests that are being prefilled, sent or ready, and will want a row."""

    def length(self, request: int) -> int:
        """Tokens of KV that a live row or a partly prefilled request holds."""

    def draft(self) -> Draft:
        """Return a draft of the next step on paged memory: what it would take, part by part."""

    def prefill_length(self, job: Job) -> int:
        """Tokens that a prefill of the job would compute."""

    def resumable(self) -> int:
        """How many parked requests, from the first parked, KV memory can take back together."""

    def overflow(self) -> int:
        """How many of the newest rows must leave before the rest can decode one step."""
