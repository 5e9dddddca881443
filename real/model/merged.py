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
from real.model.attention import Step


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
    if streams.has_kernels(values):
        from real.model.kernels import rotate

        return rotate(values, cosines, sines)
    first, second = values.chunk(2, dim=-1)
    return torch.addcmul(values * cosines[:, :, None], torch.cat((-second, first), dim=-1), sines[:, :, None])


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
        self.norms = nn.ModuleList(
            [Norm(original.q_norm), Norm(original.k_norm)] if hasattr(original, "q_norm") else []
        )
        original.q_proj = original.k_proj = original.v_proj = None

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *, step: Step, **unused: Any
    ) -> tuple[Tensor, None]:
        """Attend over [b, q, hidden] at positions whose cosines and sines are given."""
        shape, heads, kv_heads = hidden_states.shape[:2], self._heads, self._kv_heads
        projected = self.projection(hidden_states).view(*shape, -1, self._head_dim)
        asking, value = projected.split([heads + kv_heads, kv_heads], dim=2)
        if self.norms:
            parts = zip(self.norms, asking.split([heads, kv_heads], dim=2), strict=True)
            asking = torch.cat([norm(part) for norm, part in parts], dim=2)
        query, key = rotated(asking, *position_embeddings).split([heads, kv_heads], dim=2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        context = step.attend(self._layer, query, key, value, self._scale)
        return self.output(context.reshape(*shape, -1)), None


class MergedFeedForward(nn.Module):
    """The gated feed-forward layer."""

    def __init__(self, original: Any) -> None:
        """Take over the weights of the library's layer, which cannot be used afterwards."""
        super().__init__()
        self.projection = joined([original.gate_proj, original.up_proj])
        self.output = original.down_proj
        self._activation = original.act_fn
        original.gate_proj = original.up_proj = None

    def forward(self, values: Tensor) -> Tensor:
        """Compute [b, q, hidden]."""
        both = self.projection(values)
        if streams.has_kernels(both) and isinstance(self._activation, nn.SiLU | SiLUActivation):
            from real.model.kernels import gate_by_silu

            gated = gate_by_silu(both)
        else:
            gate, up = both.chunk(2, dim=-1)
            gated = self._activation(gate) * up
        out: Tensor = self.output(gated)
        return out


class Norm(nn.Module):
    """The root-mean-square norm, as one operator."""

    def __init__(self, original: Any) -> None:
        """Take over the weights."""
        super().__init__()
        self.weight = original.weight
        self._epsilon: float = original.variance_epsilon

    def forward(self, values: Tensor) -> Tensor:
        """Norm the last dimension."""
        return rms_norm(values, self.weight.shape, self.weight, self._epsilon)


def merge_layers(body: Any) -> None:
    """Replace the layers of a Llama or Qwen model, one after the other."""
    for layer in body.layers:
        layer.self_attn = MergedAttention(layer.self_attn)
        layer.mlp = MergedFeedForward(layer.mlp)
        layer.input_layernorm = Norm(layer.input_layernorm)
        layer.post_attention_layernorm = Norm(layer.post_attention_layernorm)
    body.norm = Norm(body.norm)
