"""Small workloads, GPUs and runs for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.policy import Policy
from sim.cost.datasheet import Hardware, Roofline
from sim.cost.device import CostModel
from sim.cost.model import Model
from sim.engine.engine import Engine
from sim.engine.iteration_log import DTYPE, IterationLog, Slice, expand
from sim.engine.request_log import RequestLog
from workloads.requests import Requests

H100 = Hardware(
    name="h100",
    source="NVIDIA H100 datasheet",
    peak_flops=989e12,
    memory_bandwidth=3.35e12,
    memory_bytes=80 * 2**30,
    host_bandwidth=64e9,
    gpu_bandwidth=450e9,
)
LLAMA3_8B = Model(
    name="llama3_8b",
    source="config.json",
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    gated=True,
    vocabulary=128256,
    tied_embeddings=False,
    max_positions=8192,
)
ONE_SECOND_PER_ITERATION = replace(
    H100, peak_flops=1e40, memory_bandwidth=1e40, host_bandwidth=1e40, gpu_bandwidth=1e40, layer_overhead_s=0.0,
    step_overhead_s=1.0, attention_launch_s=0.0,
)  # fmt: skip
"""A GPU on which every iteration takes one second, whatever it computes: traces can be worked out by hand."""


def requests_of(
    rows: Sequence[tuple[float, int, int]],
    max_new: int | Sequence[int] | None = None,
    priority: Sequence[int] | None = None,
    concurrency: int | None = None,
    prefix: Sequence[tuple[int, int]] | None = None,
    hashes: Sequence[tuple[int, ...]] | None = None,
    hash_tokens: int = 512,
) -> Requests:
    """Return a workload of (arrival_s, prompt_tokens, output_tokens); `max_new` is declared, the output if None.

    `prefix` gives each request's (prefix_id, prefix_tokens), `hashes` its block hashes, one for `hash_tokens`
    tokens each.
    """
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    declared = output if max_new is None else np.broadcast_to(np.asarray(max_new), len(rows))
    none = np.zeros(len(rows), dtype=np.int64)
    return Requests(
        arrival_s=arrival.astype(np.float64),
        prompt_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        max_new_tokens=np.array(declared, dtype=np.int64),
        priority=none if priority is None else np.array(priority, dtype=np.int64),
        prefix_id=none - 1 if prefix is None else np.array([one for one, _ in prefix], dtype=np.int64),
        prefix_tokens=none if prefix is None else np.array([tokens for _, tokens in prefix], dtype=np.int64),
        prefix_hashes=None if hashes is None else object_array(hashes),
        hash_tokens=hash_tokens,
        concurrency=concurrency,
        name="test",
    )


def object_array(values: Sequence[object]) -> npt.NDArray[np.object_]:
    """Return values as they are, in an array [n]."""
    array = np.empty(len(values), dtype=np.object_)
    for place, value in enumerate(values):
        array[place] = value
    return array


def random_requests(count: int, seed: int = 0, rate: float | None = None, longest: int = 60) -> Requests:
    """Return random prompts and outputs, all at once or Poisson at `rate`."""
    rng = np.random.default_rng(seed)
    arrival = np.zeros(count) if rate is None else np.cumsum(rng.exponential(1 / rate, count))
    prompt, output = rng.integers(1, longest, count), rng.integers(1, longest, count)
    return requests_of(list(zip(arrival, prompt, output, strict=True)), max_new=longest)


@dataclass
class Run:
    """What a run left behind: the log, one record per iteration, and the engine."""

    log: Slice
    request_log: RequestLog
    engine: Engine

    @property
    def finish_s(self) -> list[float]:
        """When each request finished, rounded so that hand-made times compare equal."""
        return [round(time, 6) for time in self.request_log.finish_s]

    def total(self, column: str) -> Any:
        """Sum of a column of the log."""
        return self.log[column].sum()


def run(
    requests: Requests,
    policy: Policy,
    hardware: Hardware = ONE_SECOND_PER_ITERATION,
    kv_tokens: int = 100_000,
    **options: Any,
) -> Run:
    """Simulate and return everything, stretches expanded."""
    engine, records = logged_run(requests, policy, Roofline(hardware, LLAMA3_8B), kv_tokens, **options)
    return Run(expand(records), engine.request_log, engine)


def logged_run(
    requests: Requests, policy: Policy, cost: CostModel, kv_tokens: int, **options: Any
) -> tuple[Engine, Slice]:
    """Run an engine to its end; return it and its log."""
    slices: list[Slice] = []
    log = IterationLog(lambda part: slices.append(part.copy()))
    engine = Engine(requests, policy, cost, log, kv_tokens, **options)
    engine.run()
    return engine, np.concatenate(slices) if slices else np.empty(0, dtype=DTYPE)
