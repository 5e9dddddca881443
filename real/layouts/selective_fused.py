"""Selective batching with fused attention: one ragged operator per layer, however many requests there are.

KV lies in one pool of token slots, and every request knows which slots it holds, as in paged attention. Decoding rows
attend over their own slots, laid end to end, with a softmax over each row's part: nothing is padded. Prompts that are
prefilled in the same iteration are padded to the longest of them inside the operator, which neither the linear layers
nor the pool see, and which `Work`, that describes what the operator is given, does not count.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from policies.ledger.ledger import Ledger
from policies.ledger.paged import BLOCK, Paged
from real.layouts.executor import Executor, Prompts, Rows
from real.layouts.selective import Selective, SelectiveStep
from real.layouts.sequences import Sequences
from real.layouts.slot_table import SlotTable
from real.model.network import Network


class Ragged:
    """One attention operator over requests of different lengths, their KV in a pool of slots."""

    def __init__(
        self, executor: Executor, pool: Tensor, held: list[Tensor], written: Tensor, prompts: list[int]
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
        self._written = written
        self._rows = len(held)
        device = written.device
        if held:
            self._lay_rows(held)
        if prompts:
            starts = torch.tensor([len(held), *prompts]).cumsum(0)[:-1, None].to(device)
            column = torch.arange(max(prompts), device=device)
            self._real = column < torch.tensor(prompts, device=device)[:, None]
            self._padded = torch.where(self._real, starts + column, len(held))
        self._prompts = len(prompts)
        self.launches = 1
        self.kv_read = sum(map(len, held))

    def _lay_rows(self, held: list[Tensor]) -> None:
        """Tell the operator where the tokens of each decoding row lie."""
        device = held[0].device
        lengths = torch.tensor([len(slots) for slots in held], device=device)
        if self._attention.by_kernel(self._pool):
            self._positions, self._table = lengths - 1, pad_sequence(held, batch_first=True)
        else:
            self._slots = torch.cat(held)
            self._row = torch.repeat_interleave(torch.arange(len(held), device=device), lengths)
            self._distance = torch.cat([torch.arange(1 - len(slots), 1, device=device) for slots in held])

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
        return self._attention(queries, new_keys, new_values, scale)[self._real]


class PooledRows:
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

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every new token's key and value in its slot, and attend over each row's own."""
        keys, values = self._pool[layer]
        keys.index_copy_(0, self._written, key[:, :, 0])
        values.index_copy_(0, self._written, value[:, :, 0])
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
        self._free = list(range(slots - 1, -1, -1))
        self._grows = isinstance(ledger.book, Paged)
        self._slots: dict[int, Tensor] = {}

    @property
    def kv_slots(self) -> int:
        """KV tokens that requests hold slots for."""
        return self._pool.shape[2] - 1 - len(self._free)

    def _take(self, count: int) -> Tensor:
        taken = self._free[-count:]
        del self._free[-count:]
        assert len(taken) == count
        return self.tensor(taken)

    def _open(self, request: int, tokens: int, reserved: int) -> None:
        self._slots[request] = self._take(-(-tokens // BLOCK) * BLOCK if self._grows else reserved)

    def _close(self, request: int) -> None:
        self._free += self._slots.pop(request).tolist()

    def _grow_rows(self, decoding: list[int]) -> None:
        """Take a block for every row whose slots are full."""
        for request in decoding:
            if self._length[request] == len(self._slots[request]):
                self._slots[request] = torch.cat([self._slots[request], self._take(BLOCK)])

    def _decode(self, decoding: list[int]) -> Rows:
        self._grow_rows(decoding)
        if self._table.hold({request: self._slots[request] for request in decoding}):
            self.graphs.forget()
        rows = self.execution.rows(len(decoding), self.max_batch)
        requests = self._table.requests
        return self.decode(
            requests,
            [*map(self.sequences.last, requests)],
            [self._length[request] for request in requests],
            rows,
            rows,
            lambda lengths: self.rows(self, self._pool, self._table.slots[:rows], lengths),
        )

    def _step(self, decoding: list[int], prompts: Prompts) -> SelectiveStep:
        self._grow_rows(decoding)
        held = [self._length[request] for request in decoding]
        slots = [self._slots[request][: length + 1] for request, length in zip(decoding, held, strict=True)]
        new = [self._slots[request][:length] for request, length in zip(prompts.requests, prompts.lengths, strict=True)]
        return self._mixed_step(slots, new)

    def _mixed_step(self, held: list[Tensor], new: list[Tensor]) -> SelectiveStep:
        written = torch.cat([*(row[-1:] for row in held), *new])
        return Ragged(self, self._pool, held, written, list(map(len, new)))
