"""Layers of Llama and Qwen with fewer, larger operators: the same products, launched less often.

Queries, keys and values come from one matrix product, queries and keys are turned together, and the two halves of the
gated feed-forward layer are one product too; a norm is one operator. Weights are joined layer by layer, so that none is
there twice for long.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers.activations import SiLUActivation

from real.model import streams
from real.model.attention import RowStep, Step


def joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """Return one layer whose outputs are those of several, one behind the other."""
    first = linears[0]
    widths = [linear.out_features for linear in linears]
    biased = first.bias is not None
    made = nn.Linear(first.in_features, sum(widths), biased, device="meta")
    made.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]), requires_grad=False)
    if biased:
        made.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]), requires_grad=False)
    return made


def rotated(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads by their positions (Su et al., RoFormer, 2021), halves of a head paired as in Llama.

    Args:
        values: [b, q, heads, head_dim].
        cosines: [b, q, head_dim].
        sines: [b, q, head_dim].
    """
    first, second = values.chunk(2, dim=-1)
    return torch.addcmul(values * cosines[:, :, None], torch.cat((-second, first), dim=-1), sines[:, :, None])


def added(values: Tensor, linear: nn.Module, residual: Tensor) -> Tensor:
    """Return residual + linear(values), the sum as part of the product where its operator has a place for one.

    Args:
        values: [..., in].
        linear: The layer.
        residual: [..., out], contiguous, which may be overwritten.
    """
    if type(linear) is not nn.Linear or linear.bias is not None:
        product: Tensor = linear(values)
        return residual + product
    residual.view(-1, residual.shape[-1]).addmm_(values.flatten(0, -2), linear.weight.t())
    return residual


class MergedAttention(nn.Module):
    """Rotary attention with grouped queries, on a step of ours."""

    def __init__(self, original: Any) -> None:
        """Take over the weights of the library's layer, which cannot be used afterwards."""
        super().__init__()
        self._layer: int = original.layer_idx
        self._head_dim: int = original.head_dim
        self._scale: float = original.scaling
        parts = [original.q_proj, original.k_proj, original.v_proj]
        self._heads, self._kv_heads, _ = (part.out_features // original.head_dim for part in parts)
        self.projection = joined(parts)
        self.output = original.o_proj
        normed = hasattr(original, "q_norm")
        self.query_norm = Norm(original.q_norm) if normed else None
        self.key_norm = Norm(original.k_norm) if normed else None
        original.q_proj = original.k_proj = original.v_proj = None

    def forward(self, values: Tensor, turns: tuple[Tensor, Tensor], step: Step, residual: Tensor) -> Tensor:
        """Attend over [b, q, hidden] at positions whose cosines and sines are given; add to the residual."""
        shape = values.shape[:2]
        projected = self.projection(values).view(*shape, -1, self._head_dim)
        if streams.has_kernels(projected):
            context = self._by_kernel(projected, turns, step)
        else:
            query, key, value = projected.split([self._heads, self._kv_heads, self._kv_heads], dim=2)
            if self.query_norm is not None and self.key_norm is not None:
                asking = torch.cat([self.query_norm(query), self.key_norm(key)], dim=2)
            else:
                asking = projected[:, :, : -self._kv_heads]
            context = self._attended(rotated(asking, *turns), value, step)
        return added(context.reshape(*shape, -1), self.output, residual)

    def _attended(self, turned: Tensor, value: Tensor, step: Step) -> Tensor:
        query, key = turned.split([self._heads, self._kv_heads], dim=2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return step.attend(self._layer, query, key, value, self._scale)

    def _by_kernel(self, projected: Tensor, turns: tuple[Tensor, Tensor], step: Step) -> Tensor:
        from real.model.kernels import turn

        norms = None
        if self.query_norm is not None and self.key_norm is not None:
            norms = self.query_norm.weight, self.key_norm.weight, self.query_norm.epsilon
        if isinstance(step, RowStep):
            query = turn(projected, *turns, self._kv_heads, norms, step.places(self._layer))
            return step.attend_placed(self._layer, query.transpose(1, 2), self._scale)
        return self._attended(turn(projected, *turns, self._kv_heads, norms), projected[:, :, -self._kv_heads :], step)


class MergedFeedForward(nn.Module):
    """The gated feed-forward layer."""

    def __init__(self, original: Any) -> None:
        """Take over the weights of the library's layer, which cannot be used afterwards."""
        super().__init__()
        self.projection = joined([original.gate_proj, original.up_proj])
        self.output = original.down_proj
        self._activation = original.act_fn
        original.gate_proj = original.up_proj = None

    def forward(self, values: Tensor, residual: Tensor) -> Tensor:
        """Compute [b, q, hidden]; add to the residual."""
        both = self.projection(values)
        if streams.has_kernels(both) and isinstance(self._activation, nn.SiLU | SiLUActivation):
            from real.model.kernels import gate_by_silu

            gated = gate_by_silu(both)
        else:
            gate, up = both.chunk(2, dim=-1)
            gated = self._activation(gate) * up
        return added(gated, self.output, residual)


class Norm(nn.Module):
    """The root-mean-square norm, as one operator."""

    def __init__(self, original: Any) -> None:
        """Take over the weights."""
        super().__init__()
        self.weight: Tensor = original.weight
        self.epsilon: float = original.variance_epsilon

    def forward(self, values: Tensor) -> Tensor:
        """Norm the last dimension."""
        return rms_norm(values, self.weight.shape, self.weight, self.epsilon)


class MergedLayer(nn.Module):
    """A layer: attention and a feed-forward layer, each of what the norm before it gives, each added to what came."""

    def __init__(self, original: Any) -> None:
        """Take over the weights of the library's layer, which cannot be used afterwards."""
        super().__init__()
        self.attention_norm = Norm(original.input_layernorm)
        self.attention = MergedAttention(original.self_attn)
        self.feed_forward_norm = Norm(original.post_attention_layernorm)
        self.feed_forward = MergedFeedForward(original.mlp)

    def forward(
        self, hidden: Tensor, *, position_embeddings: tuple[Tensor, Tensor], step: Step, **unused: Any
    ) -> Tensor:
        """Compute [b, q, hidden], in place where the products can add."""
        hidden = self.attention(self.attention_norm(hidden), position_embeddings, step, hidden)
        out: Tensor = self.feed_forward(self.feed_forward_norm(hidden), hidden)
        return out


def merge_layers(body: Any) -> None:
    """Replace the layers of a Llama or Qwen model, one after the other."""
    for place, layer in enumerate(body.layers):
        body.layers[place] = MergedLayer(layer)
    body.norm = Norm(body.norm)
