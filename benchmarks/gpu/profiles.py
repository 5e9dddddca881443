"""A profile of the GPU for each execution, which the simulator then predicts with.

What takes long is the grid. The coarse one comes first; the fine one, if by the time that the coarse one took there is
time for it. Decode steps that are recorded are what the targets are about, so theirs is the fine one.
"""

import re
import time
from collections.abc import Mapping

import torch

from benchmarks.gpu.bench import Bench, budget_of, policies_of, release
from benchmarks.gpu.record import Record
from policies.policy import Policy
from real.configuration import ProfileOptions
from real.model.network import Network
from real.profiling.profiler import Profiler
from real.serving.machine import machine_of, warm_up
from real.serving.machine import measure as rates_of
from sim.cost.profile import LayoutCost
from sim.engine.execution import EAGER, GRAPHS, Execution

ROUNDS = 3
MARGIN = 1.2
"""By how much a grid may take longer than the number of its workloads says."""


def compared(bench: Bench, max_batch: int) -> dict[str, Policy]:
    """Return the policies that are predicted and measured."""
    policies = policies_of(max_batch)
    return {name: policies[name] for name in bench.sizes.compared}


def measure(bench: Bench, record: Record, until: float) -> None:
    """Take a profile for each execution."""
    every = policies_of(max(bench.sizes.compared_batches))
    policies = {name: every[name] for name in (*bench.sizes.compared, *bench.sizes.profiled)}
    for execution in (GRAPHS, EAGER):
        start = time.perf_counter()
        if start > until:
            record.left_out(f"the profile of {execution.name}")
            continue
        network = bench.network(bench.models[0], execution)
        coarse = _profiler(bench, network, policies, ProfileOptions(quick=True, longest=bench.sizes.longest))
        _take(bench, record, execution, coarse, "coarse")
        if bench.sizes.fine and execution is GRAPHS:
            now = time.perf_counter()
            _take_fine(bench, record, network, policies, (now - start) / coarse.total, until - now)


def _take_fine(
    bench: Bench, record: Record, network: Network, policies: Mapping[str, Policy], each_s: float, left_s: float
) -> None:
    """Take the profile anew on the fine grid, if a workload takes so long that there is time for a round."""
    options = ProfileOptions(rounds=ROUNDS, longest=bench.sizes.longest, limit_s=max(0.0, left_s / 2))
    fine = _profiler(bench, network, policies, options)
    round_s = MARGIN * each_s * fine.total / ROUNDS
    if round_s < left_s:
        _take(bench, record, network.execution, fine, "fine")
    else:
        record.left_out(f"the fine grid: a round would take {round_s:.0f} s, and {max(0.0, left_s):.0f} s were left")


def _profiler(bench: Bench, network: Network, policies: Mapping[str, Policy], options: ProfileOptions) -> Profiler:
    release(bench.device)
    rates = rates_of(network, warm_up(network))
    machine = machine_of(network, "sdpa")
    return Profiler(network, policies, rates, machine, options, memory_bytes=budget_of(network), seed=bench.seed)


def _take(bench: Bench, record: Record, execution: Execution, profiler: Profiler, grid: str) -> None:
    start = time.perf_counter()
    name = name_of(bench, execution)
    try:
        profile = profiler.run(name)
    except KeyboardInterrupt:
        profiler.write_partial(name, bench.folder)
        raise
    path = profiler.write(profile, bench.folder)
    bench.profiles[execution] = profile
    seconds = time.perf_counter() - start
    record.add(
        execution=execution.name,
        grid=grid,
        seconds=seconds,
        file=path.name,
        model=profile.model,
        left_out=profiler.left_out,
        fits={costs.layout: fits_of(costs) for costs in profile.layouts},
    )
    bench.tell(f"{path.name}, {execution.name}, {grid} grid: {seconds:.0f} s")


def fits_of(costs: LayoutCost) -> list[dict[str, object]]:
    """Return how well each kind of iteration of a layout was met."""
    return [
        {"phase": fit.phase, "iterations": fit.iterations, "r2": fit.r2, "held_out_error": fit.held_out_error}
        for fit in costs.fits
    ]


def name_of(bench: Bench, execution: Execution) -> str:
    """Return the name of a profile, such as h200_measured; other executions than recorded ones are named."""
    gpu = torch.cuda.get_device_name(bench.device.index) if bench.device.type == "cuda" else bench.device.type
    words = [word for word in re.findall(r"[a-z0-9]+", gpu.lower()) if word != "nvidia"]
    return "_".join([*words, "measured", *([] if execution is GRAPHS else [execution.name])])
