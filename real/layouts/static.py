"""Run-to-completion: one batch, padded on the left, computed until its last row has ended."""

from collections.abc import Sequence

import torch
from torch import Tensor

from policies.ledger import Ledger
from policies.plan import Plan
from policies.work import Work
from real.layouts.executor import Executor, Outcome, Prompts, causal_pairs
from real.network import Network
from real.sequences import Sequences


class Columns:
    """All rows compute the same columns [first, first + q) of the rectangle."""

    def __init__(self, executor: Executor, buffer: Tensor, padding: Tensor, first: int, count: int) -> None:
        """Compute `count` columns of `buffer`; row r begins at column `padding[r]`."""
        self._attention = executor.network.attention
        self._view = buffer[:, :, :, :, : first + count]
        self._first = first
        column = torch.arange(first + count, device=padding.device)
        query = column[first:, None]
        # A padding query sees itself: seeing nothing would make it a NaN, and its value would spread from there.
        self.mask = ((column <= query) & ((column >= padding[:, None, None]) | (column == query)))[:, None]
        self.positions = (query.T - padding[:, None]).clamp(min=0, max=executor.network.last_position)
        self.launches = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Write the columns, and attend over all up to them."""
        keys, values = self._view[layer]
        keys[:, :, self._first :] = key
        values[:, :, self._first :] = value
        self.launches += layer == 0
        return self._attention(query, keys, values, scale, self.mask)


class Static(Executor):
    """A batch that takes no newcomer. Rows that have ended go on computing, and what they generate is thrown away."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences) -> None:
        """Start without a batch."""
        super().__init__(network, ledger, sequences)
        self._rows: list[int] = []
        self._live: set[int] = set()
        self._fresh: set[int] = set()
        self._columns = 0

    def run(self, lane: int, plan: Plan) -> Outcome:
        """Begin a batch, or decode one token per row."""
        if plan.prefill:
            return self._begin(self.prompts_of(plan.prefill), max(job.max_new_tokens for job in plan.prefill))
        return self._decode()

    def finished(self, requests: Sequence[int]) -> None:
        """Hold these rows; let the batch go with its last."""
        self._live.difference_update(requests)
        self._fresh.difference_update(requests)
        if not self._live:
            self._rows = []
            del self._buffer

    @property
    def kv_slots(self) -> int:
        """KV tokens that the tensors have room for."""
        return self._buffer.shape[2] * self._buffer.shape[4] if self._rows else 0

    def _begin(self, prompts: Prompts, new_tokens: int) -> Outcome:
        model = self.network.dimensions
        ids = self.padded(prompts.ids, left=True)
        rows, self._columns = ids.shape
        self._rows = prompts.requests
        self._live, self._fresh = set(self._rows), set(self._rows)
        self._padding = self._columns - self.tensor(prompts.lengths)
        self._buffer = self.zeros(model.layers, 2, rows, model.kv_heads, self._columns + new_tokens, model.head_dim)
        step = Columns(self, self._buffer, self._padding, 0, self._columns)
        ends = torch.arange(1, rows + 1, device=ids.device) * self._columns - 1
        tokens = self.sample(self._rows, self.network.forward(ids, step.positions, step, ends))
        self._last = self.tensor(list(tokens.values()))
        counts = prompts.counts()
        padding = ids.numel() - counts["prefill_tokens"]
        padding_pairs = rows * causal_pairs(self._columns) - counts["prefill_pairs"]
        work = Work(
            prefill_padding=padding, prefill_padding_pairs=padding_pairs, attention_launches=step.launches, **counts
        )
        return Outcome(work, tokens)

    def _decode(self) -> Outcome:
        step = Columns(self, self._buffer, self._padding, self._columns, 1)
        everybody = torch.arange(len(self._rows), device=self._last.device)
        tokens = self.sample(self._rows, self.network.forward(self._last[:, None], step.positions, step, everybody))
        self._last = self.tensor(list(tokens.values()))
        self._columns += 1
        seen = step.mask.sum(dim=(1, 2, 3)).tolist()
        read = sum(count for request, count in zip(self._rows, seen, strict=True) if request in self._live)
        live, window = len(self._live), step.mask.shape[-1]
        work = Work(
            rows=live,
            held_rows=len(self._rows) - live,
            inserted_rows=len(self._fresh),
            kv_read=read,
            kv_held=(len(self._rows) - live) * window,
            kv_padding=live * window - read,
            attention_launches=step.launches,
        )
        self._fresh.clear()
        return Outcome(work, {request: token for request, token in tokens.items() if request in self._live})
