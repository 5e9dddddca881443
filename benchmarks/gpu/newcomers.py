"""What newcomers cost: a step that prefills one beside everybody's decode, and the insertion of one into a row."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import (
    DEVICE_S,
    Bench,
    NoRoom,
    OutOfTime,
    budget_of,
    check_room,
    kv_tokens_for,
    median,
    policy_named,
)
from benchmarks.gpu.findings import Part
from policies.baton import Baton
from policies.ledger.opening import make_ledger
from policies.plan import Plan
from policies.queue import declared
from real.layouts import executor_for
from real.layouts.sequences import Sequences
from real.model.network import Network
from real.profiling.shapes import Shape
from real.serving.memory import needs_of
from real.serving.prompts import random_prompts
from sim.engine.arrivals import arrivals_of
from sim.engine.execution import GRAPHS
from sim.engine.iteration_log import Slice

FACTOR, OVERHEAD_S = 3, 50e-6
"""An insertion may take FACTOR x (bytes of its KV) / copy bandwidth + OVERHEAD_S."""

WARMING = 2
"""Insertions that are not counted: the first ones load what copies."""


def measure_mixed(bench: Bench, part: Part, until: float) -> None:
    """Time a step with a newcomer in every layout, twice: what the first takes longer is compiling and loading."""
    rows, tokens = bench.sizes.mixed_rows, bench.sizes.mixed_tokens
    # Rows leave one by one, and for each of them a newcomer is prefilled beside those that stay.
    shape = Shape("mixed", [tokens] * (rows + 2), [*range(4, 4 + rows), 4, 4])
    for name in bench.sizes.compared:
        if time.perf_counter() > until:
            part.left_out(name, "no time")
            continue
        policy, network = policy_named(name, rows), bench.network(GRAPHS)
        try:
            kv_tokens = kv_tokens_for(network, [policy], shape.requests())
            times = [times_of(bench.serve(network, policy, shape.requests(), kv_tokens).records) for _ in range(2)]
        except (NoRoom, OutOfTime) as error:
            part.left_out(name, str(error))
            continue
        first, second = (each["wall_s"] for each in times)
        part.add(policy=name, rows=rows, tokens=tokens, first_s=first, compile_s=first - second, **times[1])
        bench.tell(f"{name}: a newcomer of {tokens} tokens {1e3 * second:.1f} ms, the first {1e3 * first:.1f} ms")


def times_of(records: Slice) -> dict[str, Any]:
    """Return the time of steps that prefill while others wait or decode, the mean by the clock and by the device.

    `wall_s` is of the first of them, `device_s` of the same, None where no column of the log has it.
    """
    later = records[(records["prefill_rows"] > 0) & (np.arange(len(records)) > 0)]
    first = later[:1]
    return {
        "wall_s": float(first["duration_s"][0]),
        "device_s": float(first[DEVICE_S][0]) if DEVICE_S in (records.dtype.names or ()) else None,
        "beside_rows": int(first["rows"][0]),
    }


def lanes_of(records: Slice) -> dict[str, Mapping[str, float | int]]:
    """Return the iterations with and without prefill: how many, their time by the clock and, if known, the device's."""
    found: dict[str, Mapping[str, float | int]] = {}
    for name, own in (("prefill", records["prefill_rows"] > 0), ("decode", records["prefill_rows"] == 0)):
        found[name] = {"iterations": int(own.sum()), "wall_s": float(records["duration_s"][own].sum())}
        if DEVICE_S in (records.dtype.names or ()):
            found[name] = {**found[name], "device_s": float(records[DEVICE_S][own].sum())}
    return found


def measure_insertions(bench: Bench, part: Part, until: float) -> None:
    """Time the insertion of newcomers of each length, one at a time: an iteration that does nothing else."""
    part.say(bandwidth=bench.bandwidth, factor=FACTOR, overhead_s=OVERHEAD_S)
    for tokens in bench.sizes.newcomers:
        if time.perf_counter() > until:
            part.left_out(f"{tokens:,} tokens", "no time")
            continue
        network = bench.network()
        try:
            wall, device = _insertions(bench, network, tokens)
        except NoRoom as error:
            part.left_out(f"{tokens:,} tokens", str(error))
            continue
        size = tokens * network.dimensions.kv_bytes_per_token
        bound = FACTOR * size / bench.bandwidth + OVERHEAD_S
        part.add(
            tokens=tokens, kv_bytes=size, median_s=median(wall), bound_s=bound, wall_s=wall, device_s=device
        )  # fmt: skip
        bench.tell(f"{tokens} tokens: {1e6 * median(wall):.0f} us, bound {1e6 * bound:.0f} us")


def _insertions(bench: Bench, network: Network, tokens: int) -> tuple[list[float], list[float] | None]:
    """Insert newcomers beside one row; return seconds by the clock, and on a GPU those of the device."""
    newcomers = bench.sizes.insertions + WARMING
    shape = Shape("insertion", [tokens] * (newcomers + 1), [2] * (newcomers + 1))
    policy, requests = Baton(max_batch=newcomers + 1), shape.requests()
    kv_tokens = shape.kv_tokens(policy)
    check_room("insertion", needs_of(network, [policy], requests).total(kv_tokens), budget_of(network))
    ledger = make_ledger(policy, kv_tokens, declared)
    sequences = Sequences(random_prompts(requests, network.dimensions.vocabulary, bench.seed))
    executor = executor_for(policy, network, ledger, sequences)
    first, *others = arrivals_of(requests).take(0.0)
    ledger.submit([first, *others])
    wall: list[float] = []
    device: list[float] = []

    def run(plan: Plan) -> None:
        ledger.begin(0, plan)
        sequences.extend(executor.run(0, plan).tokens)
        ledger.commit(0, ())

    with torch.inference_mode():
        run(Plan(prefill=[first]))
        for job in others:
            bench.check()
            run(Plan(prefill=[job], apart=True))
            plan = Plan(insert=[job.id])
            ledger.begin(0, plan)
            seconds = _timed(network.device, partial(executor.run, 0, plan))
            ledger.commit(0, ())
            wall.append(seconds[0])
            device += seconds[1:]
    return wall[WARMING:], device[WARMING:] or None


def _timed(device: torch.device, action: Callable[[], object]) -> list[float]:
    """Return what an action takes by the clock, until the device is idle again, and on a GPU what it says itself."""
    if device.type != "cuda":
        start = time.perf_counter()
        action()
        return [time.perf_counter() - start]
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    begun.record()
    action()
    ended.record()
    torch.cuda.synchronize(device)
    return [time.perf_counter() - start, begun.elapsed_time(ended) / 1e3]
