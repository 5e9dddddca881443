"""Selective batching with fused attention: one ragged operator per layer, however many requests there are.

KV lies in one pool of token slots, and every request knows which slots it holds, as in paged attention. Decoding rows
attend over their own slots, laid end to end, with a softmax over each row's part: nothing is padded. Prompts that are
prefilled in the same iteration are padded to the longest of them inside the operator, which neither the linear layers
nor the pool see, and which `Work`, that describes what the operator is given, does not count.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.ledger.ledger import Ledger
from policies.ledger.paged import BLOCK, Paged
from real.layouts.executor import Executor, Prompts, Rows
from real.layouts.seats import Seats
from real.layouts.selective import Selective, SelectiveStep
from real.layouts.sequences import Sequences
from real.layouts.slot_table import SlotTable
from real.model.attention import Places, RowStep
from real.model.host_memory import Numbers
from real.model.network import Network


def filled(lengths: Sequence[int] | Numbers) -> tuple[npt.NDArray[np.bool_], Numbers]:
    """Return which places of a rectangle hold rows of these lengths, [rows, longest], and its columns."""
    column = np.arange(max(lengths))
    return column < np.asarray(lengths)[:, None], column


class Ragged:
    """One attention operator over requests of different lengths, their KV in a pool of slots."""

    def __init__(
        self, executor: Executor, pool: Tensor, held: list[Numbers], written: Numbers, prompts: list[int]
    ) -> None:
        """Attend.

        Args:
            executor: Whose network it is.
            pool: Keys and values, [layers, 2, slots, kv_heads, head_dim].
            held: Slots of each decoding request, that of its new token last.
            written: Slots of all new tokens, those of decoding requests first, [tokens].
            prompts: Lengths of the prompts that follow.
        """
        self._attention = executor.network.attention
        self._pool = pool
        self._written = executor.tensor(written)
        self._rows = len(held)
        if held:
            self._lay_rows(executor, held)
        if prompts:
            starts = len(held) + np.cumsum([0, *prompts[:-1]])
            real, column = filled(prompts)
            self._padded = executor.tensor(np.where(real, starts[:, None] + column, len(held)))
            self._real = executor.tensor(real.ravel().nonzero()[0])
        self._prompts = len(prompts)
        self.launches = 1
        self.kv_read = sum(map(len, held))

    def _lay_rows(self, executor: Executor, held: list[Numbers]) -> None:
        """Tell the operator where the tokens of each decoding row lie."""
        lengths, slots = np.array([len(row) for row in held]), np.concatenate(held)
        if self._attention.by_kernel(self._pool):
            real, _ = filled(lengths)
            table = np.zeros(real.shape, dtype=np.int64)
            table[real] = slots
            self._positions, self._table = executor.tensor(lengths - 1), executor.tensor(table)
        else:
            row = np.repeat(np.arange(len(held)), lengths)
            distance = np.arange(len(slots)) - (np.cumsum(lengths) - 1)[row]
            self._slots, self._row, self._distance = executor.tensor(np.stack([slots, row, distance]))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every new token's key and value in its slot, and attend over all requests."""
        keys, values = self._pool[layer]
        keys.index_copy_(0, self._written, key[0].transpose(0, 1))
        values.index_copy_(0, self._written, value[0].transpose(0, 1))
        parts = []
        if self._rows:
            parts.append(self._rows_attend(query[0, :, : self._rows].transpose(0, 1), keys, values, scale))
        if self._prompts:
            parts.append(self._prompts_attend(layer, query, key, value, scale))
        return torch.cat(parts)[None]

    def _rows_attend(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Return what the decoding rows see, [rows, heads, head_dim]."""
        if self._attention.by_kernel(query):
            return self._attention.rows(query, keys, values, scale, self._positions, self._table)
        seen_keys, seen_values = keys.index_select(0, self._slots), values.index_select(0, self._slots)
        return self._attention.ragged(query, seen_keys, seen_values, scale, self._row, self._distance)

    def _prompts_attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return what the prompts' tokens see, [tokens, heads, head_dim]."""
        queries, new_keys, new_values = (
            part[0].transpose(0, 1)[self._padded].transpose(1, 2) for part in (query, key, value)
        )
        return self._attention(queries, new_keys, new_values, scale).flatten(0, 1).index_select(0, self._real)


class PooledRows(RowStep):
    """One new token for each row of a table of slots."""

    def __init__(self, executor: Executor, pool: Tensor, table: Tensor, lengths: Tensor) -> None:
        """Decode rows whose tokens lie where `table` [rows, columns] says; row r has `lengths[r]` of them."""
        self._attention = executor.network.attention
        self._pool = pool
        self._table = table
        self._lengths = self.positions = lengths
        self._written = table.gather(1, lengths[:, None])[:, 0]
        self.seen = lengths + 1
        self.launches = 0

    def places(self, layer: int) -> Places:
        """One slot of each row."""
        keys, values = self._pool[layer]
        return Places(keys, values, self._written)

    def attend_placed(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attend over each row's own slots."""
        keys, values = self._pool[layer]
        attended, launches = self._attended(query[:, :, 0], keys, values, scale)
        if layer == 0:
            self.launches = launches
        return attended[:, None]

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, int]:
        return self._attention.rows(query, keys, values, scale, self._lengths, self._table), 1


class Fused(Selective):
    """One attention operator per layer, KV in a pool of slots.

    The slot behind those of the KV book is nobody's: dummy rows write there.
    """

    rows = PooledRows

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start with an empty pool, as large as the KV book allows."""
        super().__init__(network, ledger, sequences, max_batch)
        model = network.dimensions
        slots = ledger.book.limit
        self._pool = self.zeros(model.layers, 2, slots + 1, model.kv_heads, model.head_dim)
        self._table = SlotTable(max_batch, slots, network.device)
        self._seats: Seats | None = None
        self._unheld: dict[int, None] = {}
        """Requests that the table does not know as they are: they have joined or left, or hold more slots."""
        self._free = list(range(slots - 1, -1, -1))
        self._grows = isinstance(ledger.book, Paged)
        self._slots: dict[int, Numbers] = {}

    @property
    def kv_slots(self) -> int:
        """KV tokens that requests hold slots for."""
        return self._pool.shape[2] - 1 - len(self._free)

    def _take(self, count: int) -> Numbers:
        taken = self._free[-count:]
        del self._free[-count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.int64)

    def _open(self, request: int, tokens: int, reserved: int) -> None:
        self._slots[request] = self._take(-(-tokens // BLOCK) * BLOCK if self._grows else reserved)

    def _close(self, request: int) -> None:
        self._free += self._slots.pop(request).tolist()

    def _moved(self, request: int) -> None:
        self._seats = None
        self._unhold(request)

    def _unhold(self, request: int) -> None:
        if self.execution.captured:
            self._unheld[request] = None

    def _grow_rows(self) -> None:
        """Take a block for every row whose slots are full."""
        steps, slots = self._steps, self._slots
        for request in [r for r, offset in self._rows.items() if offset + steps == len(slots[r])]:
            slots[request] = np.concatenate([slots[request], self._take(BLOCK)])
            self._unhold(request)

    def _decode(self) -> Rows:
        if self._grows:
            self._grow_rows()
        if self._unheld:
            self._hold_rows()
        seats = self._seats = self._seats or self._seated()
        rows = self.execution.rows(len(seats.requests), self.max_batch)
        return self.decode(
            seats, rows, rows, lambda lengths: self.rows(self, self._pool, self._table.slots[:rows], lengths)
        )

    def _hold_rows(self) -> None:
        """Let the table know who has come, gone or grown."""
        for request in self._unheld:
            if request not in self._rows:
                self._table.leave(request)
        held = [request for request in self._unheld if request in self._rows]
        if self._table.widen(max((len(self._slots[request]) for request in held), default=0)):
            self.graphs.forget()
        for request in held:
            self._table.hold(request, self._slots[request])
        self._unheld.clear()

    def _seated(self) -> Seats:
        requests = self._table.requests
        return Seats(requests, self.sequences.last(requests), [*map(self._length, requests)])

    def _step(self, decoding: list[int], prompts: Prompts) -> SelectiveStep:
        if self._grows and decoding:
            self._grow_rows()
        held = [self._slots[request][: self._length(request) + 1] for request in decoding]
        new = [self._slots[request][:length] for request, length in zip(prompts.requests, prompts.lengths, strict=True)]
        return self._mixed_step(held, new)

    def _mixed_step(self, held: list[Numbers], new: list[Numbers]) -> SelectiveStep:
        return Ragged(self, self._pool, held, np.concatenate([*(row[-1:] for row in held), *new]), [*map(len, new)])
