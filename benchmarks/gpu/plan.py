"""What is measured, how much of it, in which order, and which share of the time each part has.

What is most telling comes first, and a prediction before what it predicts.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.gpu import cells, exactness, newcomers, profiles, steps
from benchmarks.gpu.bench import GRACE, Bench, dimensions_of, release
from benchmarks.gpu.cells import Cell
from benchmarks.gpu.findings import Findings, Part
from benchmarks.machine_facts import device_named, machine_facts
from real.model.network import DTYPES
from real.serving.machine import copy_rate, product_rate
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.output.writing import make_folder

START_S = 25.0
"""What importing and finding the device may take of a budget."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        kernel_tests: Options of the tests of the kernels.
        exact_model: Model of which tokens are compared, in fp32.
        exact_policies: Policies under which they are.
        exact_rows: Rows of its batches.
        exact_requests: Requests of which they are.
        exact_tokens: Tokens of the longest of them.
        ladder: Rows of the decode steps that are timed in the quick plan.
        profiled: Rows of those whose kernels are timed one by one.
        launch_batches: Rows of those that tell what launching takes.
        steps: Decode steps that are timed in a row.
        equal_tokens: Tokens of each of their rows.
        mixed_rows: Rows beside which a newcomer is prefilled.
        mixed_tokens: Tokens of each of them.
        newcomers: Tokens of the newcomers whose insertion is timed.
        insertions: How many of each are inserted.
        compared: Policies that are predicted and measured, those first that matter most.
        profiled_rows: Most rows of a profile, if memory allows.
        profiled_tokens: Tokens of its longest prompt, the most if memory allows.
        batch: Rows of the decisive cell.
        small_batch: Rows of a cell with fewer.
        large_batch: Rows of a cell with more.
        per_row: Requests of a cell, for every row.
        small_per_row: The same where rows are few.
        scale: Factor of ShareGPT's lengths.
        longest: Tokens of the longest request, prompt and answer.
        unscaled_longest: The same where lengths are as they are.
        rounds: Most rounds of the decisive cell.
        more_rounds: Most rounds of those with fewer and with more rows, in graphs.
        other_rounds: Most rounds of all others.
        peer_per_row: Requests for every row where transformers' ways are measured.
        peer_rounds: Most rounds there.
    """

    kernel_tests: tuple[str, ...] = ()
    exact_model: str = "small_llama"
    exact_policies: tuple[str, ...] = ("baton_ragged", "orca", "orca_per_request", "run_to_completion", "baton_window")
    exact_rows: int = 12
    exact_requests: int = 36
    exact_tokens: int = 128
    ladder: tuple[int, ...] = (1, 8, 32, 64)
    profiled: tuple[int, ...] = (1, 64)
    launch_batches: tuple[int, ...] = (8, 32, 64)
    steps: int = 24
    equal_tokens: int = 512
    mixed_rows: int = 8
    mixed_tokens: int = 256
    newcomers: tuple[int, ...] = (32, 1024)
    insertions: int = 24
    compared: tuple[str, ...] = ("baton_ragged", "orca_per_request", "orca", "baton")
    profiled_rows: int = 64
    profiled_tokens: tuple[int, ...] = (512, 256)
    batch: int = 32
    small_batch: int = 8
    large_batch: int = 64
    per_row: int = 6
    small_per_row: int = 10
    scale: float = 0.25
    longest: int = 256
    unscaled_longest: int = 1024
    rounds: int = 3
    more_rounds: int = 2
    other_rounds: int = 1
    peer_per_row: int = 3
    peer_rounds: int = 1


FULL = Sizes()
LEAST = Sizes(
    kernel_tests=("-k", "one_column"),
    exact_model="tiny_llama",
    exact_policies=("baton_ragged", "orca"),
    exact_rows=2,
    exact_requests=3,
    exact_tokens=12,
    ladder=(1, 2),
    profiled=(1,),
    launch_batches=(1, 2),
    steps=4,
    equal_tokens=16,
    mixed_rows=2,
    mixed_tokens=8,
    newcomers=(8,),
    insertions=2,
    compared=("baton_ragged", "orca"),
    profiled_rows=3,
    profiled_tokens=(16,),
    batch=2,
    small_batch=1,
    large_batch=3,
    longest=24,
    unscaled_longest=32,
    rounds=2,
    more_rounds=1,
    peer_per_row=1,
)
"""As little of everything as shows that it runs."""


class Step(NamedTuple):
    """One part of a plan.

    Attributes:
        name: Its name.
        budget_s: Its share of the time, in seconds of the default budget.
        measure: Measures until a time.
    """

    name: str
    budget_s: float
    measure: Callable[[Bench, Part, float], None]


def quick_plan() -> tuple[Step, ...]:
    """Return what tells in three minutes whether all of it works, and where the time of a step goes."""
    return (
        Step("kernels", 40, exactness.measure_kernels),
        Step("tokens", 30, exactness.measure_tokens),
        Step("ladder", 55, steps.measure_ladder),
        Step("mixed steps", 25, newcomers.measure_mixed),
        Step("insertion", 20, newcomers.measure_insertions),
    )


def full_plan(sizes: Sizes) -> tuple[Step, ...]:
    """Return what answers whether BATON is worth what is claimed, and whether the simulator says so."""
    groups = cells_of(sizes)
    budgets = {"decisive": 88, "decisive eager": 38, "few rows": 40, "many rows": 46, "unscaled": 44, "loaded": 20}
    measured = {name: Step(name, budgets[name], partial(cells.measure, cells=group)) for name, group in groups.items()}
    every = [cell for group in groups.values() for cell in group]
    return (
        Step("profile", 40, partial(profiles.measure, execution=GRAPHS)),
        Step("eager profile", 27, partial(profiles.measure, execution=EAGER)),
        Step("predictions", 4, partial(profiles.predict, cells=every)),
        measured["decisive"],
        measured["decisive eager"],
        measured["few rows"],
        measured["many rows"],
        Step("launches", 16, partial(steps.measure_launches, executions=(GRAPHS, EAGER))),
        measured["unscaled"],
        measured["loaded"],
        Step("peers", 36, cells.measure_peers),
    )


def more_rounds(sizes: Sizes, times: int) -> Sizes:
    """Return sizes with so many times the rounds, if there is time for them."""
    names = ("rounds", "more_rounds", "other_rounds", "peer_rounds")
    return replace(sizes, **{name: times * getattr(sizes, name) for name in names})


def cells_of(sizes: Sizes) -> dict[str, list[Cell]]:
    """Return the cells of the full plan, by the part that measures them."""
    scaled = {"scale": sizes.scale, "longest": sizes.longest}
    unscaled = {"scale": 1.0, "longest": sizes.unscaled_longest}

    def cell(batch: int, execution: Execution, rounds: int, lengths: Mapping[str, Any], **more: Any) -> Cell:
        per_row = sizes.small_per_row if batch == sizes.small_batch else sizes.per_row
        return Cell(batch=batch, execution=execution, rounds=rounds, per_row=per_row, **lengths, **more)

    return {
        "decisive": [cell(sizes.batch, GRAPHS, sizes.rounds, scaled)],
        "decisive eager": [cell(sizes.batch, EAGER, sizes.other_rounds, scaled)],
        "few rows": [
            cell(sizes.small_batch, GRAPHS, sizes.more_rounds, scaled),
            cell(sizes.small_batch, EAGER, sizes.other_rounds, scaled),
        ],
        "many rows": [cell(sizes.large_batch, GRAPHS, sizes.more_rounds, scaled)],
        "unscaled": [cell(sizes.batch, GRAPHS, sizes.other_rounds, unscaled)],
        "loaded": [cell(sizes.batch, GRAPHS, sizes.other_rounds, scaled, load=0.7)],
    }


def measure(options: argparse.Namespace, findings: Findings, deadline: float, tell: Callable[[str], None]) -> None:
    """Find the device, then carry out the plan that the command line asks for.

    Raises:
        InputError: There is no such device or model, or the folder cannot be made.
        KeyboardInterrupt: On Ctrl-C; what was measured is written.
    """
    dimensions_of(options.model)
    device = device_named(options.device)
    sizes = more_rounds(LEAST if options.rehearse else FULL, options.times)
    plan = quick_plan() if options.quick else full_plan(sizes)
    make_folder(findings.folder)
    bench = Bench(
        device=device,
        dtype="bfloat16" if device.type == "cuda" else "float32",
        model=options.model,
        sizes=sizes,
        bandwidth=copy_rate(device, device),
        tell=tell,
        check=findings.interruption.check,
    )
    findings.say(
        **machine_facts(device, bench.dtype),
        judged=device.type == "cuda" and not options.rehearse,
        copy_bandwidth=bench.bandwidth,
        matmul_flops=product_rate(device, DTYPES[bench.dtype]),
        plan=[step.name for step in plan],
    )
    rates = f"{bench.bandwidth / 1e9:,.0f} GB/s copied, {findings.found['matmul_flops'] / 1e12:,.1f} TFLOP/s"
    tell(f"{findings.found['machine']}: {rates}")
    run(bench, findings, plan, deadline)


def run(bench: Bench, findings: Findings, plan: Sequence[Step], deadline: float) -> None:
    """Run all parts; one that fails says why, and the others go on.

    Args:
        bench: What to measure on.
        findings: Where what is found is put.
        plan: The parts, in their order.
        deadline: When everything is to be over, by `time.perf_counter`; of what is left each part has its share.

    Raises:
        KeyboardInterrupt: On Ctrl-C; what was measured is written.
    """
    tell = bench.tell
    for place, step in enumerate(plan):
        bench.check()
        start = time.perf_counter()
        share = max(0.0, deadline - start) * step.budget_s / sum(each.budget_s for each in plan[place:])
        part = findings.part(step.name)
        part.say(share_s=share)
        bench.tell = lambda said, name=step.name: tell(f"{name}: {said}")  # type: ignore[misc]
        bench.until = min(start + share * (1 + GRACE), max(deadline, start))
        loaded_s = bench.loaded_s
        try:
            release(bench.device)
            step.measure(bench, part, start + share)
            part.say(complete=True)
        except KeyboardInterrupt as stop:
            part.failed(stop)
            raise
        except Exception as error:  # whatever it is, the parts after it are not to blame
            bench.tell(f"failed: {part.failed(error)}")
        finally:
            bench.tell, bench.until = tell, math.inf
            part.say(seconds=time.perf_counter() - start, loading_s=bench.loaded_s - loaded_s)
            findings.write_iterations()
