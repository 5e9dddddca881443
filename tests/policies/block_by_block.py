"""Chunked prefill in its plainest form: every block by itself, every list searched from its start, nothing cached.

It is what the ledger, its KV books, the policy and the engine are compared with, iteration by iteration. One iteration
takes one second. Blocks hold a tuple of the numbers of all tokens from the first to their own last.
"""

from dataclasses import dataclass, field

from policies.job import Job

BLOCK = 16


@dataclass
class Request:
    """One request: its tokens are numbers, equal where the content is."""

    job: Job
    output: int
    tokens: list[object]
    computed: int = 0
    reached: int = 0
    decodes: bool = False
    blocks: list[int] = field(default_factory=list)
    preemptions: int = 0
    finish_s: float = 0.0


@dataclass
class Iteration:
    """What one step did: who decoded, (request, tokens, tokens before) of chunks, who was preempted; blocks used."""

    start_s: float
    decoding: list[int]
    chunks: list[tuple[int, int, int]]
    preempted: list[int]
    used: int
    recomputed: int = 0


def tokens_of(job: Job) -> list[object]:
    """Tokens that are equal exactly where the trace says that they are shared."""
    tokens: list[object] = []
    for place in range(job.prompt_tokens):
        if job.prefix_hashes:
            part = place // job.hash_tokens
            shared = part < len(job.prefix_hashes)
            tokens.append(("hash", job.prefix_hashes[part], place) if shared else (job.id, place))
        else:
            tokens.append(("prefix", job.prefix_id, place) if place < job.prefix_tokens else (job.id, place))
    return tokens


@dataclass
class Scheduler:
    """A server with so many blocks."""

    blocks: int
    token_budget: int
    max_batch: int
    threshold: int = 1 << 40
    caching: bool = True
    reserve_full_prompt: bool = False

    def __post_init__(self) -> None:
        self.free = list(range(self.blocks))
        self.content: dict[int, tuple[object, ...]] = {}
        self.cached_at: dict[int, int] = {}
        self.uses = [0] * self.blocks
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.clock = 0

    def allocate(self, request: Request, tokens: int, hit: list[int], whole: int = 0) -> bool:
        """Give a request the blocks for so many more tokens, `hit` among them."""
        end = request.computed + len(hit) * BLOCK + tokens
        lying = sum(self.uses[block] == 0 for block in hit)
        if max(-(-max(end, whole) // BLOCK) - len(request.blocks) - len(hit) + lying, 0) > len(self.free):
            return False
        for block in hit:
            if not self.uses[block]:
                self.free.remove(block)
            self.uses[block] += 1
        request.blocks += hit
        while len(request.blocks) < -(-end // BLOCK):
            block = self.free.pop(0)
            self.content.pop(block, None)
            self.uses[block] = 1
            request.blocks.append(block)
        if self.caching:
            for place in range(end // BLOCK):
                block = request.blocks[place]
                if block not in self.content:
                    self.content[block] = tuple(request.tokens[: (place + 1) * BLOCK])
                    self.cached_at[block] = self.clock = self.clock + 1
        return True

    def release(self, request: Request) -> None:
        """Free the blocks of a request, its tail first."""
        for block in reversed(request.blocks):
            self.uses[block] -= 1
            if not self.uses[block]:
                self.free.append(block)
        request.blocks = []

    def hit(self, request: Request) -> list[int]:
        """Blocks that hold the beginning of a request, at most so many that a token is left to compute."""
        found: list[int] = []
        for place in range((len(request.tokens) - 1) // BLOCK):
            wanted = tuple(request.tokens[: (place + 1) * BLOCK])
            holders = [block for block, content in self.content.items() if content == wanted]
            if not holders:
                break
            found.append(min(holders, key=self.cached_at.__getitem__))
        return found

    def step(self, now: float) -> Iteration:
        """Schedule, compute and close one iteration."""
        left, planned, preempted = self.token_budget, list[tuple[Request, int]](), list[Request]()
        place = 0
        while place < len(self.running) and left:
            request = self.running[place]
            tokens = min(len(request.tokens) - request.computed, self.threshold, left)
            while not self.allocate(request, tokens, []):
                victim = self.running.pop()
                self.release(victim)
                victim.computed, victim.decodes, victim.preemptions = 0, False, victim.preemptions + 1
                self.waiting.insert(0, victim)
                preempted.append(victim)
                if victim is request:
                    break
            if request in preempted:
                break
            planned.append((request, tokens))
            left -= tokens
            place += 1
        while not preempted and self.waiting and left and len(self.running) < self.max_batch:
            request = self.waiting[0]
            hit = self.hit(request)
            tokens = min(len(request.tokens) - len(hit) * BLOCK, self.threshold, left)
            if not self.allocate(request, tokens, hit, len(request.tokens) if self.reserve_full_prompt else 0):
                break
            self.running.append(self.waiting.pop(0))
            request.computed = len(hit) * BLOCK
            planned.append((request, tokens))
            left -= tokens
        return self._compute(now, planned, preempted)

    def _compute(self, now: float, planned: list[tuple[Request, int]], preempted: list[Request]) -> Iteration:
        used = self.blocks - len(self.free)
        step = Iteration(now, [], [], [request.job.id for request in preempted], used)
        for request, tokens in planned:
            if request.decodes:
                step.decoding.append(request.job.id)
            else:
                step.chunks.append((request.job.id, tokens, request.computed))
                step.recomputed += max(0, min(request.computed + tokens, request.reached) - request.computed)
            request.computed += tokens
            request.reached = max(request.reached, request.computed)
            if request.computed == len(request.tokens):
                request.decodes = True
                request.tokens.append((request.job.id, len(request.tokens)))
                if len(request.tokens) == request.job.prompt_tokens + request.output:
                    request.finish_s = now + 1
                    self.running.remove(request)
                    self.release(request)
        return step


def schedule(jobs: list[Job], outputs: list[int], scheduler: Scheduler) -> tuple[list[Iteration], list[Request]]:
    """Serve jobs, in order of arrival; return every iteration and every request."""
    requests = [Request(job, output, tokens_of(job)) for job, output in zip(jobs, outputs, strict=True)]
    coming, now, steps = list(requests), 0.0, list[Iteration]()
    while coming or scheduler.waiting or scheduler.running:
        if not scheduler.waiting and not scheduler.running:
            now = max(now, coming[0].job.arrival_s)
        while coming and coming[0].job.arrival_s <= now:
            scheduler.waiting.append(coming.pop(0))
        steps.append(scheduler.step(now))
        now += 1
    return steps, requests
