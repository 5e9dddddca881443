"""A GPU that computes nothing: its tensors have a shape and a type, kernels are not launched, captures are watched.

What a test sees is what a GPU would be asked for. Whatever the host reads from it is a zero.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from real.layouts import executor
from real.model import graphs, host_memory, kernels
from real.model.architecture import configuration
from real.model.network import Network
from sim.engine.execution import Execution
from tests.real.models import dimensions

CUDA, META = 1, 14
"""Numbers of c10::DeviceType."""

ATEN = torch.ops.aten
DEVICE = torch.device("cuda", 0)

SYNCING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal")
"""Operators that wait for what they read, or whose results have a shape that only the device knows."""


class Forbidden(Exception):
    """A CUDA graph cannot do this, or would not do it again at a replay."""


class Watch(TorchDispatchMode):
    """Lets nothing pass that a capture could not take: no look at a value, no host memory, no shape made of values."""

    def __init__(self, gpu: "Gpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name in SYNCING:
            raise Forbidden(f"{name} makes the host wait")
        if name.startswith("index") and any(mask.dtype is torch.bool for mask in tensors_of(given[1:2])):
            raise Forbidden(f"{name} by a mask makes the host wait")
        made = operator(*given, **(named or {}))
        if any(tensor.device != DEVICE for tensor in tensors_of([given, named, made])):
            raise Forbidden(f"{name} touches the host's memory")
        if not operator.is_view and operator.namespace == "aten" and "empty" not in name:
            self._gpu.happens(name)
        return made


def tensors_of(values: Any) -> list[Tensor]:
    """Return the tensors somewhere in a value."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class Host(TorchDispatchMode):
    """Gives the host a zero where it reads a value, and copies between devices, which some versions cannot fake."""

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        if operator is ATEN._local_scalar_dense.default:
            return 0
        views = operator.is_view or operator is ATEN.detach_.default
        if views and not isinstance(given[0], FakeTensor) and named.get("device") != DEVICE:
            with unset_fake_temporarily():  # numpy looks into the host's own memory
                return operator(*given, **named)
        if operator is ATEN.copy_.default and given[0].device != given[1].device:
            given[1].expand(given[0].shape)
            return given[0]
        if (
            operator in (ATEN._to_copy.default, ATEN.to.dtype_layout)
            and named.get("device", given[0].device) != given[0].device
        ):
            return torch.empty(given[0].shape, dtype=named.get("dtype") or given[0].dtype, device=named["device"])
        return operator(*given, **named)


@dataclass
class Event:
    """Something that happened on the GPU.

    Attributes:
        name: `synchronize`, `begin` or `end` of a capture, `replay`, or a kernel or operator that was captured.
        stream: Where.
        details: What a capture was given.
    """

    name: str
    stream: Any
    details: tuple[Any, ...] = ()


class Gpu:
    """What happens on it.

    Attributes:
        events: In order: waits, captures and what is in them, replays, and all launches of our kernels.
        stream: The current one.
        pools: How many pools for graphs were handed out.
        capturing: Whether a capture is under way.
        invalid: Whether captures end as those do that CUDA has given up.
    """

    def __init__(self) -> None:
        """Start on the default stream."""
        self.events: list[Event] = []
        self.stream: Any = None
        self.pools = 0
        self.invalid = False
        self.capturing = False

    def happens(self, name: str, *details: Any) -> None:
        """Remember an event."""
        self.events.append(Event(name, self.stream, details))

    @property
    def captures(self) -> list[list[str]]:
        """What every capture recorded, in order."""
        names = [event.name for event in self.events]
        begins = [place for place, name in enumerate(names) if name == "begin"]
        return [names[place + 1 : names.index("end", place)] for place in begins]

    def graph(self) -> Any:
        """Stand for `torch.cuda.CUDAGraph`."""
        watch: Any = Watch(self)

        def begin(pool: Any, capture_error_mode: str) -> None:
            assert not self.capturing
            self.happens("begin", pool, capture_error_mode)
            self.capturing = True
            watch.__enter__()

        def end() -> None:
            watch.__exit__(None, None, None)
            self.capturing = False
            self.happens("end")
            if self.invalid:
                raise RuntimeError("operation failed due to a previous error during capture")

        return SimpleNamespace(capture_begin=begin, capture_end=end, replay=lambda: self.happens("replay"))

    def kernel(self, name: str) -> Any:
        """Stand for a kernel of Triton's."""

        def launch(*given: Any, **named: Any) -> None:
            assert all(value.device == DEVICE for value in given if isinstance(value, Tensor))
            self.happens(name)

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                assert all(type(size) is int and size > 0 for size in grid)
                return launch

        return Kernel()

    def synchronize(self, *_: Any) -> None:
        """Stand for waiting."""
        if self.capturing:
            raise Forbidden("a wait for the device")
        self.happens("synchronize")

    def empty_cache(self) -> None:
        """Stand for giving cached memory back."""
        if self.capturing:
            raise Forbidden("cached memory cannot be given back")
        self.happens("empty_cache")

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Stand for `torch.cuda.stream`."""
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def new_stream(self, device: torch.device, priority: int = 0) -> Any:
        """Stand for `torch.cuda.Stream`."""
        return SimpleNamespace(priority=priority, synchronize=self.synchronize)

    def event(self, enable_timing: bool) -> Any:
        """Stand for `torch.cuda.Event`."""
        return SimpleNamespace(record=lambda stream: None, synchronize=self.synchronize, elapsed_time=lambda ended: 0.0)

    def pool(self) -> int:
        """Stand for `torch.cuda.graph_pool_handle`."""
        self.pools += 1
        return self.pools


def fake_network(name: str, execution: Execution) -> Network:
    """Return a model on the fake GPU."""
    with DEVICE:
        module = AutoModelForCausalLM.from_config(configuration(dimensions(name)), dtype=torch.bfloat16)
    return Network(module, dimensions(name), execution=execution)


def pinned(device: torch.device, *shape: int) -> Tensor:
    """Return memory of the host that is really there: the host looks into it."""
    with unset_fake_temporarily():
        return torch.zeros(*shape, dtype=torch.int64)


@contextmanager
def device_guard() -> Iterator[None]:
    """Have torch enter and leave CUDA devices, for which builds without CUDA lack the code, as it does the meta device.

    There is no other way in than the table where torch looks for it; what was there is put back.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = guards[CUDA]
    guards[CUDA] = before or guards[META]
    yield
    guards[CUDA] = before


@contextmanager
def fake_gpu() -> Iterator[Gpu]:
    """Have a GPU, on which all tensors are."""
    gpu = Gpu()
    with pytest.MonkeyPatch.context() as patch:
        for kernel in ("_attend_split", "_join_splits", "_turn", "_gate"):
            patch.setattr(kernels, kernel, gpu.kernel(kernel))
        patch.setattr(kernels, "processors", lambda device: 132)
        for name, stand_in in {
            "CUDAGraph": gpu.graph,
            "graph_pool_handle": gpu.pool,
            "synchronize": gpu.synchronize,
            "Event": gpu.event,
            "mem_get_info": lambda device: (0, 1 << 40),
            "empty_cache": gpu.empty_cache,
            "Stream": gpu.new_stream,
            "stream": gpu.on,
            "current_stream": lambda device=None: gpu.stream,
        }.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(host_memory, "pins", lambda device: False)
        for module in (graphs, executor):
            patch.setattr(module, "pinned", pinned)
        patch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
        with device_guard(), FakeTensorMode(allow_non_fake_inputs=True), Host():  # type: ignore[no-untyped-call]
            yield gpu
