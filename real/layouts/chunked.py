"""Selective batching with fused attention, prompts prefilled in chunks.

A chunk attends to its own tokens and to the KV of the chunks before it, which lies in the pool. Chunks of one iteration
are padded to the longest of them inside the operator, as whole prompts are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policies.job import Job
from policies.ledger.paged import BLOCK, blocks_of
from policies.plan import Plan
from real.layouts.executor import Executor, Outcome, causal_pairs
from real.layouts.selective_fused import Fused, Ragged, filled
from real.model.host_memory import Numbers
from sim.cost.work import Work


class RaggedChunks(Ragged):
    """The operator over rows that decode and chunks of prompts.

    Attributes:
        prefill_pairs: (query, key) pairs that the chunks' masks let through.
        prefill_kv: KV tokens that the chunks found in the pool, chunk by chunk.
    """

    def __init__(
        self, executor: Executor, pool: Tensor, held: list[Numbers], chunks: list[Numbers], sizes: list[int]
    ) -> None:
        """Attend.

        Args:
            executor: Whose network it is.
            pool: Keys and values, [layers, 2, slots, kv_heads, head_dim].
            held: Slots of each decoding request, that of its new token last.
            chunks: Slots of each prompt so far, those of its chunk last.
            sizes: Tokens of each chunk.
        """
        new = [slots[-size:] for slots, size in zip(chunks, sizes, strict=True)]
        super().__init__(executor, pool, held, np.concatenate([*(row[-1:] for row in held), *new]), sizes)
        self.prefill_pairs = self.prefill_kv = 0
        if not chunks:
            return
        there, column = filled([len(slots) for slots in chunks])
        seen = np.repeat([slots[0] for slots in chunks], len(column)).reshape(there.shape)
        seen[there] = np.concatenate(chunks)
        before = there.sum(axis=1) - sizes
        real, query = filled(sizes)
        position = before[:, None] + query
        self._seen = executor.tensor(seen)
        columns = torch.arange(len(column), device=self._seen.device)
        self._mask = (columns <= executor.tensor(position)[..., None])[:, None]
        self.prefill_pairs = int((position[real] + 1).sum())
        self.prefill_kv = int(before.sum())

    def _prompts_attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = (part[self._seen].transpose(1, 2) for part in self._pool[layer])
        queries = query[0].transpose(0, 1)[self._padded].transpose(1, 2)
        return self._attention(queries, keys, values, scale, self._mask).flatten(0, 1).index_select(0, self._real)


class Chunked(Fused):
    """One attention operator per layer, KV in a pool of slots, prompts in chunks."""

    def run(self, lane: int, plan: Plan) -> Outcome:
        """Let rows and partly prefilled requests leave, then compute a token of every row, and the chunks."""
        for request in plan.drop:
            self._dropped[request] = max(self._length(request), self._dropped.get(request, 0))
            self._leave(request)
        if plan.decode and not plan.prefill and self.execution.captured:
            return self._recorded()
        decoding = list(self._rows) if plan.decode else []
        if not decoding and not plan.prefill:
            return Outcome(Work(lane), {})
        return self._compute_chunks(lane, decoding, plan.prefill, plan.tokens)

    def _grow(self, request: int, tokens: int) -> Numbers:
        """Return the slots of a prompt's first `tokens` tokens, blocks for them taken."""
        held = self._slots.get(request)
        missing = blocks_of(tokens) * BLOCK - (0 if held is None else len(held))
        if missing:
            taken = self._take(missing)
            self._slots[request] = taken if held is None else np.concatenate([held, taken])
            self._unhold(request)
        return self._slots[request][:tokens]

    def _compute_chunks(self, lane: int, decoding: list[int], jobs: Sequence[Job], sizes: Sequence[int]) -> Outcome:
        self._seats = None  # rows that decode beside chunks are not seated: their seats would keep the token before
        requests, sizes = [job.id for job in jobs], list(sizes)
        before = [self._still.get(request, 0) for request in requests]
        after = [start + size for start, size in zip(before, sizes, strict=True)]
        known = [self.sequences.known(request) for request in requests]
        ids = [token for row, start, end in zip(known, before, after, strict=True) for token in row[start:end]]
        lengths = [*map(self._length, decoding)]
        held = [self._grow(request, length + 1) for request, length in zip(decoding, lengths, strict=True)]
        chunks = [self._grow(request, end) for request, end in zip(requests, after, strict=True)]
        step = RaggedChunks(self, self._pool, held, chunks, sizes)
        positions = [*lengths, *(at for start, end in zip(before, after, strict=True) for at in range(start, end))]
        completed = [end == len(row) for row, end in zip(known, after, strict=True)]
        ends = np.cumsum([1] * len(decoding) + sizes) - 1
        sampled = [*range(len(decoding)), *(len(decoding) + i for i, done in enumerate(completed) if done)]
        tokens = self.tensor([*self.sequences.last(decoding), *ids])
        logits = self.network.forward(
            tokens[None], self.tensor(positions)[None], step, self.tensor(ends[np.array(sampled, dtype=np.int64)])
        )
        done = [request for request, is_done in zip(requests, completed, strict=True) if is_done]
        repeated = [
            self._repeated(request, start, end) for request, start, end in zip(requests, before, after, strict=True)
        ]
        work = Work(
            lane,
            rows=len(decoding),
            inserted_rows=len(self._fresh) if decoding else 0,
            prefill_rows=len(sizes),
            prefill_tokens=len(ids),
            prefill_pairs=step.prefill_pairs,
            prefill_kv=step.prefill_kv,
            kv_read=step.kv_read,
            attention_launches=step.launches,
            recomputed_tokens=sum(repeated),
            recomputed_pairs=sum(
                again * start + causal_pairs(again) for again, start in zip(repeated, before, strict=True)
            ),
        )
        if decoding:
            self._advance()
        self._still.update(zip(requests, after, strict=True))
        for request in done:
            self._dropped.pop(request, None)
            self._join(request)
        return Outcome(work, self.sample([*decoding, *done], logits) if decoding or done else {})

    def _repeated(self, request: int, start: int, end: int) -> int:
        """Tokens of a chunk whose KV had been there before its request was dropped."""
        return max(0, min(end, self._dropped.get(request, 0)) - start)
