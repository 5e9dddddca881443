"""Paged KV memory: blocks of 16 tokens, taken as a request grows; and drafts of what a step would take."""

from collections.abc import Callable, Iterable, Sequence

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import UNBOUNDED, KVShortage

BLOCK = 16
"""Tokens in one block of paged KV (vLLM's default)."""


def blocks_of(tokens: int) -> int:
    """Return how many blocks so many tokens take."""
    return -(-tokens // BLOCK)


class Paged:
    """Blocks of 16 tokens, taken as a row grows. A row of n tokens holds ceil(n / 16) blocks."""

    grows = True
    follows_rows = True
    shaped = False

    def __init__(self, limit: int, batch: Batch) -> None:
        self.limit = limit // BLOCK * BLOCK
        self.copied = self.transient = 0
        self._batch = batch
        self._blocks = 0
        self._residues = [0] * BLOCK
        """How many rows have offset = i (mod 16): those with clock + i = 0 need a block at the next step."""

    @property
    def used(self) -> int:
        """Tokens in the blocks taken."""
        return self._blocks * BLOCK

    @property
    def free(self) -> int:
        """Blocks that are not taken."""
        return self.limit // BLOCK - self._blocks

    def take(self, blocks: int) -> None:
        """Take free blocks."""
        self._blocks += blocks

    def possible(self, job: Job, apart: bool) -> bool:
        """Whether all that it stores fits: its prompt and its new tokens but the last, which nobody attends to."""
        return job[2] + job[3] - 1 <= self.limit

    def fitting(self, jobs: Iterable[Job], length: Callable[[Job], int], apart: bool) -> list[Job]:
        """Return the jobs, from the first, whose prompts and next tokens fit together.

        A prompt that fills the whole memory is answered with one token, which needs no room.
        """
        free, limit = self.free, self.limit
        taken: list[Job] = []
        for job in jobs:
            tokens = length(job)
            free -= tokens // BLOCK + (tokens != limit)
            if free < 0:
                break
            taken.append(job)
        return taken

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Take the blocks of the prompts."""
        blocks = sum(map(blocks_of, lengths))
        if blocks > self.free:
            raise KVShortage(f"{blocks} KV blocks needed, {self.free} free")
        self.take(blocks)

    def start(self, job: Job, length: int) -> int:
        """A job of `length` tokens begins to be prefilled; return those whose KV is found in memory: none here."""
        return 0

    def extend(self, job: Job, before: int, tokens: int) -> None:
        """Take the blocks of the next `tokens` tokens of a prefill, after `before` others."""
        blocks = blocks_of(before + tokens) - blocks_of(before)
        if blocks > self.free:
            raise KVShortage(f"{blocks} KV blocks needed, {self.free} free")
        self.take(blocks)

    def join(self, job: Job, length: int) -> None:
        """Nothing moves: attention follows the block table."""
        self._residues[(length - self._batch.clock) % BLOCK] += 1

    def release(self, job: Job, length: int) -> None:
        """Free the blocks."""
        self.give_back(job, length, kept=False)
        if job.id in self._batch.rows:
            self._residues[(length - self._batch.clock) % BLOCK] -= 1

    def preempt(self, job: Job, length: int) -> None:
        """Free the blocks of a request that will come back, a row or not."""
        self.give_back(job, length, kept=True)
        if job.id in self._batch.rows:
            self._residues[(length - self._batch.clock) % BLOCK] -= 1

    def give_back(self, job: Job, length: int, kept: bool) -> None:
        """Free the blocks of a request; `kept`: its KV may be asked for again."""
        self._blocks -= blocks_of(length)

    def park(self, job: Job, length: int) -> int:
        """Keep the blocks."""
        self._residues[(length - self._batch.clock) % BLOCK] -= 1
        return 0

    def resumable(self, jobs: Iterable[tuple[Job, int]]) -> int:
        """All: their blocks were kept."""
        return sum(1 for _ in jobs)

    def resume(self, jobs: Sequence[tuple[Job, int]]) -> int:
        """Nothing moves."""
        return 0

    def demand(self, steps: int, ahead: int = 0) -> int:
        """Blocks that `steps` decode steps need, `ahead` steps from now."""
        clock = self._batch.clock + ahead
        if steps == 1:  # by far the most often
            return self._residues[-clock % BLOCK]
        whole, rest = divmod(steps, BLOCK)
        demand = whole * len(self._batch.rows)
        for step in range(rest):
            demand += self._residues[-(clock + step) % BLOCK]
        return demand

    def further_steps(self) -> int:
        """Steps until the free blocks run out."""
        rows = len(self._batch.rows)
        steps = self.free // rows * BLOCK if rows else UNBOUNDED
        while rows and self.demand(steps + 1, ahead=1) <= self.free:
            steps += 1
        return steps

    def decode(self, steps: int, longest: int) -> None:
        """Take the blocks that the rows grow into."""
        demand = self.demand(steps)
        if demand > self.free:
            raise KVShortage(f"{demand} KV blocks needed to decode, {self.free} free")
        self.take(demand)

    def compact(self) -> None:
        """Nothing moves: attention follows the block table."""

    def overflow(self) -> int:
        """Count the newest rows whose blocks the older ones need."""
        demand, free, leaving = self.demand(1), self.free, 0
        for _, offset in reversed(self._batch.rows.values()):
            if demand <= free:
                break
            length = self._batch.clock + offset
            demand -= length % BLOCK == 0
            free += blocks_of(length)
            leaving += 1
        return leaving

    def draft(self) -> "PagedDraft":
        """Return a draft of the next step."""
        return PagedDraft(self, self._batch)

    def save(self) -> object:
        """Return the blocks taken and the residues."""
        return self._blocks, tuple(self._residues)

    def restore(self, saved: object) -> None:
        """Set both back."""
        assert isinstance(saved, tuple)
        self._blocks, self._residues = saved[0], list(saved[1])


class PagedDraft:
    """The `policies.view.Draft` of a step on blocks."""

    def __init__(self, book: Paged, batch: Batch) -> None:
        """Begin with what is free."""
        self.free = book.free
        self.limit = book.limit
        self._book = book
        self._batch = batch
        self._spared = 0

    def decode(self) -> bool:
        """Let all rows that were not dropped decode one token, if their blocks can be had; return whether they can."""
        return self._take(self._book.demand(1) - self._spared)

    def grow(self, job: Job, before: int, tokens: int) -> bool:
        """Let one request in flight go from `before` to `tokens` more, if its blocks can be had; return whether."""
        return self._take(blocks_of(before + tokens) - blocks_of(before))

    def drop(self, job: Job, length: int) -> None:
        """Free the blocks of a request in flight."""
        self.free += self._freed(job, length)
        self._spared += job.id in self._batch.rows and length % BLOCK == 0

    def found(self, job: Job, length: int) -> int:
        """Tokens of a newcomer of `length` tokens whose KV is in memory."""
        return 0

    def admit(self, job: Job, found: int, tokens: int, room: int = 0) -> bool:
        """Let a newcomer in, if its blocks can be had; return whether they can."""
        return blocks_of(room) <= self.free and self._take(blocks_of(found + tokens))

    def _take(self, blocks: int) -> bool:
        if blocks > self.free:
            return False
        self.free -= blocks
        return True

    def _freed(self, job: Job, length: int) -> int:
        return blocks_of(length)
