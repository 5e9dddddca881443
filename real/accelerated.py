"""Whether a tensor lies where kernels of ours run."""

from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """Whether `real.kernels` can take it: on a GPU. They are imported there only, since they need Triton."""
    return tensor.is_cuda
