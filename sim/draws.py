"""The requests of every replication, the same for all policies: common random numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policies.errors import InputError
from policies.plan import IllegalPlan
from policies.policy import Policy
from sim.comparison import notes_on
from sim.configuration import Settings
from sim.execution import execution_notes
from sim.metrics import Summary
from sim.run import engine_notes
from sim.simulation import simulate
from sim.table import Context, warnings
from workloads.demand import counted
from workloads.requests import Requests
from workloads.resample import block_length, resampled
from workloads.streams import MAX_SEED


class Draws:
    """Replication r of a workload: built with seed + r; of a trace, resampled with that seed in contiguous blocks.

    Attributes:
        first: The requests that the workload builds with the seed itself: of a trace, the recorded ones.
        resampled: Whether they come of a trace.
        notes: Plain sentences on how they are drawn.
    """

    def __init__(self, workload: Any, seed: int, replications: int) -> None:
        """Build the first requests.

        Raises:
            InputError: if they cannot be built, or there are not so many seeds.
        """
        if seed > MAX_SEED - replications:
            raise InputError(f"seed={seed}: there are not {replications} seeds after it; give a smaller one")
        self.first: Requests = workload.build(seed)
        self.resampled: bool = getattr(workload, "recorded", False)
        self._build: Callable[[int], Requests] = workload.build
        self._seed = seed
        self._arrivals_too = self.resampled and workload.arrivals().process == "trace"
        self.notes = self._notes()

    def _notes(self) -> list[str]:
        if not self.resampled:
            return []
        size = block_length(len(self.first))
        blocks = f"every replication: {counted(len(self.first), 'request')} of the trace in blocks of {size:,}, drawn "
        notes = [f"{blocks}with replacement; intervals say how far the trace itself may be off"]
        if self.first.share_prefixes:
            notes.append("blocks drawn twice repeat their prompts: a prefix cache finds more than in the trace itself")
        return notes

    def __call__(self, replication: int) -> Requests:
        """Return the requests of a replication, the first of which is 0."""
        seed = self._seed + replication
        if self._arrivals_too:
            return resampled(self.first, seed, arrivals_too=True)
        requests = self._build(seed) if replication else self.first
        return resampled(requests, seed, arrivals_too=False) if self.resampled else requests


def at_rate(requests: Requests, rate: float) -> Requests:
    """Return requests that were built for 1 request/s at another rate: the same gaps, scaled."""
    return replace(requests, arrival_s=requests.arrival_s / rate)


def simulated(settings: Settings, name: str, policy: Policy, requests: Requests) -> Summary:
    """Return the metrics of a policy on the requests of one replication, without the warm-up.

    Raises:
        InputError: if the policy cannot be run.
    """
    try:
        return simulate(
            requests,
            policy,
            settings.hardware,
            settings.model,
            kv_tokens=settings.kv_tokens,
            slo=settings.slo,
            stretch=settings.stretch,
            frontend_s=settings.engine.frontend_latency_s,
            warm_up=warm_up_requests(settings, len(requests)),
            execution=settings.execution,
        ).summary
    except IllegalPlan as refusal:
        raise InputError(f"policy {name}: the ledger refused its plan: {refusal}") from None


def input_notes(settings: Settings, draws: Draws) -> list[str]:
    """Return sentences on what is simulated: the requests, how they are drawn, the engine, what was not measured."""
    costs = [settings.hardware.cost_model(settings.model, policy.traits) for policy in settings.policies.values()]
    unmeasured = dict.fromkeys(what for cost in costs for what in cost.extrapolated)
    told = f"hardware={settings.hardware.name}: not measured but extrapolated: {', '.join(unmeasured)}"
    notes = [*notes_on(settings, draws.first), *draws.notes, *engine_notes(settings), *execution_notes(settings)]
    return [*notes, told] if unmeasured else notes


def output_warnings(settings: Settings, draws: Draws, runs: Mapping[str, Sequence[Summary]]) -> list[str]:
    """Return what a reader of these runs must know, by policy: as of one run, counts being those of all of them."""
    merged: dict[str, Summary] = {}
    for name, each in runs.items():
        counts = {key: sum(int(run.get(key) or 0) for run in each) for key in ("rejected", "unfinished")}
        beyond = [float(run.get("beyond_calibration") or 0) for run in each]
        merged[name] = {**counts, "beyond_calibration": float(np.mean(beyond)), "gpus": each[0].get("gpus")}
    requests, longest = draws.first, settings.model.max_positions
    context = Context(
        workload=requests.name,
        requests=len(requests),
        arrivals=requests.arrivals,
        declared=requests.declared,
        hardware=settings.hardware.name,
        model=settings.model.name,
        kv_tokens=settings.kv_tokens,
        max_positions=longest,
        too_long=int(np.count_nonzero(requests.prompt_tokens + requests.output_tokens > longest)),
    )
    return list(warnings(merged, context))


def warm_up_requests(settings: Settings, requests: int) -> int:
    """Return how many requests do not count, of so many."""
    return int(np.floor(settings.task.warm_up * requests))
