"""Linear layers whose weights are laid out for the processor's matrix kernels."""

import torch
from torch import Tensor, nn

_ROWS = 8
"""Rows of a product that the layout is chosen for: those of a decode step. More rows are served as well by it."""


class PackedLinear(nn.Module):
    """A linear layer in fp32 on a CPU, its weights in the blocks that oneDNN's kernels read.

    A decode step is bound by reading weights: packed, they are read at up to 2.4 times the pace of `nn.Linear`, whose
    rows every product packs anew. The operators are those that torch's own compiler uses for frozen weights.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the weights [out, in] and the bias of a layer."""
        super().__init__()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        """Return the product [..., out] of values [..., in]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._weight, self._bias, "none", [], "")
        return out


def pack_linears(module: nn.Module, apart_from: nn.Module) -> None:
    """Replace the linear layers inside a module, one after the other, so that no weight is there twice for long.

    Nothing is done where torch was built without oneDNN, or for types other than fp32.

    Args:
        module: The model.
        apart_from: The input embedding: a layer that shares its weights stays as it is, since they are read by row.
    """
    if not torch.backends.mkldnn.is_available():
        return
    shared = apart_from.weight
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight is not shared and child.weight.dtype is torch.float32:
                setattr(parent, name, PackedLinear(child))
