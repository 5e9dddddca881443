"""What a GPU is given to run: where kernels of ours can, and what of torch's own must not."""

import torch
from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """Whether `real.kernels` can take it: on a GPU. They are imported there only, since they need Triton."""
    return tensor.is_cuda


def attend_without_plans() -> None:
    """Keep torch's attention in this process, ours and any other, from cuDNN, which builds a plan for each new shape.

    A plan takes tenths of a second, and every prompt length is a new shape.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
