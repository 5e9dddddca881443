"""The requests of a batch whose prompts are prefilled in chunks: the part of the ledger's state that needs pages."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import KVBook
from policies.ledger.paged import Paged
from policies.plan import IllegalPlan, Plan
from policies.queue import Queue


class Lookups(NamedTuple):
    """What was looked up in the prefix cache.

    Attributes:
        asked: Tokens of the requests.
        found: Those of them whose KV was there.
    """

    asked: int
    found: int

    @property
    def rate(self) -> float | None:
        """Share that was found; None where nothing was looked up."""
        return self.found / self.asked if self.asked else None

    def with_one(self, asked: int, found: int) -> "Lookups":
        """Return these and one more request."""
        return Lookups(self.asked + asked, self.found + found)


class Chunks:
    """Who is in the batch, in the order of admission, and how far each prompt has come.

    Attributes:
        running: Rows and partly prefilled requests, in the order in which they were admitted.
        partial: Partly prefilled requests, and the tokens of KV that each has, those in flight not counted.
        computed_before: Tokens of KV that requests had before they were dropped.
        admitted: Tokens of requests when they were admitted for the first time, and those of them found in the prefix
            cache: computed for another request, with which they are shared.
        readmitted: The same of requests that came back after they were dropped: what they find is mostly their own.
    """

    def __init__(self, batch: Batch, book: KVBook, waiting: Queue, progress: dict[int, int]) -> None:
        """Start empty; the arguments are the ledger's."""
        self.running: dict[int, Job] = {}
        self.partial: dict[int, tuple[Job, int]] = {}
        self.computed_before: dict[int, int] = {}
        self.admitted = self.readmitted = Lookups(0, 0)
        self._batch = batch
        self._book = book
        self._waiting = waiting
        self._progress = progress

    def prefill_length(self, job: Job) -> int:
        """Tokens of a prompt, and of what had been generated before the request was dropped."""
        return job.prompt_tokens + self._progress.get(job.id, 0)

    def of(self, plan: Plan) -> Iterator[tuple[Job, int, int]]:
        """Yield each chunk of a plan that has begun: its job, the tokens of KV before it, its own."""
        for job, tokens in zip(plan.prefill, plan.tokens, strict=True):
            yield job, self.partial[job.id][1], tokens

    def completed(self, plan: Plan) -> list[Job]:
        """Return the jobs whose prompts a plan that has begun completes."""
        return [job for job, before, tokens in self.of(plan) if before + tokens == self.prefill_length(job)]

    def check(self, plan: Plan, max_rows: int) -> None:
        """Refuse a plan that names wrong requests or needs too much memory; else take its newcomers out of the queue.

        Raises:
            IllegalPlan: It is refused; nothing was changed.
        """
        whole = len(self.running) != len(self._batch.rows) + len(self.partial)
        if whole or (plan.prefill and not plan.tokens):
            raise IllegalPlan("requests are prefilled whole, or all of them in chunks")
        if plan.apart or plan.insert or plan.park:
            raise IllegalPlan("where prompts are prefilled in chunks, nothing is apart from the batch")
        if len(plan.prefill) != len(plan.tokens):
            raise IllegalPlan("each chunk has a number of tokens")
        named = [*(job.id for job in plan.prefill), *plan.drop]
        if len(set(named)) < len(named) or not all(request in self.running for request in plan.drop):
            raise IllegalPlan("running requests are dropped, and each is computed or dropped once")
        if plan.decode and len(self._batch.rows) == sum(request in self._batch.rows for request in plan.drop):
            raise IllegalPlan("no row to decode")
        newcomers = sum(job.id not in self.partial for job in plan.prefill)
        if newcomers and len(self.running) - len(plan.drop) + newcomers > max_rows:
            raise IllegalPlan(f"more than {max_rows} rows")
        self._rehearse(plan)

    def _rehearse(self, plan: Plan) -> None:
        """Let the plan happen on a draft of the memory."""
        if not isinstance(self._book, Paged):
            raise IllegalPlan("chunks need paged KV memory")
        draft, newcomers = self._book.draft(), list[tuple[Job, int]]()
        for request in plan.drop:
            draft.drop(self.running[request], self.length(request))
        fits = not plan.decode or draft.decode()
        for job, tokens in zip(plan.prefill, plan.tokens, strict=True):
            if job.id not in self.partial:
                newcomers.append((job, tokens))
                continue
            before = self.partial[job.id][1]
            self._check_size(job, before, tokens)
            fits = fits and draft.grow(job, before, tokens)
        for job, tokens in newcomers:
            found = draft.found(job, self.prefill_length(job))
            self._check_size(job, found, tokens)
            fits = fits and draft.admit(job, found, tokens)
        if not fits:
            raise IllegalPlan("KV memory: more blocks needed than are free")
        if newcomers and not self._waiting.take([job for job, _ in newcomers]):
            raise IllegalPlan("a chunk names a waiting or a partly prefilled job")

    def _check_size(self, job: Job, before: int, tokens: int) -> None:
        if not 1 <= tokens <= self.prefill_length(job) - before:
            raise IllegalPlan(f"a chunk of {tokens} tokens of request {job.id}, after {before} others")

    def length(self, request: int) -> int:
        """Tokens of KV that a row or a partly prefilled request has."""
        return self.partial[request][1] if request in self.partial else self._batch.length(request)

    def drop(self, requests: Sequence[int]) -> None:
        """Requests lose their KV and go to their places in the queue.

        First come, first served, that is its head: nobody is admitted before one that arrived earlier, so the last
        admitted arrived last of those in the batch, and before all who wait.
        """
        book = self._book
        assert isinstance(book, Paged)
        for request in requests:
            job, length = self.running.pop(request), self.length(request)
            book.preempt(job, length)
            self.computed_before[request] = max(length, self.computed_before.get(request, 0))
            if self.partial.pop(request, None) is None:
                self._progress[request] = length - job.prompt_tokens + 1
                self._batch.remove(request)
            self._waiting.push(job)

    def begin(self, plan: Plan) -> None:
        """Take the memory of the chunks; their newcomers have left the queue."""
        book = self._book
        assert isinstance(book, Paged)
        newcomers = []
        for job, tokens in zip(plan.prefill, plan.tokens, strict=True):
            if job.id in self.partial:
                book.extend(job, self.partial[job.id][1], tokens)
            else:
                newcomers.append((job, tokens))
        for job, tokens in newcomers:
            length = self.prefill_length(job)
            found = book.start(job, length)
            if job.id in self.computed_before:
                self.readmitted = self.readmitted.with_one(length, found)
            else:
                self.admitted = self.admitted.with_one(length, found)
            self.partial[job.id] = job, found
            self.running[job.id] = job
            book.extend(job, found, tokens)

    def land(self, plan: Plan) -> None:
        """Chunks have been computed: completed prompts become rows, also of requests that finish with them."""
        for job, before, tokens in list(self.of(plan)):
            request, length = job.id, self.prefill_length(job)
            self.partial[request] = job, before + tokens
            if before + tokens < length:
                continue
            del self.partial[request]
            self._progress.pop(request, None)
            self.computed_before.pop(request, None)
            self._batch.add(job, length)
            self._book.join(job, length)

    def in_order(self, requests: Sequence[int]) -> Sequence[int]:
        """Return requests in flight in the order in which they were admitted, and are freed if they finish together."""
        return [request for request in self.running if request in requests] if len(requests) > 1 else requests
