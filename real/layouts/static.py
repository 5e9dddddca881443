"""Run-to-completion: one batch, padded on the left, computed until its last row has ended."""

from collections.abc import Sequence

import torch
from torch import Tensor

from policies.ledger.ledger import Ledger
from policies.plan import Plan
from real.layouts.executor import Executor, Outcome, Prompts, causal_pairs
from real.layouts.seats import Seats
from real.layouts.sequences import Sequences
from real.model.attention import Places, RowStep
from real.model.network import Network
from sim.cost.work import Work


class Columns:
    """All rows compute the first columns of the rectangle."""

    def __init__(self, executor: Executor, buffer: Tensor, padding: Tensor, count: int) -> None:
        """Compute `count` columns of `buffer`; row r begins at column `padding[r]`."""
        self._attention = executor.network.attention
        self._view = buffer[:, :, :, :, :count]
        column = torch.arange(count, device=padding.device)
        query = column[:, None]
        # A padding query sees itself: seeing nothing would make it a NaN, and its value would spread from there.
        self._mask = ((column <= query) & ((column >= padding[:, None, None]) | (column == query)))[:, None]
        self.positions = (query.T - padding[:, None]).clamp(min=0, max=executor.network.last_position)
        self.launches = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Write the columns, and attend over all up to each."""
        keys, values = self._view[layer]
        keys[:], values[:] = key, value
        self.launches += layer == 0
        return self._attention(query, keys, values, scale, self._mask)


class Column(RowStep):
    """All rows compute the next column of the rectangle."""

    def __init__(self, executor: Executor, buffer: Tensor, padding: Tensor, lengths: Tensor, window: int) -> None:
        """Compute one column of `buffer`; row r begins at column `padding[r]` and holds `lengths[r]` tokens."""
        self._attention = executor.network.attention
        self._view = buffer[:, :, :, :, :window]
        self._rows = torch.arange(len(lengths), device=padding.device)
        self._columns = padding + lengths
        column = torch.arange(window, device=padding.device)
        self._mask = ((column <= self._columns[:, None]) & (column >= padding[:, None]))[:, None, None]
        self.seen = self._mask.sum(dim=(1, 2, 3))
        self.positions = lengths.clamp(min=0, max=executor.network.last_position)
        self.launches = 0

    def places(self, layer: int) -> Places:
        """The column, which is the same one for all rows."""
        keys, values = self._view[layer]
        return Places(keys, values, self._columns, self._rows)

    def attend_placed(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attend over all columns up to it."""
        keys, values = self._view[layer]
        self.launches += layer == 0
        return self._attention(query, keys, values, scale, self._mask)


class Static(Executor):
    """A batch that takes no newcomer. Rows that have ended go on computing, and what they generate is thrown away."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without a batch."""
        super().__init__(network, ledger, sequences, max_batch)
        self._seats = Seats()
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
            self._seats = Seats()
            self.graphs.forget()
            del self._buffer

    @property
    def kv_slots(self) -> int:
        """KV tokens that the tensors have room for."""
        return self._buffer.shape[2] * self._buffer.shape[4] if self._seats.requests else 0

    def _begin(self, prompts: Prompts, new_tokens: int) -> Outcome:
        ids = self.padded(prompts.ids, left=True)
        rows, self._columns = ids.shape
        self._live, self._fresh = set(prompts.requests), set(prompts.requests)
        self._padding = self._columns - self.tensor(prompts.lengths)
        self._buffer = self._rectangle(rows, self._columns, new_tokens)
        step = Columns(self, self._buffer, self._padding, self._columns)
        ends = torch.arange(1, rows + 1, device=ids.device) * self._columns - 1
        tokens = self.sample(prompts.requests, self.network.forward(ids, step.positions, step, ends))
        self._seats = Seats(prompts.requests, [*tokens.values()], prompts.lengths)
        counts = prompts.counts()
        padding = ids.numel() - counts["prefill_tokens"]
        padding_pairs = rows * causal_pairs(self._columns) - counts["prefill_pairs"]
        work = Work(
            prefill_padding=padding, prefill_padding_pairs=padding_pairs, attention_launches=step.launches, **counts
        )
        return Outcome(work, tokens)

    def _rectangle(self, rows: int, prompt: int, new: int) -> Tensor:
        """Return memory for so many rows and columns; prefill will write those of the prompts."""
        model = self.network.dimensions
        buffer = self.unwritten(model.layers, 2, rows, model.kv_heads, prompt + new, model.head_dim)
        buffer[:, :, :, :, prompt:] = 0
        return buffer

    def _decode(self) -> Outcome:
        requests = self._seats.requests
        count, capacity = len(requests), self._buffer.shape[4]
        window = self.execution.window(self._columns + 1, capacity)
        made = self.decode(
            self._seats, count, window, lambda lengths: Column(self, self._buffer, self._padding, lengths, window)
        )
        self._columns += 1
        live, tokens = len(self._live), made.tokens
        if live < count:
            tokens = {request: token for request, token in tokens.items() if request in self._live}
        read = sum(seen for request, seen in zip(requests, made.seen, strict=True) if request in self._live)
        work = Work(
            rows=live,
            held_rows=count - live,
            inserted_rows=len(self._fresh),
            kv_read=read,
            kv_held=(count - live) * window,
            kv_padding=live * window - read,
            attention_launches=made.launches,
        )
        self._fresh.clear()
        return Outcome(work, tokens)
