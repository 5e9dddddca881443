"""Small runs of every policy, their whole logs kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from sim.cost.datasheet import Hardware, Roofline
from sim.cost.model import Model
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import Slice
from sim.engine.request_log import RequestLog
from sim.metrics.metrics import Metrics, Summary
from sim.metrics.request_columns import Columns, request_columns
from sim.metrics.slo import SLO
from tests.runs import logged_run
from workloads.requests import Requests

BATCH = 6
POLICIES: dict[str, Policy] = {
    "run_to_completion": RunToCompletion(max_batch=BATCH),
    "run_to_completion_early": RunToCompletion(max_batch=BATCH, release="early"),
    "orca": Orca(max_batch=BATCH),
    "orca_per_request": Orca(max_batch=BATCH, attention="per_request"),
    "orca_rectangular": Orca(max_batch=BATCH, layout="rectangular"),
    "baton": Baton(max_batch=BATCH),
    "baton_overlapped": Baton(max_batch=BATCH, prefill="overlapped"),
    "baton_dedicated": Baton(max_batch=BATCH, prefill="dedicated"),
    "prefill_first": PrefillFirst(max_batch=BATCH),
    "chunked_prefill": ChunkedPrefill(max_batch=BATCH, token_budget=64),
}

COST = Roofline(
    Hardware(
        name="test",
        source="made up",
        peak_flops=1e14,
        memory_bandwidth=1e12,
        memory_bytes=8e10,
        host_bandwidth=1e10,
        gpu_bandwidth=1e11,
        attention_launch_s=2e-4,
    ),
    Model(
        name="test",
        source="made up",
        layers=8,
        hidden=2048,
        heads=16,
        kv_heads=16,
        head_dim=128,
        intermediate=8192,
        gated=True,
        vocabulary=32000,
        tied_embeddings=False,
        max_positions=4096,
    ),
)


@dataclass
class Run:
    """A finished run and its log."""

    policy: Policy
    requests: Requests
    request_log: RequestLog
    log: Slice

    def metrics(self, slice_size: int | None = None) -> Metrics:
        """Sum the log up, fed in slices."""
        metrics = Metrics(COST, self.policy.traits)
        for start in range(0, len(self.log), slice_size or len(self.log)):
            metrics(self.log[start : start + (slice_size or len(self.log))])
        return metrics

    def columns(self) -> Columns:
        """What became of the requests."""
        return request_columns(self.requests, self.request_log, self.policy.traits.release_with_batch)

    def summary(self, slo: SLO | None = None, slice_size: int | None = None) -> Summary:
        """Summary of the run."""
        return self.metrics(slice_size).summary(self.requests, self.request_log, self.columns(), slo or SLO())


def make_requests(count: int = 120, rate: float = 80.0, longest: int = 40, seed: int = 0, **columns: Any) -> Requests:
    """Random requests, several with one output token; `columns` replace those of `Requests`."""
    rng = np.random.default_rng(seed)
    output = rng.integers(1, longest + 1, count)
    output[::7] = 1
    zeros = np.zeros(count, dtype=np.int64)
    arrays: dict[str, npt.NDArray[Any]] = {
        "arrival_s": np.cumsum(rng.exponential(1 / rate, count)) if rate else np.zeros(count),
        "prompt_tokens": rng.integers(1, 200, count),
        "output_tokens": output,
        "max_new_tokens": np.full(count, longest),
        "priority": zeros,
        "prefix_id": zeros - 1,
        "prefix_tokens": zeros,
    }
    return Requests(**(arrays | columns))


def run(
    policy: Policy,
    requests: Requests,
    kv_tokens: int = 100_000,
    stretch: bool = True,
    execution: Execution = EAGER,
) -> Run:
    """Simulate."""
    engine, log = logged_run(requests, policy, COST, kv_tokens, stretch=stretch, execution=execution)
    return Run(policy, requests, engine.request_log, log)
