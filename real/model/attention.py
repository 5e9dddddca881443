"""Attention as the layouts need it: each decides where keys and values lie, all compute the same product.

The models of transformers call one function, registered here under a name of ours; a name that the library does not
know gets no mask from it, so that positions, masks and KV memory are wholly the layouts' own. BLOOM has no such hook:
its attention module is replaced by one that has.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from real.model import streams

NAME = "batched"


class Step(Protocol):
    """One forward pass: keeps the keys and values of every layer and attends over them."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store keys and values [b, kv_heads, q, head_dim]; return attention of query [b, heads, q, head_dim].

        The result is [b, q, heads, head_dim].
        """


class Places(NamedTuple):
    """Where the new key and value of each row of a decode step are laid.

    Attributes:
        keys: [rows, kv_heads, capacity, head_dim], of which a row gets a column; or a pool [slots, kv_heads, head_dim].
        values: Like the keys.
        at: Column or slot of each row, int64 [rows].
        rows: Numbers 0 to rows - 1, int64 [rows]; None: it is a pool.
    """

    keys: Tensor
    values: Tensor
    at: Tensor
    rows: Tensor | None = None

    def lay(self, key: Tensor, value: Tensor) -> None:
        """Lay a key and a value of each row, [rows, kv_heads, head_dim]."""
        if self.rows is None:
            self.keys.index_copy_(0, self.at, key)
            self.values.index_copy_(0, self.at, value)
        else:
            self.keys[self.rows, :, self.at] = key
            self.values[self.rows, :, self.at] = value


class RowStep(ABC):
    """A step of one token per row. What turns a key may lay it where it belongs, in one go."""

    @abstractmethod
    def places(self, layer: int) -> Places:
        """Return where the keys and values of a layer belong."""

    @abstractmethod
    def attend_placed(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Return attention of query [b, heads, 1, head_dim], [b, 1, heads, head_dim], once they lie there."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Lay the key and the value of each row, and attend."""
        self.places(layer).lay(key[:, :, 0], value[:, :, 0])
        return self.attend_placed(layer, query, scale)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _: Tensor | None, *, scaling: float, step: Step,
    **unused: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    layer = module.layer_idx
    assert isinstance(layer, int)
    return step.attend(layer, query, key, value, scaling), None


AttentionInterface.register(NAME, _attend)


class BloomStep:
    """Carries a step to BLOOM's attention where the model expects a cache, which it asks for two lengths only."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def get_seq_length(self) -> int:
        """None is in the cache, as far as the model's own masks are concerned."""
        return 0

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        """The model's own bias is not used: one column will do."""
        return 1, 0


class BloomAttention(nn.Module):
    """BLOOM's attention, its weights shared, on a step of ours."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.query_key_value = original.query_key_value
        self.dense = original.dense
        self._layer = original.layer_idx
        self._heads = original.num_heads
        self._scale = original.inv_norm_factor

    def forward(self, hidden: Tensor, residual: Tensor, *, layer_past: BloomStep, **unused: Any) -> tuple[Tensor, None]:
        """Attend, project and add the residual, as the original does without dropout."""
        fused = self.query_key_value(hidden)
        query, key, value = fused.view(*hidden.shape[:2], self._heads, 3, -1).permute(3, 0, 2, 1, 4)
        context = layer_past.step.attend(self._layer, query, key, value, self._scale)
        return residual + self.dense(context.reshape(hidden.shape)), None


def alibi_slopes(heads: int) -> Tensor:
    """Return the bias per position of distance for every head (Press et al., ICLR 2022), float32 [heads]."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2.0 ** (-4 * (head + 1) / power) for head in range(0, 2 * (heads - power), 2)]
    return torch.tensor(slopes)


class Attention:
    """The product itself, by one fused kernel (`sdpa`) or by matrix products and a softmax (`eager`)."""

    def __init__(self, kind: str, slopes: Tensor | None) -> None:
        """Choose the kind; `slopes` [heads] bias scores by distance where the model wants that."""
        self._eager = kind == "eager"
        self._slopes = slopes

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: [b, heads, q, head_dim].
            key: [b, kv_heads, k, head_dim].
            value: [b, kv_heads, k, head_dim].
            scale: Factor of the scores.
            mask: bool [b or 1, 1, q, k], true where a query sees a key; None: causal, where q = k, or the one query is
                the last and sees all.

        Returns:
            [b, q, heads, head_dim].
        """
        batch, heads, queries, width = query.shape
        groups = heads // key.shape[1]
        if mask is None and (self._eager or self._slopes is not None):
            mask = torch.ones(queries, queries, dtype=torch.bool, device=query.device).tril()[None, None]
        if self._slopes is not None or self._eager:
            out = self._biased(query, key, value, scale, mask)
        elif mask is None and queries > 1:
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=groups > 1)
        elif groups > 1:  # the heads of a group are more queries of one head: keys need not be repeated
            grouped = query.reshape(batch, -1, groups * queries, width)
            seen = None if mask is None else mask.repeat(1, 1, groups, 1)
            out = scaled_dot_product_attention(grouped, key, value, seen, scale=scale)
            out = out.view(batch, heads, queries, width)
        else:
            out = scaled_dot_product_attention(query, key, value, mask, scale=scale)
        return out.transpose(1, 2)

    def by_kernel(self, tensor: Tensor) -> bool:
        """Whether `rows` is one kernel that reads no more than a row has, where this tensor lies."""
        return not self._eager and streams.has_kernels(tensor)

    def holds_scores(self, tensor: Tensor) -> bool:
        """Whether scores under a mask, or what is added to them, lie in memory for every head, where a tensor lies."""
        return not self.by_kernel(tensor) or self._slopes is not None

    def ragged(self, query: Tensor, key: Tensor, value: Tensor, scale: float, row: Tensor, distance: Tensor) -> Tensor:
        """Attend with one query per row over keys that lie end to end, row by row, without padding.

        Args:
            query: [rows, heads, head_dim].
            key: [tokens, kv_heads, head_dim].
            value: [tokens, kv_heads, head_dim].
            scale: Factor of the scores.
            row: Row of each token, [tokens].
            distance: Position of each token relative to its row's query, 0 or less, [tokens].

        Returns:
            [rows, heads, head_dim].
        """
        rows, heads, width = query.shape
        grouped = query.view(rows, key.shape[1], -1, width)
        scores = (grouped.index_select(0, row) * key[:, :, None]).sum(-1).float() * scale
        if self._slopes is not None:
            scores += self._slopes.view(scores.shape[1:]) * distance[:, None, None]
        index = row[:, None, None].expand_as(scores)
        most = scores.new_full((rows, *scores.shape[1:]), -torch.inf).scatter_reduce_(0, index, scores, "amax")
        weights = (scores - most.index_select(0, row)).exp()
        total = torch.zeros_like(most).index_add_(0, row, weights)
        weighted = weights[..., None] * value[:, :, None]  # in fp32: thousands of terms are added one after the other
        out = weighted.new_zeros(rows, *weighted.shape[1:]).index_add_(0, row, weighted)
        return (out / total[..., None]).to(value.dtype).view(rows, heads, width)

    def rows(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        lengths: Tensor,
        table: Tensor | None = None,
        whole: bool = False,
    ) -> Tensor:
        """Attend with one query per row over as many of its keys as the device knows it to have.

        On a GPU no more than those are read, unless it is told to. On a CPU a mask hides the others, which are read.

        Args:
            query: [rows, heads, head_dim].
            keys: [rows, kv_heads, capacity, head_dim]; with a table [slots, kv_heads, head_dim].
            values: Like the keys.
            scale: Factor of the scores.
            lengths: Position of each query, which sees that many keys and its own, int64 [rows].
            table: Slot of each token of each row, int64 [rows, capacity]; None: a row lies in its columns.
            whole: Whether a GPU reads all of the capacity as well, as it would in a padded batch.

        Returns:
            [rows, heads, head_dim].
        """
        if self.by_kernel(query):
            from real.model.kernels import attend_rows

            return attend_rows(query, keys, values, scale, lengths, table, self._slopes, whole)
        if table is not None:
            keys, values = keys[table].transpose(1, 2), values[table].transpose(1, 2)
        mask = (torch.arange(keys.shape[2], device=lengths.device) <= lengths[:, None])[:, None, None]
        return self(query[:, :, None], keys, values, scale, mask)[:, 0]

    def _biased(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        bias = torch.zeros((), dtype=query.dtype, device=query.device)
        if self._slopes is not None:
            distance = torch.arange(1 - key.shape[2], 1, device=query.device)
            bias = (self._slopes[:, None, None] * distance)[None].to(query.dtype)
        if mask is not None:
            bias = torch.where(mask, bias, torch.finfo(query.dtype).min)
        if not self._eager:
            return scaled_dot_product_attention(query, key, value, bias, scale=scale)
        scores = torch.matmul(query, key.transpose(2, 3)) * scale + bias
        return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(query.dtype), value)
