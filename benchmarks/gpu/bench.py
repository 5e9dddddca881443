"""What all sections measure on: a device, the model that is on it, and requests."""

import copy
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.gpu.sizes import Sizes
from policies.policy import Policy
from real.model.network import DTYPES, Network, random_network
from real.serving.engine import Engine
from real.serving.machine import memory_left
from real.serving.memory import USABLE, kv_tokens_within, needs_of
from real.serving.prompts import random_prompts
from sim.config.named import named, names
from sim.cost.model import Model
from sim.cost.profile import Profile
from sim.engine.execution import Execution
from sim.engine.iteration_log import IterationLog, Slice
from sim.simulation.simulation import predictor_of
from workloads.requests import Requests
from workloads.reshape import capped, scaled
from workloads.sharegpt import ShareGPT


class Served(NamedTuple):
    """One policy's run.

    Attributes:
        seconds: From the start to the end of the last answer, what was spent on recording decode steps left out.
        records: The log, one record per iteration.
        generated: The tokens of every answer.
    """

    seconds: float
    records: Slice
    generated: dict[int, list[int]]


@dataclass(kw_only=True)
class Bench:
    """A device and what is on it.

    Attributes:
        device: Name of the device.
        dtype: Type of weights and KV.
        models: Models to measure, by name; the first is the one that most is measured of.
        sizes: How much is measured.
        folder: Where files go.
        bandwidth: Bytes read plus written per second of a large copy.
        seed: Of weights, tokens and requests.
        tell: Hears what is going on.
        profiles: Profiles that were taken, by execution.
    """

    device: torch.device
    dtype: str
    models: tuple[str, ...]
    sizes: Sizes
    folder: Path
    bandwidth: float
    seed: int = 0
    tell: Callable[[str], None] = lambda told: None
    profiles: dict[Execution, Profile] = field(default_factory=dict)
    _loaded: tuple[str, str, Network] | None = None

    def network(self, model: str, execution: Execution, dtype: str | None = None) -> Network:
        """Return a model, random weights, in this execution; its weights are shared with other executions.

        Only the last model stays on the device.

        Raises:
            InputError: It does not exist, or cannot be run.
        """
        dtype = dtype or self.dtype
        if self._loaded is None or self._loaded[:2] != (model, dtype):
            self._loaded = None
            release(self.device)
            dimensions = replace(dimensions_of(model), bytes_per_value=DTYPES[dtype].itemsize)
            self._loaded = model, dtype, random_network(dimensions, str(self.device), dtype, seed=self.seed)
        network = copy.copy(self._loaded[2])
        network.execution = execution
        return network

    def serve(self, network: Network, policy: Policy, requests: Requests, kv_tokens: int) -> Served:
        """Serve requests.

        Raises:
            RuntimeError: Some got no answer.
        """
        release(network.device)
        slices: list[Slice] = []
        engine = Engine(
            requests,
            policy,
            network,
            random_prompts(requests, network.dimensions.vocabulary, self.seed),
            IterationLog(lambda part: slices.append(part.copy())),
            kv_tokens,
            predictor=predictor_of(policy, requests),
        )
        answers = engine.run()
        finish_s = np.asarray(answers.finish_s)
        served = int(np.isfinite(finish_s).sum())
        if served < len(requests):
            raise RuntimeError(f"only {served} of {len(requests)} requests were answered")
        return Served(float(finish_s.max()), np.concatenate(slices), engine.generated)

    def sharegpt(self, count: int, longest: int, scale: float = 1.0, seed: int | None = None) -> Requests:
        """Return first turns of ShareGPT, all there at once, of at most `longest` tokens."""
        drawn = ShareGPT(num_requests=count, arrival="all_at_once").build(self.seed if seed is None else seed)
        return capped(scaled(drawn, scale), longest)


def dimensions_of(model: str) -> Model:
    """Return the dimensions of a model of conf/.

    Raises:
        InputError: There is none of that name.
    """
    return named("model", model, Model)


def policies_of(max_batch: int) -> dict[str, Policy]:
    """Return every policy of conf/ that runs on one device, without a prefix cache, which is not run."""
    found: dict[str, Policy] = {}
    for name in names("policy"):
        policy = named("policy", name, Policy, max_batch=max_batch)  # type: ignore[type-abstract]
        if policy.traits.finds_prefixes:
            policy = replace(policy, prefix_caching=False)  # type: ignore[call-arg]
        if policy.traits.lanes != "separate":
            found[name] = policy
    return found


def kv_tokens_for(network: Network, policies: Iterable[Policy], *workloads: Requests) -> int:
    """Return the same KV memory for all: two full batches of the longest requests, or what there is.

    Raises:
        InputError: Memory does not hold the smallest request.
    """
    needs = needs_of(network, policies, *workloads)
    return min(2 * needs.rows * needs.longest, kv_tokens_within(needs, budget_of(network)))


def budget_of(network: Network) -> int:
    """Return the bytes that a run may use, the weights of its network included; other models take what they take."""
    left = memory_left(network.device)
    if network.device.type == "cuda":
        left -= torch.cuda.memory_allocated(network.device) - network.weight_bytes
    return int(USABLE * left)


def release(device: torch.device) -> None:
    """Give back what earlier runs had on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def token_bytes(network: Network) -> int:
    """Bytes of the keys and values of a token."""
    model = network.dimensions
    return 2 * model.layers * model.kv_heads * model.head_dim * network.dtype.itemsize


def median(values: Iterable[float]) -> float:
    """Return the median of some numbers."""
    return float(np.median(list(values)))
