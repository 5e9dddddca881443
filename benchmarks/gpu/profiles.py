"""A profile of the GPU, and what the simulator predicts with it before anything of that is measured."""

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu.bench import Bench, NoRoom, OutOfTime, budget_of, kv_tokens_for, policy_named, release
from benchmarks.gpu.cells import Cell, at_rate, facts_of, policies_of, score_of
from benchmarks.gpu.findings import ITERATIONS, Part
from policies.checks import InputError
from real.configuration import ProfileOptions
from real.model.network import Network
from real.profiling.profiler import Profiler, profile_settings, write_profile
from real.serving.machine import machine_of
from sim.cost.profile import LayoutCost
from sim.engine.execution import GRAPHS, Execution
from sim.metrics.metrics import Summary
from sim.simulation.simulation import simulate
from workloads.requests import Requests

FEWEST_ROWS = 8
"""A profile of fewer rows is none of a batch."""


def measure(bench: Bench, part: Part, until: float, execution: Execution) -> None:
    """Take a profile of an execution: as many rows and tokens as memory holds every shape of, on the coarse grid.

    That of graphs is a file of its own; settings of both are among the findings.
    """
    release(bench.device)
    network, start = bench.network(execution), time.perf_counter()
    profiler, rows, longest = fitting(bench, network)
    bench.tell(f"{execution.name}, {rows} rows, prompts up to {longest} tokens: {profiler.total} workloads")
    try:
        profile = profiler.run(name_of(bench, execution), until)
    except (ValueError, IndexError) as error:
        if len(profiler.runs) == profiler.total:
            raise
        raise OutOfTime(f"{len(profiler.runs)} of {profiler.total} workloads make no profile") from error
    finally:
        for run, records in profiler.runs:
            part.keep(run, records)
    profile = replace(profile, measurements=ITERATIONS)
    bench.profiles[execution] = profile
    if execution is GRAPHS:
        part.write_file(partial(write_profile, profile))
    part.add(
        execution=execution.name,
        seconds=time.perf_counter() - start,
        max_batch=rows,
        longest=longest,
        served=len(profiler.runs),
        workloads=profiler.total,
        left_out=profiler.left_out,
        fits={costs.layout: fits_of(costs) for costs in profile.layouts},
        profile=profile_settings(profile),
    )
    bench.tell(f"{profile.name}, {execution.name}: {len(profiler.runs)} of {profiler.total} workloads")


def fitting(bench: Bench, network: Network) -> tuple[Profiler, int, int]:
    """Return a profiler all of whose shapes memory holds, with its most rows and its longest prompt.

    Without such a one, that of the fewest rows, which leaves shapes out.

    Raises:
        InputError: Memory holds nothing that a profile is made of.
    """
    sizes, machine, budget = bench.sizes, machine_of(network, "sdpa"), budget_of(network)
    found: tuple[Profiler, int, int] | None = None
    refused: InputError | None = None
    most = sizes.profiled_rows
    halved = [most >> place for place in range(most.bit_length()) if most >> place >= min(most, FEWEST_ROWS)]
    for rows, longest in itertools.product(halved, sizes.profiled_tokens):
        policies = {name: policy_named(name, rows) for name in sizes.compared}
        options = ProfileOptions(quick=True, longest=longest)
        try:
            profiler = Profiler(
                network, policies, bench.rates(network), machine, options, memory_bytes=budget, seed=bench.seed
            )
        except InputError as error:
            refused = error
            continue
        found = profiler, rows, longest
        if not profiler.left_out:
            break
    if found is None:
        assert refused is not None
        raise refused
    return found


def predict(bench: Bench, part: Part, until: float, cells: Sequence[Cell]) -> None:
    """Simulate every cell in whose execution there is a profile, before any is measured."""
    for cell in cells:
        if cell.execution not in bench.profiles:
            part.left_out(cell.name, f"no profile of {cell.execution.name}")
        elif time.perf_counter() > until:
            part.left_out(cell.name, "no time")
        else:
            try:
                _predict(bench, part, cell)
            except NoRoom as error:
                part.left_out(cell.name, str(error))
    bench.predicted = {(row["cell"], row["policy"]): row for row in part.found["rows"]}


def _predict(bench: Bench, part: Part, cell: Cell) -> None:
    network, policies, requests = bench.network(cell.execution), policies_of(bench, cell), cell.requests(bench)
    kv_tokens = kv_tokens_for(network, policies.values(), requests)

    def summary_of(name: str, requests: Requests) -> Summary:
        return simulate(
            requests,
            policies[name],
            bench.profiles[cell.execution],
            network.dimensions,
            kv_tokens=kv_tokens,
            execution=cell.execution,
        ).summary

    rate = None
    if cell.load is not None:
        capacities = [score_of(summary_of(name, requests), saturated=True) for name in policies]
        rate = cell.load * min(capacities)
        requests = at_rate(requests, rate, bench.seed)
    for name in policies:
        found = facts_of(summary_of(name, requests), cell)
        part.add(**cell.facts(), policy=name, kv_tokens=kv_tokens, rate=rate, **found)


def fits_of(costs: LayoutCost) -> list[dict[str, object]]:
    """Return how well each kind of iteration of a layout was met."""
    return [
        {"phase": fit.phase, "iterations": fit.iterations, "r2": fit.r2, "held_out_error": fit.held_out_error}
        for fit in costs.fits
    ]


def name_of(bench: Bench, execution: Execution) -> str:
    """Return the name of a profile, such as h200_measured; other executions than recorded ones are named."""
    gpu = torch.cuda.get_device_name(bench.device.index) if bench.device.type == "cuda" else bench.device.type
    words = [word for word in re.findall(r"[a-z0-9]+", gpu.lower()) if not re.fullmatch(r"nvidia|\d+gb|hbm\w+", word)]
    return "_".join([*words, "measured", *([] if execution is GRAPHS else [execution.name])])
