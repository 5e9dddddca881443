"""Paged KV memory that remembers: full blocks stay findable by their content until their place is needed.

A block is known by its content, which a job declares: blocks within a shared prefix are the same for all that begin
with it, any other block is its request's own. A block in use by several requests is taken once. Freed blocks keep their
content in a list of free blocks, least recently used first, the tail of a request before its head; new blocks are
taken from the front of the list, which forgets what they held. A full block is findable as soon as a step is to compute
it. A request of n tokens finds at most (n - 1) // 16 blocks, so that there is a token left to compute.

A request's own block can be asked for again only after the request was preempted. Until then it is merely counted.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import KVShortage
from policies.ledger.paged import BLOCK, Paged, PagedDraft, blocks_of

Content = tuple[int, ...]
"""What a block holds: (prefix, place), (inverted hash, place in it), or (request, place, 0) of its own."""


def shareable(job: Job) -> int:
    """Return how many full blocks, from the first, a job's prompt may share with others."""
    if job.prefix_hashes:
        return min(job.prompt_tokens, job.hash_tokens * len(job.prefix_hashes)) // BLOCK
    return job.prefix_tokens // BLOCK


def contents_of(job: Job, start: int, stop: int) -> Iterator[Content]:
    """Yield what a job's full blocks hold, from place `start` to before `stop`."""
    shared = min(stop, shareable(job))
    if job.prefix_hashes:
        hashes, per_hash = job.prefix_hashes, job.hash_tokens // BLOCK
        for place in range(start, shared):
            yield ~hashes[place // per_hash], place % per_hash
    else:
        prefix = job.prefix_id
        for place in range(start, shared):
            yield prefix, place
    request = job.id
    for place in range(max(start, shared), stop):
        yield request, place, 0


class PrefixCache(Paged):
    """Blocks of 16 tokens with a prefix cache.

    Free blocks are listed as entries: one of content, or a run of any length without. Blocks in use have an entry only
    if they may be shared.
    """

    def __init__(self, limit: int, batch: Batch) -> None:
        super().__init__(limit, batch)
        self.listed: OrderedDict[int, int] = OrderedDict({0: self.limit // BLOCK})
        """Free entries and how many blocks each stands for, the first to be taken first."""
        self._entries = 1
        self._content: dict[int, Content] = {}
        self.cached: dict[Content, list[int]] = {}
        """Entries that hold a content, oldest first: it may be there more than once."""
        self.held: dict[int, list[int]] = {}
        """Entries of the shared blocks that each request in flight uses, by place."""
        self.references: dict[int, int] = {}
        """How many requests use an entry."""

    def _enter(self, content: Content) -> int:
        entry = self._entries
        self._entries += 1
        self._content[entry] = content
        self.cached.setdefault(content, []).append(entry)
        return entry

    def _forget(self, entry: int) -> None:
        content = self._content.pop(entry, None)
        if content is not None:
            entries = self.cached[content]
            entries.remove(entry)
            if not entries:
                del self.cached[content]

    def _list_run(self, blocks: int) -> None:
        if blocks:
            self.listed[self._entries] = blocks
            self._entries += 1

    def take(self, blocks: int) -> None:
        """Take blocks from the front of the list, and forget what they held."""
        self._blocks += blocks
        listed = self.listed
        while blocks:
            entry, count = listed.popitem(last=False)
            if count > blocks:
                listed[entry] = count - blocks
                listed.move_to_end(entry, last=False)
                return
            blocks -= count
            self._forget(entry)

    def admit(self, jobs: Sequence[Job], lengths: Sequence[int], apart: bool) -> None:
        """Take the blocks of whole prompts, of which nothing is looked up."""
        blocks = sum(map(blocks_of, lengths))
        if blocks > self.free:
            raise KVShortage(f"{blocks} KV blocks needed, {self.free} free")
        for job, length in zip(jobs, lengths, strict=True):
            self.held[job.id] = []
            self.extend(job, 0, length)

    def start(self, job: Job, length: int) -> int:
        """A job of `length` tokens begins to be prefilled; return those whose KV is found, whose blocks it now uses."""
        found = [entries[0] for entries in self.matches(job, length)]
        for entry in found:
            if entry in self.listed:
                del self.listed[entry]
                self._blocks += 1
        shared = shareable(job)
        for entry in found[:shared]:
            self.references[entry] = self.references.get(entry, 0) + 1
        for entry in found[shared:]:
            self._forget(entry)
        self.held[job.id] = found[:shared]
        return len(found) * BLOCK

    def matches(self, job: Job, length: int) -> Iterator[list[int]]:
        """Yield the entries that hold each block of a job of `length` tokens, up to the first that is not there."""
        for content in contents_of(job, 0, (length - 1) // BLOCK):
            entries = self.cached.get(content)
            if entries is None:
                return
            yield entries

    def extend(self, job: Job, before: int, tokens: int) -> None:
        """Take the blocks of the next `tokens` tokens of a prefill; those that become full can be found."""
        super().extend(job, before, tokens)
        held = self.held[job.id]
        for content in filled_by(job, before, tokens):
            entry = self._enter(content)
            self.references[entry] = 1
            held.append(entry)

    def give_back(self, job: Job, length: int, kept: bool) -> None:
        """List the blocks of a request as free, its tail first; `kept`: its own can be found again."""
        shared = self.held.pop(job.id)
        own = blocks_of(length) - len(shared)
        if kept:
            self._list_run(blocks_of(length) - length // BLOCK)
            for content in reversed([*contents_of(job, len(shared), length // BLOCK)]):
                self.listed[self._enter(content)] = 1
        else:
            self._list_run(own)
        self._blocks -= own
        for entry in reversed(shared):
            self.references[entry] -= 1
            if not self.references[entry]:
                del self.references[entry]
                self.listed[entry] = 1
                self._blocks -= 1

    def overflow(self) -> int:
        """Count the newest rows that must leave: blocks that others use too are not freed with a row."""
        batch, draft, leaving = self._batch, self.draft(), 0
        for job, offset in reversed(batch.rows.values()):
            if draft.decode():
                break
            draft.drop(job, batch.clock + offset)
            leaving += 1
        return leaving

    def draft(self) -> "CacheDraft":
        """Return a draft of the next step."""
        return CacheDraft(self, self._batch)

    def save(self) -> object:
        """Return a copy of everything."""
        cached = {content: list(entries) for content, entries in self.cached.items()}
        held = {request: list(entries) for request, entries in self.held.items()}
        lists = (self.listed.copy(), self._content.copy(), cached, held, self.references.copy())
        return super().save(), self._entries, lists

    def restore(self, saved: object) -> None:
        """Set everything back."""
        assert isinstance(saved, tuple)
        counts, self._entries, lists = saved
        super().restore(counts)
        self.listed, self._content, self.cached, self.held, self.references = lists


def filled_by(job: Job, before: int, tokens: int) -> Iterator[Content]:
    """Yield what the shareable blocks hold that `tokens` tokens after `before` others fill."""
    return contents_of(job, before // BLOCK, min((before + tokens) // BLOCK, shareable(job)))


class CacheDraft(PagedDraft):
    """A draft that knows what would be found after the step's own takings."""

    def __init__(self, book: PrefixCache, batch: Batch) -> None:
        """Begin with what is free and what is cached."""
        super().__init__(book, batch)
        self._cache = book
        self._ahead = iter(book.listed.items())
        self._left = self._pending = 0
        self._evicted: set[int] = set()
        self._used: set[int] = set()
        self._filled: set[Content] = set()
        self._lost: dict[int, int] = {}
        self._hits: list[int | None] = []

    def grow(self, job: Job, before: int, tokens: int) -> bool:
        """Let one request in flight go from `before` to `tokens` more, if its blocks can be had; return whether."""
        if not super().grow(job, before, tokens):
            return False
        self._filled.update(filled_by(job, before, tokens))
        return True

    def found(self, job: Job, length: int) -> int:
        """Tokens of a newcomer of `length` tokens whose KV is in memory, or will be within the step."""
        self._evict()
        cached, evicted, filled = self._cache.cached, self._evicted, self._filled
        self._hits = hits = list[int | None]()
        for content in contents_of(job, 0, (length - 1) // BLOCK):
            entries = cached.get(content)
            entry = entries[0] if entries else None
            if entry in evicted:
                entry = next((entry for entry in entries or () if entry not in evicted), None)
            if entry is None and content not in filled:
                break
            hits.append(entry)
        return len(hits) * BLOCK

    def admit(self, job: Job, found: int, tokens: int, room: int = 0) -> bool:
        """Let a newcomer in, if its blocks can be had, those that it found among the free ones too."""
        freed = [entry for entry in self._hits if entry in self._cache.listed and entry not in self._used]
        beyond = found // BLOCK - len(freed)
        if blocks_of(room) - beyond > self.free or blocks_of(found + tokens) - beyond > self.free:
            return False
        self.free -= len(freed)
        self._used.update(entry for entry in freed if entry is not None)
        self._filled.update(filled_by(job, found, tokens))
        return self._take(blocks_of(found + tokens) - found // BLOCK)

    def _take(self, blocks: int) -> bool:
        if blocks > self.free:
            return False
        self.free -= blocks
        self._pending += blocks
        return True

    def _evict(self) -> None:
        """Go along the list of free blocks as far as blocks have been taken."""
        while self._pending:
            if not self._left:
                entry, self._left = next(self._ahead, (0, self._pending))
                if entry in self._used:
                    self._left = 0
                    continue
                self._evicted.add(entry)
            step = min(self._left, self._pending)
            self._left -= step
            self._pending -= step

    def _freed(self, job: Job, length: int) -> int:
        """Blocks of its own, and those shared that nobody else uses any more."""
        shared, lost = self._cache.held[job.id], self._lost
        for entry in shared:
            lost[entry] = lost.get(entry, 0) + 1
        unused = sum(self._cache.references[entry] == lost[entry] for entry in shared)
        return blocks_of(length) - len(shared) + unused
