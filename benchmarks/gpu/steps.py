"""How long a decode step takes, beside the time of reading what it must read, and what of it is launching.

A step lasts from the start of one decode iteration to the start of the next, so that whatever the engine does between
them counts. The floor is (weights + live KV) / copy bandwidth: weights without an input embedding of which only a few
rows are read, live KV the tokens that the rows hold, and the bandwidth that a large copy reaches, bytes read plus
written.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench, NoRoom, OutOfTime, Served, budget_of, check_room, median, policy_named
from benchmarks.gpu.findings import Part
from real.model.network import Network
from real.profiling.shapes import Shape
from real.serving.engine import OnStep
from real.serving.memory import needs_of
from sim.engine.execution import GRAPHS, Execution
from sim.engine.iteration_log import Slice

RAGGED, PER_REQUEST, FUSED = "baton_ragged", "orca_per_request", "orca"
CLAIMED = 1.75
"""What BATON is said to be worth, in times of Orca."""

PROFILED_STEPS = 4
UNPROFILED_STEPS = 6
"""At least so many come before those that are profiled."""

KERNELS = 12
"""How many of a step's kernels are told of, those that take longest first."""


class Steps(NamedTuple):
    """Decode steps of a full batch.

    Attributes:
        period_s: From the start of each to the start of the next.
        duration_s: Of each, without what lies between.
        kv_read: Tokens that its rows held.
    """

    period_s: list[float]
    duration_s: list[float]
    kv_read: list[int]


def measure_ladder(bench: Bench, part: Part, until: float) -> None:
    """Time steps of ragged BATON in graphs, batch by batch, then look into one."""
    for batch in bench.sizes.ladder:
        _measure(bench, part, until, RAGGED, GRAPHS, batch)
    for batch in bench.sizes.profiled:
        what = f"a profiled step of batch {batch}"
        if time.perf_counter() > until:
            part.left_out(what, "no time")
            continue
        try:
            found = profiled_step(bench, batch)
        except (NoRoom, OutOfTime) as error:
            part.left_out(what, str(error))
            continue
        part.found.setdefault("profiled", []).append(found)
        part.say()
        share = found["kernels_s"] / found["wall_s"]
        bench.tell(f"batch {batch}: {found['launched']:.0f} kernels, {share:.0%} of a step of {_ms(found['wall_s'])}")


def measure_launches(bench: Bench, part: Part, until: float, executions: Sequence[Execution]) -> None:
    """Time steps of ragged BATON and both Orcas, and say where the ratio that is claimed would be crossed by them."""
    for execution in executions:
        for batch in bench.sizes.launch_batches:
            for policy in (PER_REQUEST, FUSED, RAGGED):
                _measure(bench, part, until, policy, execution, batch)
        rows = [row for row in part.found["rows"] if row["execution"] == execution.name]
        part.found.setdefault("fits", {})[execution.name] = fits_of(rows, bench.network().dimensions.layers)
        part.say()


def fits_of(rows: Sequence[Mapping[str, Any]], layers: int) -> dict[str, Any]:
    """Return t0 and t_launch of t = t0 + rows x layers x t_launch for every policy, by least squares.

    `crossing` is the batch at which Orca with a launch per request takes `CLAIMED` times as long as ragged BATON, both
    by their lines; None if the lines cross it nowhere. Beside launching, a row more means its KV to read: what of
    t_launch is launching is the difference to the fused kernel's.
    """
    lines: dict[str, tuple[float, float]] = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [(row["batch"], row["median_step_s"]) for row in rows if row["policy"] == policy]
        if len(own) > 1:
            batches, seconds = np.array(own, dtype=np.float64).T
            slope, start = np.polyfit(batches, seconds, 1)
            lines[policy] = float(start), float(slope)
    found: dict[str, Any] = {
        policy: {"t0_s": start, "t_launch_s": slope / layers} for policy, (start, slope) in lines.items()
    }
    if {PER_REQUEST, RAGGED} <= lines.keys():
        (start, slope), (base, growth) = lines[PER_REQUEST], lines[RAGGED]
        steeper = slope - CLAIMED * growth
        found["crossing"] = max(0.0, (CLAIMED * base - start) / steeper) if steeper > 0 else None
    return found


def _measure(bench: Bench, part: Part, until: float, policy: str, execution: Execution, batch: int) -> None:
    what = f"{policy} {execution.name}, batch {batch}"
    if time.perf_counter() > until:
        part.left_out(what, "no time")
        return
    network = bench.network(execution)
    try:
        served = serve_batch(bench, network, policy, batch, bench.sizes.steps)
    except (NoRoom, OutOfTime) as error:
        part.left_out(what, str(error))
        return
    part.keep(what, served.records)
    steps = steady_steps(served.records, batch)
    weights, token = weights_read(network), network.dimensions.kv_bytes_per_token
    floors = [(weights + kv * token) / bench.bandwidth for kv in steps.kv_read]
    ratio = median(period / floor for period, floor in zip(steps.period_s, floors, strict=True))
    part.add(
        policy=policy,
        execution=execution.name,
        batch=batch,
        tokens=bench.sizes.equal_tokens,
        median_step_s=median(steps.period_s),
        median_duration_s=median(steps.duration_s),
        median_floor_s=median(floors),
        ratio=ratio,
        weights_read=weights,
        bytes_per_token=token,
        steps=len(steps.period_s),
    )
    bench.tell(f"{what}: {_ms(median(steps.period_s))} a step, {ratio:.2f} times its floor")


def serve_batch(
    bench: Bench, network: Network, name: str, batch: int, steps: int, on_step: OnStep | None = None
) -> Served:
    """Let rows of the same length decode so many steps together.

    Raises:
        NoRoom: Memory does not hold them.
    """
    tokens = bench.sizes.equal_tokens
    shape = Shape("steps", [tokens] * batch, [steps + 2] * batch)
    policy, requests = policy_named(name, batch), shape.requests()
    kv_tokens = shape.kv_tokens(policy)
    needed = needs_of(network, [policy], requests).total(kv_tokens)
    check_room(f"{batch} rows of {tokens:,} tokens", needed, budget_of(network))
    return bench.serve(network, policy, requests, kv_tokens, on_step)


def profiled_step(bench: Bench, batch: int) -> dict[str, Any]:
    """Return what the kernels of a step of ragged BATON in graphs take in all, and its time by the clock.

    A few steps in the middle are profiled, launched from an idle device and awaited to the end. Profiling slows the
    host, so that the clock is of steps without it, in the same run.
    """
    cuda = bench.device.type == "cuda"
    traced = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
    first, heard = max(UNPROFILED_STEPS, bench.sizes.steps // 2), itertools.count()

    def on_step(*_: object) -> None:
        place = next(heard)
        if place in (first, first + PROFILED_STEPS):
            bench.wait()
            (traced.start if place == first else traced.stop)()

    network = bench.network(GRAPHS)
    served = serve_batch(bench, network, RAGGED, batch, first + 2 * PROFILED_STEPS, on_step)
    steps = steady_steps(served.records[: first - 1], batch)
    kernels: list[tuple[float, int, str]] = []
    for event in traced.key_averages():
        total_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        kernels.append((total_us / 1e6 / PROFILED_STEPS, event.count, event.key))
    kernels.sort(reverse=True)
    return {
        "batch": batch,
        "wall_s": median(steps.period_s),
        "kernels_s": sum(seconds for seconds, _, _ in kernels),
        "launched": sum(count for _, count, _ in kernels) / PROFILED_STEPS,
        "longest": [
            {"name": name[:80], "seconds": seconds, "launched": count / PROFILED_STEPS}
            for seconds, count, name in kernels[:KERNELS]
        ],
    }


def weights_read(network: Network) -> int:
    """Bytes of the weights that every decode step reads: all but an input embedding that is not the head as well."""
    embedding = network.module.get_input_embeddings().weight
    tied = network.dimensions.tied_embeddings
    return network.weight_bytes - (0 if tied else embedding.numel() * embedding.element_size())


def steady_steps(records: Slice, batch: int) -> Steps:
    """Return the steps of a full batch that do nothing but decode, and are followed by another."""
    places = [*_steady(records, batch)]
    start, duration, read = records["start_s"], records["duration_s"], records["kv_read"]
    followed = [place for place, after in itertools.pairwise(places) if after == place + 1]
    return Steps(
        [float(start[place + 1] - start[place]) for place in followed],
        [float(duration[place]) for place in followed],
        [int(read[place]) for place in followed],
    )


def _steady(records: Slice, batch: int) -> Iterator[int]:
    for place, record in enumerate(records):
        changes = record["prefill_rows"] + record["inserted_rows"] + record["kv_copied"] + record["kv_host"]
        if record["rows"] == batch and not changes:
            yield place


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"
