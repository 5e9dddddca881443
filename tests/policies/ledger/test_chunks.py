"""The ledger under random plans with chunks, legal and illegal; blocks are conserved."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.job import Job
from policies.ledger.batch import Batch
from policies.ledger.book import Slots
from policies.ledger.ledger import Ledger
from policies.ledger.paged import Paged, blocks_of
from policies.ledger.prefix_cache import PrefixCache, contents_of, shareable
from policies.plan import CARRY_ON, IllegalPlan, Plan
from policies.queue import make_queue

MAX_ROWS, BLOCKS = 4, 12


def make_ledger(caching: bool = True) -> Ledger:
    batch = Batch()
    book = PrefixCache(16 * BLOCKS, batch) if caching else Paged(16 * BLOCKS, batch)
    return Ledger(batch, book, make_queue("fcfs"), MAX_ROWS)


def state(ledger: Ledger) -> dict[str, Any]:
    """Everything that an illegal plan must leave as it was."""
    batch, chunks = ledger.batch, ledger.chunks
    return {
        "waiting": list(ledger.waiting),
        "rows": (list(batch.rows.items()), batch.clock, batch.offset_sum, set(batch.fresh)),
        "chunks": (
            list(chunks.running),
            dict(chunks.partial),
            dict(chunks.computed_before),
            chunks.admitted,
            chunks.readmitted,
        ),
        "progress": dict(ledger.progress),
        "memory": ledger.book.save(),
        "busy": (ledger.busy(0), list(ledger.prefilling)),
    }


class ChunkMachine(RuleBasedStateMachine):
    """Knows how many tokens of KV each request has, and what it still waits for."""

    @initialize(caching=st.booleans())
    def start(self, caching: bool) -> None:
        self.ledger = make_ledger(caching)
        self.jobs: dict[int, Job] = {}
        self.tokens: dict[int, int] = {}
        self.partial: set[int] = set()
        self.dropped: set[int] = set()
        self.generated: dict[int, int] = {}
        self.flying: Plan | None = None

    @rule(
        prompt=st.integers(1, 80) | st.sampled_from([49, 60, 64]),
        new=st.integers(1, 60),
        prefix=st.sampled_from([0, 0, 1, -1]),
        share=st.sampled_from([80, 48, 40, 16, 0]),
    )
    def submit(self, prompt: int, new: int, prefix: int, share: int) -> None:
        request = len(self.jobs)
        job = Job(request, float(request), prompt, new, 0, prefix, min(share, prompt) if prefix >= 0 else 0)
        self.jobs[request] = job
        self.generated[request] = 0
        assert bool(self.ledger.submit([job])) == (prompt + new > 16 * BLOCKS)

    @rule(data=st.data(), decode=st.booleans())
    def wild(self, data: st.DataObject, decode: bool) -> None:
        """A plan about anything at all; most are illegal."""
        some = st.lists(st.sampled_from(sorted(self.jobs) or [0]), max_size=3)
        jobs = [self.jobs[request] for request in data.draw(some) if request in self.jobs]
        sizes = data.draw(st.lists(st.integers(-1, 40), min_size=len(jobs), max_size=len(jobs) + 1))
        self.attempt(Plan(jobs, drop=data.draw(some), decode=decode, tokens=sizes))

    @rule(data=st.data(), decode=st.booleans(), count=st.integers(0, 3))
    def sensible(self, data: st.DataObject, decode: bool, count: int) -> None:
        """The next chunks of some, newcomers from the queue's head, and a row or two dropped."""
        drop = data.draw(st.lists(st.sampled_from([*self.tokens, -1]), unique=True, max_size=2))
        drop = [request for request in drop if request >= 0]
        going = [self.jobs[request] for request in sorted(self.partial) if request not in drop]
        newcomers = list(self.ledger.waiting)[:count]
        sizes = [data.draw(st.integers(1, self.left(job.id))) for job in going]
        book = self.ledger.book
        assert isinstance(book, Paged)
        for job in newcomers:
            length = self.ledger.prefill_length(job)
            left = length - book.draft().found(job, length)
            sizes.append(data.draw(st.just(left) | st.integers(1, left)))
        rows = len(self.tokens) - len(self.partial) - sum(request not in self.partial for request in drop)
        self.attempt(Plan([*going, *newcomers], drop=drop, decode=decode and rows > 0, tokens=sizes))

    @rule()
    def carry_on(self) -> None:
        self.attempt(CARRY_ON)

    def left(self, request: int) -> int:
        return self.jobs[request].prompt_tokens + self.generated[request] - self.tokens[request]

    def attempt(self, plan: Plan) -> None:
        before = state(self.ledger)
        chunks = self.ledger.chunks
        found = {again: lookups.found for again, lookups in ((False, chunks.admitted), (True, chunks.readmitted))}
        try:
            self.ledger.begin(0, plan)
        except IllegalPlan:
            assert state(self.ledger) == before
            return
        self.flying = plan
        for request in plan.drop:
            del self.tokens[request]
            self.partial.discard(request)
            self.dropped.add(request)
        for job in plan.prefill:
            if job.id not in self.partial:
                self.partial.add(job.id)
                self.tokens[job.id] = self.ledger.chunks.partial[job.id][1]
                found[job.id in self.dropped] += self.tokens[job.id]
        assert (chunks.admitted.found, chunks.readmitted.found) == (found[False], found[True])

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        plan, self.flying = self.flying, None
        if plan is None:
            with pytest.raises(IllegalPlan):
                self.ledger.commit(0, [])
            return
        computed = [request for request in self.tokens if request not in self.partial] if plan.decode else []
        for request in computed:
            self.tokens[request] += 1
        for job, tokens in zip(plan.prefill, plan.tokens, strict=True):
            if tokens == self.left(job.id):
                computed.append(job.id)
                self.partial.discard(job.id)
            self.tokens[job.id] += tokens
        for request in computed:
            self.generated[request] += 1
        ended = data.draw(st.lists(st.sampled_from(computed), unique=True)) if computed else []
        ended += [r for r in computed if self.generated[r] == self.jobs[r].max_new_tokens and r not in ended]
        self.ledger.commit(0, ended)
        for request in ended:
            del self.tokens[request]

    @invariant()
    def everybody_is_where_the_plans_have_put_them(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger = self.ledger
        assert set(ledger.chunks.partial) == self.partial
        assert set(ledger.batch.rows) == self.tokens.keys() - self.partial
        assert set(ledger.chunks.running) == self.tokens.keys()
        assert all(ledger.chunks.length(request) == tokens for request, tokens in self.tokens.items())
        assert len(self.tokens) <= MAX_ROWS
        keys = [ledger.waiting.key(job) for job in ledger.waiting]
        assert keys == sorted(keys)

    @invariant()
    def blocks_are_conserved(self) -> None:
        """Free and referenced blocks are all blocks, and a block in use by several counts once."""
        if not hasattr(self, "ledger"):
            return
        book = self.ledger.book
        assert isinstance(book, Paged)
        tokens = {r: n + self.in_flight(r) for r, n in self.tokens.items()}
        if not isinstance(book, PrefixCache):
            assert book.used == 16 * sum(map(blocks_of, tokens.values()))
            return
        assert sum(book.listed.values()) == book.free
        own = sum(blocks_of(n) - len(book.held[r]) for r, n in tokens.items())
        assert book.used == 16 * (own + len(book.references))
        for request, entries in book.held.items():
            job = self.jobs[request]
            assert len(entries) == min(tokens[request] // 16, shareable(job))
            contents = contents_of(job, 0, len(entries))
            assert all(entry in book.cached[content] for content, entry in zip(contents, entries, strict=True))
        uses = [entry for entries in book.held.values() for entry in entries]
        assert {entry: uses.count(entry) for entry in uses} == book.references
        assert not book.references.keys() & book.listed.keys()

    def in_flight(self, request: int) -> int:
        """Tokens whose memory an iteration that has begun has taken."""
        plan = self.flying
        if plan is None:
            return 0
        chunks = {job.id: tokens for job, tokens in zip(plan.prefill, plan.tokens, strict=True)}
        return chunks.get(request, int(plan.decode and request not in self.partial))


ChunkMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChunks = ChunkMachine.TestCase


def test_an_illegal_chunk_names_its_reason() -> None:
    ledger = make_ledger()
    job, other = Job(0, 0.0, 40, 10), Job(1, 1.0, 200, 10)
    for plan, reason in (
        (Plan([job], tokens=[16]), "waiting or a partly prefilled"),
        (Plan([job], tokens=[16, 16]), "number of tokens"),
        (Plan([job], tokens=[41]), "chunk of 41 tokens of request 0, after 0 others"),
        (Plan([job, job], tokens=[16, 16]), "computed or dropped once"),
        (Plan([job], drop=[1], tokens=[16]), "running requests are dropped"),
        (Plan([job], decode=True, tokens=[16]), "no row to decode"),
        (Plan([job], apart=True, tokens=[16]), "apart"),
        (Plan([other], tokens=[200]), "more blocks needed than are free"),
    ):
        with pytest.raises(IllegalPlan, match=reason):
            ledger.begin(0, plan)
    ledger.submit([job])
    with pytest.raises(IllegalPlan, match="lane 0"):
        ledger.begin(1, Plan([job], tokens=[16]))
    ledger.begin(0, Plan([job], tokens=[16]))
    with pytest.raises(IllegalPlan, match="request 0 was not computed"):
        ledger.commit(0, [0])
    ledger.commit(0, [])
    with pytest.raises(IllegalPlan, match="all of them in chunks"):
        ledger.begin(0, Plan([job]))


def test_chunks_need_pages_and_a_batch_that_has_nobody_prefilled_whole() -> None:
    batch, job = Batch(), Job(0, 0.0, 40, 10)
    slots = Ledger(batch, Slots(200), make_queue("fcfs"), MAX_ROWS)
    slots.submit([job])
    with pytest.raises(IllegalPlan, match="paged KV memory"):
        slots.begin(0, Plan([job], tokens=[16]))
    ledger = make_ledger()
    ledger.submit([job, Job(1, 0.0, 40, 10)])
    ledger.begin(0, Plan([job]))
    ledger.commit(0, [])
    with pytest.raises(IllegalPlan, match="all of them in chunks"):
        ledger.begin(0, Plan([*ledger.waiting], tokens=[16]))
