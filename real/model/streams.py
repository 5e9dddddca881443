"""The CUDA streams of the two lanes, and whether kernels of ours run where a tensor lies."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Streams:
    """Runs each lane on a CUDA stream of its own, the batch's with priority; on a CPU, as it is."""

    def __init__(self, device: torch.device) -> None:
        """Make the streams of a device."""
        self._device = device
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._batch = torch.cuda.Stream(device, priority=-1)
            self._aside = torch.cuda.Stream(device)

    def settle(self) -> None:
        """Wait for all that was begun on any stream, such as the loading of weights on the default one."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def run(self, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> Made:
        """Call on the batch's stream, and wait for its end."""
        return self._on(self._batch, call, *given, **named) if self._cuda else call(*given, **named)

    def run_aside(self, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> Made:
        """Call on the stream of the lane beside the batch, and wait for its end."""
        return self._on(self._aside, call, *given, **named) if self._cuda else call(*given, **named)

    @staticmethod
    def _on(stream: torch.cuda.Stream, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> Made:
        with torch.cuda.stream(stream):
            made = call(*given, **named)
            stream.synchronize()
        return made


def crossing(tensor: Tensor) -> Tensor:
    """Return a tensor that the other lane may have made, once its memory is known to be in use on this lane's stream.

    Memory goes back to the stream that took it, which may use it anew as soon as the tensor is gone, whatever another
    stream has still to read from it, unless the allocator was told.
    """
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def has_kernels(tensor: Tensor) -> bool:
    """Whether `real.model.kernels` can take it: on a GPU. They are imported there only, since they need Triton."""
    return tensor.is_cuda
