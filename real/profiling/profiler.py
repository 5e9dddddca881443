"""task=profile: measures what iterations of a model take on this machine, layout by layout, and fits their costs.

Small workloads of known shapes are served by the same engine that serves real ones, and the costs are fitted to its own
log: every path that a policy takes is timed as it will run. A machine drifts, so all shapes of all layouts are served
in rounds, each round in a random order of its own.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from policies.baton import Baton
from policies.checks import InputError
from policies.policy import Policy
from real.configuration import ProfileOptions
from real.model.network import Network
from real.profiling.fit import Measured, fit_layout, predicted
from real.profiling.shapes import CHURN, Shape, overflow, shapes
from real.serving.engine import Engine
from real.serving.machine import Machine
from real.serving.memory import needs_of
from real.serving.prompts import random_prompts
from sim.cost.device import Device
from sim.cost.profile import LayoutCost, Profile, layout_of, settings_of
from sim.cost.terms import Term
from sim.engine.iteration_log import DTYPE, IterationLog, Slice
from sim.output.writing import Draft, writing
from sim.simulation.simulation import predictor_of

Array = npt.NDArray[np.float64]

HELD_OUT = 5
"""One of so many shapes is held out of the fit whose errors are reported."""

MOSTLY = 0.5
"""Share of a prefill beside which rows must decode for it to tell how the lanes slow each other."""

KINDS = ("prefill", "decode")
"""How the names of shapes begin without which a layout has no costs."""

DIGITS = 6
"""Significant digits of a coefficient in the file."""


@dataclass(frozen=True, eq=False)
class _Job:
    """One shape to be served by one policy; `place` tells shapes apart."""

    layout: str
    policy: Policy
    shape: Shape
    place: int
    kv_tokens: int


@dataclass(frozen=True, eq=False)
class _Served:
    job: _Job
    round: int
    records: Slice


class Profiler:
    """Measures the layouts that some policies use.

    Attributes:
        total: Workloads that will be served, at most.
        left_out: Shapes that memory does not hold.
    """

    def __init__(
        self,
        network: Network,
        policies: Mapping[str, Policy],
        hardware: Device,
        machine: Machine,
        options: ProfileOptions | None = None,
        *,
        memory_bytes: int | None = None,
        seed: int = 0,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """Lay the shapes out.

        Args:
            network: The model.
            policies: Whose layouts are measured, up to the rows that each of them batches.
            hardware: Whose rates and memory the profile is given, as `real.serving.machine.measure` found them.
            machine: Where the model runs.
            options: How thorough to be.
            memory_bytes: Memory to use; None: what is usable of the hardware's.
            seed: Of lengths, tokens and order.
            on_step: Hears after every workload how many were served.

        Raises:
            InputError: Memory holds none of the shapes.
        """
        self._network = network
        self._hardware = hardware
        self._machine = machine
        self._options = options or ProfileOptions()
        self._seed = seed
        self._on_step = on_step
        self._rng = np.random.default_rng(seed)
        self._rounds = 1 if self._options.quick else self._options.rounds
        self._jobs = self._plan(policies, memory_bytes or int(hardware.memory_bytes * hardware.usable_memory))
        self._served: list[_Served] = []
        self.total = self._rounds * len(self._jobs)

    def run(self, name: str, until: float = math.inf) -> Profile:
        """Measure and fit.

        Args:
            name: Of the profile.
            until: No workload is served after this time, by `time.perf_counter`; what was served is fitted.

        Raises:
            InputError: The model or the machine cannot run the policies.
        """
        start = time.perf_counter()
        for job in self._jobs:
            if job.shape.name == f"{CHURN} 0" and time.perf_counter() < until:
                self._serve(job)  # warms up
        for turn in range(self._rounds):
            limit_s = self._options.limit_s
            if turn and limit_s is not None and time.perf_counter() - start > limit_s:
                break
            for place in self._rng.permutation(len(self._jobs)):
                if time.perf_counter() > until:
                    return self._profile(name)
                job = self._jobs[place]
                self._served.append(_Served(job, turn, self._serve(job)))
                if self._on_step is not None:
                    self._on_step(len(self._served))
        return self._profile(name)

    def write(self, profile: Profile, folder: Path) -> Path:
        """Write a profile as NAME.yaml, and what was measured beside it; return the path of the first.

        Raises:
            InputError: A file cannot be written.
        """
        self._write_table(folder / profile.measurements)
        return write_profile(profile, folder)

    @property
    def runs(self) -> list[tuple[str, Slice]]:
        """What was served so far: a name of each workload, and its iterations."""
        return [(f"{one.job.layout}, {one.job.shape.name}, round {one.round + 1}", one.records) for one in self._served]

    def write_partial(self, name: str, folder: Path) -> Path | None:
        """Write what was measured so far, marked as partial, as NAME.partial.parquet; None if nothing was.

        Raises:
            InputError: The file cannot be written.
        """
        if not self._served:
            return None
        path = folder / f"{name}.partial.parquet"
        self._write_table(path, partial=True)
        return path

    def _write_table(self, path: Path, partial: bool = False) -> None:
        with writing(path), Draft(path) as part:
            pq.write_table(
                self._table().replace_schema_metadata({"partial": str(partial).lower()}), part, compression="zstd"
            )

    # what is measured

    def _plan(self, policies: Mapping[str, Policy], budget: int) -> list[_Job]:
        """One policy of each layout serves all shapes; what only others do, they do. What does not fit is left out."""
        jobs: list[_Job] = []
        for policy in policies.values():
            layout, grid, alone = layout_of(policy.traits), self._grid(policy), _alone(policy)
            extra = len(grid)
            if layout not in (job.layout for job in jobs):
                jobs += [_Job(layout, alone, shape, place, shape.kv_tokens(policy)) for place, shape in enumerate(grid)]
            if policy.traits.reserve == "window" and policy.max_batch > 1:
                shape, tight = overflow()
                jobs.append(_Job(layout, alone, shape, extra, tight))
            if policy.traits.lanes == "shared":
                churn = [shape for shape in grid if shape.name.startswith(CHURN)]
                jobs += [_Job(layout, policy, shape, extra, shape.kv_tokens(policy)) for shape in churn]
        fitting = [job for job in jobs if self._need(job) <= budget]
        self.left_out = len(jobs) - len(fitting)
        for layout, kind in itertools.product(dict.fromkeys(job.layout for job in jobs), KINDS):
            own = [job for job in jobs if job.layout == layout and job.shape.name.startswith(kind)]
            if not any(job in fitting for job in own):
                raise InputError(
                    f"{budget:,} bytes hold no shape to measure {kind} of layout {layout}, which takes "
                    f"{min(map(self._need, own)):,}; give more with memory_bytes=, or choose a smaller model"
                )
        return fitting

    def _need(self, job: _Job) -> int:
        """Return the bytes that serving a shape may take."""
        return needs_of(self._network, [job.policy], job.shape.requests()).total(job.kv_tokens)

    def _grid(self, policy: Policy) -> list[Shape]:
        longest = min(self._options.longest, self._network.dimensions.max_positions // 2)
        return shapes(policy.max_batch, longest, self._options.quick, self._seed)

    def _serve(self, job: _Job) -> Slice:
        slices: list[Slice] = []
        requests = job.shape.requests()
        prompts = random_prompts(requests, self._network.dimensions.vocabulary, self._seed)
        log = IterationLog(lambda part: slices.append(part.copy()))
        predictor = predictor_of(job.policy, requests)
        Engine(requests, job.policy, self._network, prompts, log, job.kv_tokens, predictor=predictor).run()
        return np.concatenate(slices)

    # what is made of it

    def _profile(self, name: str) -> Profile:
        hardware = self._hardware
        return Profile(
            **{each.name: getattr(hardware, each.name) for each in fields(Device)} | {"name": name},
            **vars(self._machine),
            model=self._network.dimensions.name,
            date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            measurements=f"{name}.parquet",
            layouts=[self._layout(layout) for layout in dict.fromkeys(job.layout for job in self._jobs)],
        )

    def _layout(self, layout: str) -> LayoutCost:
        served = [one for one in self._served if one.job.layout == layout]
        alone = [one for one in served if one.job.policy.traits.lanes == "one"]
        measured = Measured(
            np.concatenate([one.records for one in alone]),
            np.concatenate([np.full(len(one.records), one.job.place) for one in alone]),
            np.concatenate([_gaps(one.records) for one in alone]),
        )
        costs = fit_layout(
            layout, measured, sorted({place for place in measured.shape.tolist() if place % HELD_OUT == 3})
        )
        shared = [one.records for one in served if one.job.policy.traits.lanes == "shared"]
        slowdown = _slowdown(costs.terms, shared)
        return costs if slowdown is None else replace(costs, overlap_slowdown=slowdown)

    def _table(self) -> pa.Table:
        """Return all measured iterations, a row each."""
        served, records = self._served, np.concatenate([one.records for one in self._served])
        counts = [len(one.records) for one in served]
        facts = {
            "layout": [one.job.layout for one in served],
            "lanes": [one.job.policy.traits.lanes for one in served],
            "shape": [one.job.shape.name for one in served],
            "round": [one.round for one in served],
        }
        columns = {name: np.repeat(np.array(values), counts) for name, values in facts.items()}
        columns |= {name: np.ascontiguousarray(records[name]) for name in DTYPE.names or ()}
        return pa.table(columns)


def write_profile(profile: Profile, folder: Path) -> Path:
    """Write a profile as NAME.yaml, by itself; return its path.

    Raises:
        InputError: The file cannot be written.
    """
    path = folder / f"{profile.name}.yaml"
    head = f"# {profile.model} on {profile.machine}, measured {profile.date}; see sim/cost/profile.py for the terms.\n"
    with writing(path), Draft(path) as part:
        text = yaml.safe_dump(
            profile_settings(profile), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
        )
        part.write_text(head + text, encoding="utf-8")
    return path


def profile_settings(profile: Profile) -> Any:
    """Return a profile in plain containers, with as many digits as were measured."""
    return _rounded(settings_of(profile))


def _alone(policy: Policy) -> Policy:
    """Return the policy without a second lane, so that every iteration has the device to itself."""
    return replace(policy, prefill="inline") if isinstance(policy, Baton) else policy


def _gaps(records: Slice) -> Array:
    """Time from the end of each iteration to the start of the next; NaN for the last."""
    ends = records["start_s"] + records["duration_s"]
    return np.append(records["start_s"][1:] - ends[:-1], np.nan)


def _slowdown(terms: Sequence[Term], logs: Sequence[Slice]) -> float | None:
    """How many times slower two lanes at once ran than each would alone; None if they never did.

    While prefill runs beside decode, both lanes are served for the same time: what they would have taken alone, over
    both, is twice that time without interference and just that time if they take turns.
    """
    beside = alone = 0.0
    for records in logs:
        start, end = records["start_s"], records["start_s"] + records["duration_s"]
        cost, lane = predicted(terms, records), records["lane"]
        decode = np.flatnonzero((lane == 0) & (records["rows"] > 0))
        for prefill in np.flatnonzero((lane == 1) & (records["prefill_rows"] > 0)):
            shared = np.minimum(end[decode], end[prefill]) - np.maximum(start[decode], start[prefill])
            shared = np.maximum(shared, 0.0)
            duration = float(records["duration_s"][prefill])
            if shared.sum() > MOSTLY * duration:
                beside += 2 * float(shared.sum())
                alone += float((cost[decode] * shared / records["duration_s"][decode]).sum())
                alone += float(cost[prefill] * shared.sum() / duration)
    return max(1.0, beside / alone) if alone else None


def _rounded(settings: Any) -> Any:
    """Return settings with as many digits as were measured."""
    if isinstance(settings, Mapping):
        return {key: _rounded(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_rounded(value) for value in settings]
    return float(f"{settings:.{DIGITS}g}") if isinstance(settings, float) else settings
