"""Selective batching with fused attention: one ragged operator per layer, however many requests there are.

KV lies in one pool of token slots, and a table says which slots a request holds, as in paged attention. Where no ragged
kernel is to be had, the operator gathers the live slots into a padded block and masks it: two attention kernels per
layer, one for all decoding rows and one for all prompts. That padding is inside the operator: neither the linear layers
nor the pool see it, and `Work`, which describes what the operator is given, does not count it.
"""

import torch
from torch import Tensor

from policies.kv import BLOCK, Paged
from policies.ledger import Ledger
from real.layouts.executor import Executor, Prompts
from real.layouts.selective import Selective, SelectiveStep
from real.network import Network
from real.sequences import Sequences


class Ragged:
    """One attention operator over requests of different lengths, their KV in a pool of slots."""

    def __init__(
        self, executor: Executor, pool: Tensor, table: Tensor, lengths: Tensor, written: Tensor, prompts: list[int]
    ) -> None:
        """Attend.

        Args:
            executor: Whose network it is.
            pool: Keys and values, [layers, 2, slots, kv_heads, head_dim].
            table: Slots of the decoding requests, [rows, window]; behind a request's last token any slot.
            lengths: Tokens that each of them holds with the new one, [rows].
            written: Slots of all new tokens, those of decoding requests first, [tokens].
            prompts: Lengths of the prompts that follow.
        """
        self._attention = executor.network.attention
        self._pool = pool
        self._table = table
        self._written = written
        window = torch.arange(table.shape[1], device=table.device)
        self._mask = (window < lengths[:, None])[:, None, None]
        self._prompts = len(prompts)
        if prompts:
            starts = torch.tensor([len(table), *prompts]).cumsum(0)[:-1, None].to(table.device)
            column = torch.arange(max(prompts), device=table.device)
            self._real = column < torch.tensor(prompts, device=table.device)[:, None]
            self._packed = (starts + column)[self._real]
            self._padded = torch.where(self._real, starts + column, len(table))
        self.launches = 1
        self.kv_read = int(lengths.sum())

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every new token's key and value in its slot, and attend over all requests."""
        keys, values = self._pool[layer]
        keys.index_copy_(0, self._written, key[0].transpose(0, 1))
        values.index_copy_(0, self._written, value[0].transpose(0, 1))
        rows, window = self._table.shape
        parts = []
        if rows:
            slots = self._table.flatten()
            shape = (rows, window, *keys.shape[1:])
            seen_keys, seen_values = (
                part.index_select(0, slots).view(shape).transpose(1, 2) for part in (keys, values)
            )
            decoding = query[0, :, :rows].transpose(0, 1)[:, :, None]
            parts.append(self._attention(decoding, seen_keys, seen_values, scale, self._mask)[:, 0])
        if self._prompts:
            queries, new_keys, new_values = (
                part[0].transpose(0, 1)[self._padded].transpose(1, 2) for part in (query, key, value)
            )
            parts.append(self._attention(queries, new_keys, new_values, scale)[self._real])
        return torch.cat(parts)[None]


class Fused(Selective):
    """One attention operator per layer, KV in a pool of slots."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences) -> None:
        """Start with an empty pool, as large as the KV book allows."""
        super().__init__(network, ledger, sequences)
        model = network.dimensions
        slots = ledger.book.limit
        self._pool = self.zeros(model.layers, 2, slots, model.kv_heads, model.head_dim)
        self._free = list(range(slots - 1, -1, -1))
        self._grows = isinstance(ledger.book, Paged)
        self._slots: dict[int, Tensor] = {}

    @property
    def kv_slots(self) -> int:
        """KV tokens that requests hold slots for."""
        return self._pool.shape[2] - len(self._free)

    def _take(self, count: int) -> Tensor:
        taken = self._free[-count:]
        del self._free[-count:]
        assert len(taken) == count
        return self.tensor(taken)

    def _open(self, request: int, tokens: int, reserved: int) -> None:
        self._slots[request] = self._take(-(-tokens // BLOCK) * BLOCK if self._grows else reserved)

    def _close(self, request: int) -> None:
        self._free += self._slots.pop(request).tolist()

    def _step(self, decoding: list[int], prompts: Prompts) -> SelectiveStep:
        held = [self._length[request] for request in decoding]
        for request, length in zip(decoding, held, strict=True):
            if length == len(self._slots[request]):
                self._slots[request] = torch.cat([self._slots[request], self._take(BLOCK)])
        lengths = self.tensor(held) + 1
        window = max(held, default=0) + 1
        table = torch.zeros(len(decoding), window, dtype=torch.int64, device=lengths.device)
        for row, request in enumerate(decoding):
            slots = self._slots[request][:window]
            table[row, : len(slots)] = slots
        new = [self._slots[request][:length] for request, length in zip(prompts.requests, prompts.lengths, strict=True)]
        last = table.gather(1, lengths[:, None] - 1)[:, 0]
        return Ragged(self, self._pool, table, lengths, torch.cat([last, *new]), prompts.lengths)
