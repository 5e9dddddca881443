"""The dimensions of a dense decoder-only transformer."""

from dataclasses import dataclass

from policies.checks import Checked, InputError
from sim.cost.rules import Count


@dataclass(frozen=True, kw_only=True)
class Model(Checked, option="model"):
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
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    gated: bool
    vocabulary: Count
    tied_embeddings: bool
    max_positions: Count
    bytes_per_value: Count = 2
    architecture: str = "llama"

    def __post_init__(self) -> None:
        """Refuse heads that do not divide, too."""
        super().__post_init__()
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
