"""A group of prompts, padded on the right to the longest, prefilled in one pass."""

import torch
from torch import Tensor

from real.layouts.executor import Executor, Prompts, causal_pairs
from sim.cost.work import Work


class GroupPrefill:
    """Causal attention over the group; keys and values go to a place for each prompt.

    Padding lies behind every real token of its row, so causality alone hides it.
    """

    def __init__(self, executor: Executor, places: list[Tensor], lengths: list[int]) -> None:
        """Write the KV of prompt i to `places[i]`, [layers, 2, kv_heads, at least lengths[i], head_dim]."""
        self._attention = executor.network.attention
        self._places = places
        self._lengths = lengths
        self.launches = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store keys and values, and attend."""
        for row, (place, length) in enumerate(zip(self._places, self._lengths, strict=True)):
            place[layer, 0, :, :length] = key[row, :, :length]
            place[layer, 1, :, :length] = value[row, :, :length]
        self.launches += layer == 0
        return self._attention(query, key, value, scale)


def prefill_group(executor: Executor, prompts: Prompts, places: list[Tensor], lane: int) -> tuple[Work, Tensor]:
    """Prefill; return the work, copies apart, and the logits [prompts, vocabulary] of the next tokens."""
    ids = executor.padded(prompts.ids)
    rows, longest = ids.shape
    step = GroupPrefill(executor, places, prompts.lengths)
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
