"""The CUDA streams of the two lanes, and whether kernels of ours run where a tensor lies."""

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Lane:
    """One stream, and when the device began and ended what an iteration launched on it."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """Measure on a stream."""
        self.stream = stream
        self._begun, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._waited = False

    def begin(self) -> None:
        """Begin to launch an iteration."""
        self._begun.record(self.stream)
        self._waited = False

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Do something else until the device has ended all that was launched so far."""
        self._ended.record(self.stream)
        self._waited = True
        meanwhile()
        self._ended.synchronize()

    def end(self) -> float:
        """Wait for the end of the iteration; return the seconds of the device from `begin` to the last `wait`."""
        if not self._waited:
            self.wait(_nothing)
        milliseconds: float = self._begun.elapsed_time(self._ended)
        return milliseconds / 1e3


class Streams:
    """Runs each lane on a CUDA stream of its own, the batch's with priority; on a CPU, as it is."""

    def __init__(self, device: torch.device) -> None:
        """Make the streams of a device."""
        self._device = device
        self._cuda = device.type == "cuda"
        self._here = threading.local()
        if self._cuda:
            self._batch = Lane(torch.cuda.Stream(device, priority=-1))
            self._aside = Lane(torch.cuda.Stream(device))

    def settle(self) -> None:
        """Wait for all that was begun on any stream, such as the loading of weights on the default one."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def run(self, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> tuple[Made, float | None]:
        """Call on the batch's stream, and wait for its end; return also the device's seconds, None on a CPU.

        A device that waits for the host to launch more is not at rest: its seconds run on.
        """
        return self._on(self._batch, call, *given, **named) if self._cuda else (call(*given, **named), None)

    def run_aside(
        self, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs
    ) -> tuple[Made, float | None]:
        """Do the same on the stream of the lane beside the batch."""
        return self._on(self._aside, call, *given, **named) if self._cuda else (call(*given, **named), None)

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Do something else until all is computed that this thread has launched on its stream."""
        lane: Lane | None = getattr(self._here, "lane", None)
        if lane is not None:
            lane.wait(meanwhile)
            return
        meanwhile()
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()

    def _on(
        self, lane: Lane, call: Callable[Given, Made], *given: Given.args, **named: Given.kwargs
    ) -> tuple[Made, float]:
        with torch.cuda.stream(lane.stream):
            self._here.lane = lane
            lane.begin()
            try:
                made = call(*given, **named)
                return made, lane.end()
            finally:
                self._here.lane = None
                lane.stream.synchronize()  # whatever happened, memory that is used there may go now


def _nothing() -> None:
    pass


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


def attend_without_plans() -> None:
    """Keep torch's attention in this process, ours and any other, from cuDNN, which builds a plan for each new shape.

    A plan takes tenths of a second, and every prompt length is a new shape.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
