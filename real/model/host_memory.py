"""Whole numbers on their way between the host and a device, which neither of them stops for."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Numbers = npt.NDArray[np.int64]


def pins(device: torch.device) -> bool:
    """Whether a device copies from and to pinned memory while the host goes on: a GPU does."""
    return device.type == "cuda"


def pinned(device: torch.device, *shape: int) -> Tensor:
    """Return zeros, int64, in host memory that a device copies from and to while the host goes on."""
    return torch.zeros(*shape, dtype=torch.int64, pin_memory=pins(device))


def sent(values: Sequence[int] | Sequence[Sequence[int]] | Numbers, device: torch.device) -> Tensor:
    """Return whole numbers as a tensor on a device, once it gets there."""
    there = torch.tensor(values, dtype=torch.int64, pin_memory=pins(device))
    # Torch does not hand pinned memory out again before the copy is done.
    return there if device.type == "cpu" else there.to(device, non_blocking=True)
