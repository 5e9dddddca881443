"""The part of a layer that one GPU of several holds."""

from typing import NamedTuple

from policies.checks import InputError
from sim.cost.kernels.tables import HEAD_DIM
from sim.cost.model import Model


class Shard(NamedTuple):
    """The part of a layer that one GPU of several holds."""

    heads: float
    kv_heads: float
    matrices: tuple[tuple[int, int], ...]
    """Outputs and inputs of each linear operator."""


def shard_of(model: Model, gpus: int) -> Shard:
    """Return what one of so many GPUs holds of each layer: heads and the width of the feed-forward layer are divided.

    Raises:
        InputError: They do not divide.
    """
    if option := model.indivisible(gpus):
        raise InputError(f"tensor_parallel={gpus}: must divide model.{option}={getattr(model, option)}")
    heads, kv_heads = model.heads // gpus, model.kv_heads // gpus
    width, inner = model.hidden, model.intermediate // gpus
    matrices = (
        ((heads + 2 * kv_heads) * model.head_dim, width),
        (width, heads * model.head_dim),
        ((2 if model.gated else 1) * inner, width),
        (width, inner),
    )
    scale = model.head_dim / HEAD_DIM
    return Shard(heads * scale, kv_heads * scale, matrices)
