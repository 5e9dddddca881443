"""Selective batching with fused attention: one ragged operator per layer, however many requests there are.

KV lies in one pool of token slots, and every request knows which slots it holds, as in paged attention. Decoding rows
attend over their own slots, laid end to end, with a softmax over each row's part: nothing is padded. Prompts that are
prefilled in the same iteration are padded to the longest of them inside the operator, which neither the linear layers
nor the pool see, and which `Work`, that describes what the operator is given, does not count.
"""

import torch
from torch import Tensor

from policies.ledger import Ledger
from policies.paged import BLOCK, Paged
from real.layouts.executor import Executor, Prompts
from real.layouts.selective import Selective, SelectiveStep
from real.network import Network
from real.sequences import Sequences


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
            self._slots = torch.cat(held)
            lengths = torch.tensor([len(slots) for slots in held], device=device)
            self._row = torch.repeat_interleave(torch.arange(len(held), device=device), lengths)
            self._distance = torch.cat([torch.arange(1 - len(slots), 1, device=device) for slots in held])
        if prompts:
            starts = torch.tensor([len(held), *prompts]).cumsum(0)[:-1, None].to(device)
            column = torch.arange(max(prompts), device=device)
            self._real = column < torch.tensor(prompts, device=device)[:, None]
            self._padded = torch.where(self._real, starts + column, len(held))
        self._prompts = len(prompts)
        self.launches = 1
        self.kv_read = sum(map(len, held))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every new token's key and value in its slot, and attend over all requests."""
        keys, values = self._pool[layer]
        keys.index_copy_(0, self._written, key[0].transpose(0, 1))
        values.index_copy_(0, self._written, value[0].transpose(0, 1))
        parts = []
        if self._rows:
            decoding = query[0, :, : self._rows].transpose(0, 1)
            seen_keys, seen_values = keys.index_select(0, self._slots), values.index_select(0, self._slots)
            parts.append(self._attention.ragged(decoding, seen_keys, seen_values, scale, self._row, self._distance))
        if self._prompts:
            parts.append(self._prompts_attend(layer, query, key, value, scale))
        return torch.cat(parts)[None]

    def _prompts_attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return what the prompts' tokens see, [tokens, heads, head_dim]."""
        queries, new_keys, new_values = (
            part[0].transpose(0, 1)[self._padded].transpose(1, 2) for part in (query, key, value)
        )
        return self._attention(queries, new_keys, new_values, scale)[self._real]


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
        slots = [self._slots[request][: length + 1] for request, length in zip(decoding, held, strict=True)]
        new = [self._slots[request][:length] for request, length in zip(prompts.requests, prompts.lengths, strict=True)]
        return Ragged(self, self._pool, slots, torch.cat([*(row[-1:] for row in slots), *new]), prompts.lengths)
