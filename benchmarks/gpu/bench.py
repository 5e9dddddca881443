"""What all parts measure on: a device, the model that is on it, and requests."""

import copy
import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policies.checks import InputError
from policies.policy import Policy
from real.model.network import DTYPES, Network, random_network
from real.serving.engine import Engine, OnStep
from real.serving.machine import measure as rates_of
from real.serving.machine import memory_left, warm_up
from real.serving.memory import USABLE, needs_of
from real.serving.prompts import random_prompts
from sim.config.named import named
from sim.cost.datasheet import Hardware
from sim.cost.model import Model
from sim.cost.profile import Profile
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import IterationLog, Slice
from sim.metrics.metrics import Summary
from sim.simulation.simulation import Recording, predictor_of
from workloads.requests import Requests
from workloads.reshape import capped, scaled
from workloads.sharegpt import ShareGPT

if TYPE_CHECKING:
    from benchmarks.gpu.plan import Sizes

LOADING = 1.75
"""Memory that a model takes while it is made, in bytes of its weights: merged weights lie beside their parts."""


DEVICE_S = "device_s"
"""Seconds that the device took for an iteration, by events."""

GRACE = 0.15
"""A run that is going when its share of the time is spent may go on for so much of that share."""


class OutOfTime(Exception):
    """A run was stopped since the share of its part was spent."""


class NoRoom(InputError):
    """The device has less memory than what is to be measured needs."""


class Served(NamedTuple):
    """One policy's run.

    Attributes:
        seconds: From the start to the end of the last answer, what was spent on recording decode steps left out.
        summary: Metrics by name, see `sim.metrics.metrics`.
        records: The log, one record per iteration, with the column `DEVICE_S` where it is known.
        generated: The tokens of every answer.
        logits: Those behind every token, by request, if they were asked for.
    """

    seconds: float
    summary: Summary
    records: Slice
    generated: dict[int, list[int]]
    logits: dict[int, list[Tensor]]


@dataclass(kw_only=True)
class Bench:
    """A device and what is on it.

    Attributes:
        device: Where everything runs.
        dtype: Type of weights and KV.
        model: Model to measure, by name.
        sizes: How much is measured.
        bandwidth: Bytes read plus written per second of a large copy.
        seed: Of weights, tokens and requests.
        tell: Hears what is going on.
        check: Called between runs; may raise.
        until: When a run is stopped, by `time.perf_counter`.
        profiles: Profiles that were taken, by execution.
        predicted: What was predicted, by cell and policy.
        loaded_s: Seconds spent on loading models.
    """

    device: torch.device
    dtype: str
    model: str
    sizes: "Sizes"
    bandwidth: float
    seed: int = 0
    tell: Callable[[str], None] = lambda told: None
    check: Callable[[], None] = lambda: None
    until: float = math.inf
    profiles: dict[Execution, Profile] = field(default_factory=dict)
    predicted: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    loaded_s: float = 0.0
    _loaded: tuple[str, str, Network] | None = None
    _rates: dict[tuple[str, str], Hardware] = field(default_factory=dict)

    def network(self, execution: Execution = EAGER, model: str | None = None, dtype: str | None = None) -> Network:
        """Return a model, random weights, in this execution; its weights are shared with other executions.

        Only the last model stays on the device.

        Raises:
            NoRoom: The device does not hold it.
            InputError: It does not exist, or cannot be run.
        """
        wanted = model or self.model, dtype or self.dtype
        if self._loaded is None or self._loaded[:2] != wanted:
            self.drop()
            start = time.perf_counter()
            dimensions = replace(dimensions_of(wanted[0]), bytes_per_value=DTYPES[wanted[1]].itemsize)
            check_room(wanted[0], LOADING * dimensions.weight_bytes, memory_left(self.device))
            self._loaded = *wanted, random_network(dimensions, str(self.device), wanted[1], seed=self.seed)
            gc.collect()
            gc.freeze()  # what stays is not looked at again by any collection
            self.loaded_s += time.perf_counter() - start
        network = copy.copy(self._loaded[2])
        network.execution = execution
        return network

    def drop(self) -> None:
        """Give back the model and all else that is on the device."""
        self._loaded = None
        gc.unfreeze()
        release(self.device)

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rates(self, network: Network) -> Hardware:
        """Return what the device reaches under this model."""
        key = network.dimensions.name, str(network.dtype)
        if key not in self._rates:
            self._rates[key] = rates_of(network, warm_up(network))
        return self._rates[key]

    def serve(
        self,
        network: Network,
        policy: Policy,
        requests: Requests,
        kv_tokens: int,
        on_step: OnStep | None = None,
        with_logits: bool = False,
    ) -> Served:
        """Serve requests.

        Args:
            network: The model.
            policy: What to run next.
            requests: The workload.
            kv_tokens: KV memory, in tokens.
            on_step: Hears of every iteration.
            with_logits: Whether the logits behind every token are kept.

        Raises:
            OutOfTime: It went on for longer than there was time.
            RuntimeError: Some got no answer.
        """
        self.check()
        slices: list[Slice] = []
        recording = Recording(policy, self.rates(network), network.dimensions)
        engine = Engine(
            requests,
            policy,
            network,
            random_prompts(requests, network.dimensions.vocabulary, self.seed),
            IterationLog(lambda part: slices.append(part.copy()), *recording.sinks),
            kv_tokens,
            predictor=predictor_of(policy, requests),
            on_step=lambda *done: self._in_time(done, on_step),
        )
        if with_logits:
            engine.executor.logits = {}
        gc.collect()
        gc.disable()
        try:
            answers = engine.run()
        finally:
            self.wait()  # a run that is stopped leaves a step under way, in memory that is about to go
            gc.enable()
        served = int(np.isfinite(finish_s := np.asarray(answers.finish_s)).sum())
        if served < len(requests):
            raise RuntimeError(f"only {served} of {len(requests)} requests were answered")
        summary = recording.result(engine.served(), answers).summary
        records = with_device_times(np.concatenate(slices), getattr(engine, "device_s", ()))
        return Served(float(finish_s.max()), summary, records, engine.generated, engine.executor.logits or {})

    def _in_time(self, done: tuple[int, int, float], on_step: OnStep | None) -> None:
        if time.perf_counter() > self.until:
            raise OutOfTime(f"stopped after {done[2]:.1f} s with {done[0]} answers: its share of the time was spent")
        if on_step is not None:
            on_step(*done)

    def sharegpt(self, count: int, longest: int, scale: float = 1.0, seed: int | None = None) -> Requests:
        """Return first turns of ShareGPT, all there at once, of at most `longest` tokens."""
        drawn = ShareGPT(num_requests=count, arrival="all_at_once").build(self.seed if seed is None else seed)
        return capped(scaled(drawn, scale), longest)


def with_device_times(records: Slice, device_s: Sequence[float]) -> Slice:
    """Return a log with a column more, where the device's times of all its iterations are known."""
    if len(device_s) != len(records):
        return records
    wider = np.empty(len(records), dtype=[*records.dtype.descr, (DEVICE_S, "<f8")])
    for name in records.dtype.names or ():
        wider[name] = records[name]
    wider[DEVICE_S] = device_s
    return wider


def dimensions_of(model: str) -> Model:
    """Return the dimensions of a model of conf/.

    Raises:
        InputError: There is none of that name.
    """
    return named("model", model, Model)


def policy_named(name: str, max_batch: int) -> Policy:
    """Return a policy of conf/ with so many rows."""
    return named("policy", name, Policy, max_batch=max_batch)  # type: ignore[type-abstract]


def kv_tokens_for(network: Network, policies: Iterable[Policy], *workloads: Requests) -> int:
    """Return the same KV memory for all: two full batches of the longest requests, or what there is but one.

    Raises:
        NoRoom: Memory does not hold a full batch.
    """
    needs, budget = needs_of(network, policies, *workloads), budget_of(network)
    full = needs.rows * needs.longest
    fits = needs.most_kv_tokens(budget, 2 * full)
    if fits < full:
        check_room(f"a full batch of {needs.rows} rows", needs.total(full), budget)
    return fits


def check_room(what: str, needed: float, there: float) -> None:
    """Refuse what memory does not hold.

    Raises:
        NoRoom: It does not.
    """
    if needed > there:
        raise NoRoom(f"{what} needs {needed / 1e9:.3g} GB, and {there / 1e9:.3g} GB are there")


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


def median(values: Iterable[float]) -> float:
    """Return the median of some numbers."""
    return float(np.median(list(values)))
