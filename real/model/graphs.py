"""Decode steps that are recorded once for each of a few shapes, and replayed on memory that stays where it is.

On a GPU a recording is a CUDA graph: one launch instead of a thousand. On a CPU it is the list of operators that
torch's tracer sees, run again on the same tensors: no faster, but a replay knows as little as a graph does of anything
that is not in its buffers, which is how a machine without a GPU proves that a step can be recorded.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from real.model.host_memory import Numbers, pinned

MOST_RECORDINGS = 128
"""Recordings that are kept, those used last."""

ROOM = 2 << 30
"""Bytes that are free on a device when a capture begins, if need be by emptying torch's cache."""


class Inputs(NamedTuple):
    """What a decode step reads beside weights and KV memory.

    Attributes:
        ids: The token of each row, int64 [rows].
        lengths: Its position, which is the number of tokens before it, int64 [rows].
    """

    ids: Tensor
    lengths: Tensor


class Decoded(NamedTuple):
    """What a decode step gives.

    Attributes:
        logits: [rows, vocabulary]; None where nobody wants them: recordings would keep them all.
        found: The likeliest token of each row, -1 where its logits are no numbers, and the KV tokens that its query
            saw, int64 [2, rows].
        launches: Attention operators launched per layer.
    """

    logits: Tensor | None
    found: Tensor
    launches: int


Made = tuple[Tensor | None, Tensor]
Compute = Callable[[Inputs], Decoded]
"""A decode step, written so that nothing but the contents of tensors changes from one time to the next."""


class Recording:
    """A decode step of one shape.

    Attributes:
        seconds: What it took to record; None: it was not yet.
    """

    def __init__(self, compute: Compute, rows: int, device: torch.device, pool: Any) -> None:
        """Be ready to record a step of so many rows; on a GPU its memory comes from `pool`, which recordings share."""
        start = time.perf_counter()
        self._values = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self._sent, self._landed = pinned(device, 2, rows), pinned(device, 2, rows)
        self._told = self._sent.numpy()
        self._compute = compute
        self._pool = pool
        self._launches = 0
        self._replay: Callable[[], Made] | None = None
        self._allocating_s = time.perf_counter() - start
        self.seconds: float | None = None

    def __call__(self, inputs: Numbers) -> Decoded:
        """Compute a step with these tokens at these positions, [2, n]; rows beyond them are dummies, of token 0 at 0.

        The first call records it. What is returned is overwritten by the next replay of any recording. On a GPU this
        returns before the step is computed, and what it has found is on its way to the host. Nobody may call again
        before that has come: until then the device may still have to read what it was told.
        """
        live = inputs.shape[1]
        self._told[:, :live] = inputs
        if live < self._told.shape[1]:
            self._told[:, live:] = 0
        self._values.copy_(self._sent, non_blocking=True)
        if self._replay is None:
            # Recording computes: with the right inputs, the keys and values that it writes are the right ones.
            start = time.perf_counter()
            self._replay = self._traced() if self._pool is None else self._captured(self._pool)
            self.seconds = self._allocating_s + time.perf_counter() - start
        logits, found = self._replay()
        if found.is_cuda:
            found = self._landed.copy_(found, non_blocking=True)
        return Decoded(logits, found, self._launches)

    def _run(self) -> Made:
        logits, found, self._launches = self._compute(Inputs(*self._values))
        return logits, found

    def _traced(self) -> Callable[[], Made]:
        replay: Callable[[], Made] = make_fx(lambda: self._run())()
        return replay

    def _captured(self, pool: Any) -> Callable[[], Made]:
        """Capture on the current stream, whose priority the graph takes.

        `torch.cuda.graph` would take a stream of its own, and empty the cache that the next prefill allocates from.
        """
        device = self._values.device
        # What is compiled, loaded or allocated at a first call cannot be captured, such as cuBLAS's workspace, which
        # belongs to the stream.
        self._run()
        torch.cuda.synchronize(device)
        if torch.cuda.mem_get_info(device)[0] < ROOM:
            torch.cuda.empty_cache()  # a capture cannot: it would find no memory, however much is cached
        graph = torch.cuda.CUDAGraph()
        # The other lane may allocate memory meanwhile: that is no error of this thread's capture.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            made = self._run()
        except BaseException:
            _abandon(graph, device, pool)
            raise
        graph.capture_end()
        graph.replay()  # the first puts the graph on the device; a step may be repeated, it writes the same again
        torch.cuda.synchronize(device)

        def replay() -> Made:
            graph.replay()
            return made

        return replay


def _abandon(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> None:
    """End a capture that has failed, so that its stream computes again and memory comes from where it came before."""
    try:
        graph.capture_end()
    except RuntimeError:  # it is not valid any more; the stream has left it, the allocator has not
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(device.index, pool)


def _nothing(*_: float) -> None:
    pass


class Graphs:
    """The recordings of one run.

    Attributes:
        count: How many steps were recorded.
        seconds: How long that took in all.
        before_record: Called before every recording.
        on_record: Hears after every recording how long it took, in seconds.
    """

    def __init__(self, device: torch.device) -> None:
        """Start without any."""
        self._device = device
        self._pool = self._new_pool()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self.count = 0
        self.seconds = 0.0
        self.before_record: Callable[[], None] = _nothing
        self.on_record: Callable[[float], None] = _nothing

    def decode(self, shape: Hashable, rows: int, compute: Compute, inputs: Numbers) -> Decoded:
        """Compute a step of some shape, which is recorded if it was not yet; see `Recording`."""
        recording = self._recordings.get(shape)
        if recording is None:
            recording = self._recordings[shape] = Recording(compute, rows, self._device, self._pool)
            if len(self._recordings) > MOST_RECORDINGS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(shape)
        new = recording.seconds is None
        if new:
            self.before_record()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # what was begun before is no part of the time of recording
        decoded = recording(inputs)
        if new and recording.seconds is not None:
            self.count += 1
            self.seconds += recording.seconds
            self.on_record(recording.seconds)
        return decoded

    def _new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def forget(self) -> None:
        """Drop all recordings: the memory that they read and write is about to go.

        Those to come use a pool of their own: torch refuses a pool whose graphs are gone while a tensor in it is not.
        """
        self._recordings.clear()
        self._pool = self._new_pool()

    def close(self) -> None:
        """Let go of all that knows the run: recordings its KV memory, and those who hear of them itself."""
        self.forget()
        self.before_record = self.on_record = _nothing
