"""A group of prompts, padded on the right to the longest, prefilled in one pass."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from real.layouts.executor import Executor, Prompts, causal_pairs
from sim.cost.work import Work


class Store(Protocol):
    """Where the keys and values of a group go; those of padding go nowhere."""

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write those of a layer, both [prompts, kv_heads, longest, head_dim]."""


class Apart:
    """A tensor for each prompt."""

    def __init__(self, places: Sequence[Tensor], lengths: Sequence[int]) -> None:
        """Write prompt i to `places[i]`, [layers, 2, kv_heads, lengths[i], head_dim]."""
        self.places = places
        self._lengths = lengths

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write K and V of each prompt at once."""
        for row, (place, length) in enumerate(zip(self.places, self._lengths, strict=True)):
            torch.stack([key[row, :, :length], value[row, :, :length]], out=place[layer])


class InPlace:
    """Rows of a rectangle."""

    def __init__(self, executor: Executor, buffer: Tensor, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Write prompt i to row `rows[i]` of `buffer`, [layers, 2, rows, kv_heads, capacity, head_dim]."""
        self._buffer = buffer
        prompt = np.repeat(np.arange(len(rows)), lengths)
        column = np.concatenate([np.arange(length) for length in lengths])
        self._row, self._prompt, self._column = executor.tensor(np.stack([np.asarray(rows)[prompt], prompt, column]))

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write K and V of all prompts at once."""
        for part, new in zip(self._buffer[layer], (key, value), strict=True):
            part[self._row, :, self._column] = new[self._prompt, :, self._column]


class GroupPrefill:
    """Causal attention over the group.

    Padding lies behind every real token of its row, so causality alone hides it.
    """

    def __init__(self, executor: Executor, store: Store) -> None:
        """Write keys and values to a store."""
        self._attention = executor.network.attention
        self._store = store
        self.launches = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store keys and values, and attend."""
        self._store.write(layer, key, value)
        self.launches += layer == 0
        return self._attention(query, key, value, scale)


def prefill_group(executor: Executor, prompts: Prompts, store: Store, lane: int) -> tuple[Work, Tensor]:
    """Prefill; return the work, copies apart, and the logits [prompts, vocabulary] of the next tokens."""
    ids = executor.padded(prompts.ids)
    rows, longest = ids.shape
    step = GroupPrefill(executor, store)
    positions = torch.arange(longest, device=ids.device).expand(rows, -1)
    ends = [row * longest + length - 1 for row, length in enumerate(prompts.lengths)]
    logits = executor.network.forward(ids, positions, step, executor.tensor(ends))
    counts = prompts.counts()
    padding = ids.numel() - counts["prefill_tokens"]
    padding_pairs = rows * causal_pairs(longest) - counts["prefill_pairs"]
    work = Work(
        lane, prefill_padding=padding, prefill_padding_pairs=padding_pairs, attention_launches=step.launches, **counts
    )
    return work, logits
