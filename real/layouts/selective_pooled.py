"""One attention call per request, as `real.layouts.selective` has it, over a pool of slots.

Memory that comes and goes with every request cannot be recorded; a pool stays where it is.
"""

import numpy as np
import torch
from torch import Tensor

from real.layouts.executor import Executor
from real.layouts.selective import SelectiveStep
from real.layouts.selective_fused import Fused, PooledRows
from real.model.host_memory import Numbers


class PooledRowByRow(PooledRows):
    """One new token for each row of a table of slots, an attention operator each."""

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, int]:
        each = []
        for row in range(len(query)):
            length, slots = self._lengths[row, None], self._table[row, None]
            each.append(self._attention.rows(query[row, None], keys, values, scale, length, slots))
        return torch.cat(each), len(each)


class PooledRequestByRequest:
    """One attention call per layer and request, over rows that decode and whole prompts."""

    def __init__(self, executor: Executor, pool: Tensor, held: list[Numbers], new: list[Numbers]) -> None:
        """Attend over the slots of each decoding request, that of its new token last, and those of each prompt."""
        self._attention = executor.network.attention
        self._pool = pool
        lengths = [*map(len, held)]
        self._held = executor.tensor(np.concatenate(held)).split(lengths) if held else ()
        self._lengths = executor.tensor([[length - 1] for length in lengths])
        self._written = executor.tensor(np.concatenate([*(slots[-1:] for slots in held), *new]))
        self._new = [*map(len, new)]
        self.launches = len(held) + len(new)
        self.kv_read = sum(lengths)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every token's key and value in its slot, and attend one request at a time."""
        keys, values = self._pool[layer]
        keys.index_copy_(0, self._written, key[0].transpose(0, 1))
        values.index_copy_(0, self._written, value[0].transpose(0, 1))
        out = torch.empty_like(query.transpose(1, 2))
        for place, (slots, length) in enumerate(zip(self._held, self._lengths, strict=True)):
            token = query[:, :, place]
            out[:, place] = self._attention.rows(token, keys, values, scale, length, slots[None])
        start = len(self._held)
        for length in self._new:
            tokens = slice(start, start + length)
            out[:, tokens] = self._attention(query[:, :, tokens], key[:, :, tokens], value[:, :, tokens], scale)
            start = tokens.stop
        return out


class PooledPerRequest(Fused):
    """One attention operator per layer and request, KV in a pool of slots."""

    rows = PooledRowByRow

    def _mixed_step(self, held: list[Numbers], new: list[Numbers]) -> SelectiveStep:
        return PooledRequestByRequest(self, self._pool, held, new)
