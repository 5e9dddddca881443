"""The dimensions of a dense decoder-only transformer."""

from dataclasses import dataclass, fields

from policies.errors import InputError
from sim.hardware import Device


@dataclass(frozen=True, kw_only=True)
class Model:
    """Dimensions, and what follows from them.

    Attributes:
        name: Its name in results.
        source: Where the dimensions come from.
        layers: Transformer blocks.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key and value heads (fewer than `heads` in grouped-query attention).
        head_dim: Width of a head.
        intermediate: Width of the feed-forward layer.
        gated: Whether the feed-forward layer has a gate (three matrices instead of two).
        vocabulary: Rows of the output head.
        tied_embeddings: Whether input embedding and output head share their weights.
        max_positions: Longest sequence that the model was made for.
        bytes_per_value: Bytes of one weight, and of one KV entry.
        architecture: transformers' `model_type`, which a real engine builds; costs do not depend on it.
    """

    name: str
    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    vocabulary: int
    tied_embeddings: bool
    max_positions: int
    bytes_per_value: int = 2
    architecture: str = "llama"

    def __post_init__(self) -> None:
        """Refuse dimensions that are not whole positive numbers or do not divide."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"model.{field.name}={value}: must be a whole number of at least 1")
            if field.type is bool and not isinstance(value, bool):
                raise InputError(f"model.{field.name}={value}: must be true or false")
            if field.type is str and not isinstance(value, str):
                raise InputError(f"model.{field.name}={value}: must be text")
        if self.heads % self.kv_heads:
            raise InputError(f"model.kv_heads={self.kv_heads}: must divide model.heads={self.heads}")

    def indivisible(self, gpus: int) -> str | None:
        """Return the name of a dimension that does not divide among so many GPUs; None if each layer can be shared."""
        shared = ("heads", "kv_heads", "intermediate", "vocabulary")
        return next((name for name in shared if getattr(self, name) % gpus), None)

    @property
    def layer_parameters(self) -> int:
        """Weights of the linear operators of one layer: QKV, output projection, feed-forward."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def head_parameters(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocabulary

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights (norms and biases, below 0.1 %, left out)."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return (self.layers * self.layer_parameters + embeddings) * self.bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_value

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of one (query, key) pair over all layers: two products of head_dim per head."""
        return 4 * self.layers * self.heads * self.head_dim


def kv_capacity(hardware: Device, model: Model) -> int:
    """Return the KV tokens that fit beside the weights into the usable memory of a GPU, or of those that share layers.

    Raises:
        InputError: The weights alone do not fit.
    """
    tokens = _kv_tokens(hardware, model, hardware.gpus)
    if tokens < 1:
        usable = hardware.gpus * hardware.memory_bytes * hardware.usable_memory
        raise InputError(f"{_does_not_fit(hardware, model, usable, 'usable')}; {_remedy(hardware, model)}")
    return tokens


def check_kv_tokens(hardware: Device, model: Model, kv_tokens: int) -> str | None:
    """Return a sentence if KV memory that was asked for is more than the whole memory has beside the weights.

    Raises:
        InputError: The weights alone are more than the whole memory: nothing could be run, whatever the KV memory.
    """
    whole = hardware.gpus * hardware.memory_bytes
    if model.weight_bytes >= whole:
        raise InputError(
            f"{_does_not_fit(hardware, model, whole, 'in all')}, whatever kv_tokens={kv_tokens} says; "
            f"{_remedy(hardware, model)}, or assume a larger memory with hardware.memory_bytes="
        )
    needed = model.weight_bytes + kv_tokens * model.kv_bytes_per_token
    if needed <= whole:
        return None
    return (
        f"kv_tokens={kv_tokens} is more than there is: with the weights that is {needed / 1e9:.1f} GB, and "
        f"hardware={hardware.name} has {whole / 1e9:.1f} GB; these are predictions for a GPU with more memory"
    )


def _kv_tokens(hardware: Device, model: Model, gpus: int) -> int:
    free = gpus * hardware.memory_bytes * hardware.usable_memory - model.weight_bytes
    return int(free // model.kv_bytes_per_token)


def _does_not_fit(hardware: Device, model: Model, memory: float, which: str) -> str:
    where = f"hardware={hardware.name}" + (f" tensor_parallel={hardware.gpus}" if hardware.gpus > 1 else "")
    return (
        f"model={model.name} does not fit on {where}: {model.weight_bytes / 1e9:.1f} GB of weights, "
        f"{memory / 1e9:.1f} GB {which}"
    )


def _remedy(hardware: Device, model: Model) -> str:
    """Say how the model would fit: on the fewest such GPUs that can share its layers, or elsewhere."""
    for gpus in hardware.known_together:
        if model.indivisible(gpus) is None and _kv_tokens(hardware, model, gpus) >= 1:
            return f"give tensor_parallel={gpus}, or choose another"
    if not hardware.known_together:
        return "choose another (tensor_parallel= needs one whose communication was measured, such as h100_sxm)"
    return f"choose another: no number of GPUs for which hardware={hardware.name} was measured holds it"
