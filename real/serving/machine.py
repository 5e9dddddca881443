"""The machine that a network runs on: what it is, and what it reaches, measured in a second."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from policies.orca import Orca
from real.model.network import Network
from real.serving.engine import Engine
from sim.cost.datasheet import Hardware
from sim.cost.profile import Profile
from sim.engine.iteration_log import IterationLog, Slice
from workloads.requests import Requests

WARM_UP_TOKENS = 8
"""Tokens of the request that a network serves before anything is timed."""

COPIED_BYTES = {"cpu": 1 << 26, "cuda": 1 << 29}
TIMED_S = 0.02
"""Shortest time that a measurement is trusted over."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a network runs; the names are those of a `Profile`.

    Attributes:
        device: `cpu` or `cuda`.
        machine: Name of the processor or GPU.
        dtype: Of weights and KV.
        attention: Implementation of attention.
        execution: How decode steps are run, `eager` or `graphs`.
        threads: Threads of a CPU operation.
        versions: Of the software, by name.
    """

    device: str
    machine: str
    dtype: str
    attention: str
    execution: str
    threads: int
    versions: dict[str, str]

    def differences(self, profile: Profile) -> Iterator[str]:
        """Yield in words what was otherwise when a profile was taken."""
        for name in ("device", "machine", "dtype", "attention", "execution", "threads"):
            if name == "threads" and self.device != "cpu":
                continue
            here, there = getattr(self, name), getattr(profile, name)
            if here != there:
                yield f"{name} {there}, not {here}"
        for name, here in self.versions.items():
            if (there := profile.versions.get(name)) != here:
                yield f"{name} {there}, not {here}"


def machine_of(network: Network, attention: str) -> Machine:
    """Return where and how a network runs, with this implementation of attention."""
    return Machine(
        device=network.device.type,
        machine=name_of(network.device),
        dtype=str(network.dtype).removeprefix("torch."),
        attention=attention,
        execution=network.execution.name,
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in ("torch", "transformers")},
    )


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    return f"{name}, {cores} cores"


def warm_up(network: Network) -> float:
    """Serve one request; return the shortest of its decode steps, in seconds."""
    length, zero = np.array([WARM_UP_TOKENS]), np.zeros(1, dtype=np.int64)
    requests = Requests(
        arrival_s=np.zeros(1),
        prompt_tokens=length,
        output_tokens=length,
        max_new_tokens=length,
        priority=zero,
        prefix_id=zero - 1,
        prefix_tokens=zero,
        name="warm-up",
    )
    durations: list[float] = []

    def hear(records: Slice) -> None:
        durations.extend(records["duration_s"].tolist())

    engine = Engine(
        requests, Orca(max_batch=1), network, [[0] * WARM_UP_TOKENS], IterationLog(hear), 2 * WARM_UP_TOKENS
    )
    engine.run()
    return min(durations[1:])


def measure(network: Network, step_s: float) -> Hardware:
    """Measure the rates that a network's device reaches.

    Args:
        network: The network.
        step_s: Its shortest decode step, as `warm_up` returns it: what the rates do not explain of it is overhead.

    Returns:
        Hardware whose rates were reached, so that their efficiencies are 1.
    """
    device, model = network.device, network.dimensions
    bandwidth = copy_rate(device, device)
    read_s = model.weight_bytes / bandwidth
    return Hardware(
        name=name_of(device),
        source="measured as the run began",
        peak_flops=product_rate(device, network.dtype),
        memory_bandwidth=bandwidth,
        memory_bytes=memory_of(device),
        host_bandwidth=copy_rate(torch.device("cpu"), device) / 2,
        gpu_bandwidth=bandwidth / 2,
        flops_efficiency=1.0,
        bandwidth_efficiency=1.0,
        layer_overhead_s=max(0.0, step_s - read_s) / model.layers,
        step_overhead_s=0.0,
        attention_launch_s=_attention_s(network),
    )


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that the product of two large square matrices reaches.

    Their values are random: of constants fewer bits change, a GPU needs less power, and it runs at a higher clock.
    """
    best, size = 0.0, 256
    while size <= 8192:
        matrix = torch.randn(size, size, device=device, dtype=dtype)
        seconds = _seconds(device, partial(torch.matmul, matrix, matrix))
        best = max(best, 2 * size**3 / seconds)
        if seconds > TIMED_S:
            break
        size *= 2
    return best


def copy_rate(source: torch.device, target: torch.device) -> float:
    """Return the bytes read plus the bytes written per second of a large copy."""
    size = COPIED_BYTES[target.type]
    pinned = source.type == "cpu" and target.type == "cuda"
    original = torch.ones(size, dtype=torch.uint8, device=source, pin_memory=pinned)
    copy = torch.empty(size, dtype=torch.uint8, device=target)
    return 2 * size / _seconds(target, lambda: copy.copy_(original))


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has; of a CPU, what this process may use of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return min(installed, int(Path(limit).read_text()))
    return installed


def memory_left(device: torch.device) -> int:
    """Return the bytes of memory that this process has or can have; of a GPU, others may have taken some."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    return memory_of(device)


def _attention_s(network: Network) -> float:
    """Time of one attention over a short sequence, where launching it is what takes time."""
    model = network.dimensions
    query, key = (
        torch.ones(1, model.heads, tokens, model.head_dim, device=network.device, dtype=network.dtype)
        for tokens in (1, 16)
    )
    return _seconds(network.device, lambda: scaled_dot_product_attention(query, key, key))


def _seconds(device: torch.device, action: Callable[[], Tensor], rounds: int = 3) -> float:
    """Return the mean time of an action, in the best of a few rounds that are each long enough to be timed."""
    repeats, best = 1, float("inf")
    for _ in range(2):
        action()
    while True:
        seconds = min(_timed(device, action, repeats) for _ in range(rounds))
        best = min(best, seconds / repeats)
        if seconds * rounds > TIMED_S:
            return best
        repeats *= 4


def _timed(device: torch.device, action: Callable[[], Any], repeats: int) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
