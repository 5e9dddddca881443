"""How long it takes to insert a newcomer into a row of the batch.

An iteration that does nothing else is timed: the newcomer's keys and values lie beside the rectangle, and are copied
into a row of it, over all layers. The bound is 3 x (bytes of its KV) / copy bandwidth + 50 us.
"""

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.bench import Bench, median, token_bytes
from benchmarks.gpu.record import Record
from policies.baton import Baton
from policies.ledger.opening import make_ledger
from policies.plan import Plan
from policies.queue import declared
from real.layouts import executor_for
from real.layouts.sequences import Sequences
from real.model.network import Network
from real.profiling.shapes import Shape
from real.serving.prompts import random_prompts
from sim.engine.arrivals import arrivals_of
from sim.engine.execution import EAGER

FACTOR, OVERHEAD_S = 3, 50e-6
WARMING = 2
"""Insertions that are not counted: the first ones load what copies."""


def measure(bench: Bench, record: Record, until: float) -> None:
    """Time the insertion of newcomers of each length, one at a time."""
    network = bench.network(bench.models[0], EAGER)
    record.say(model=bench.models[0], bandwidth=bench.bandwidth, factor=FACTOR, overhead_s=OVERHEAD_S)
    for tokens in bench.sizes.newcomers:
        if time.perf_counter() > until:
            record.left_out(f"{tokens:,} tokens")
            continue
        wall, device = _insertions(bench, network, tokens)
        size = tokens * token_bytes(network)
        bound = FACTOR * size / bench.bandwidth + OVERHEAD_S
        record.add(
            tokens=tokens,
            kv_bytes=size,
            median_s=median(wall),
            bound_s=bound,
            wall_s=wall,
            device_s=device,
        )
        bench.tell(f"{tokens} tokens: {1e6 * median(wall):.0f} us, bound {1e6 * bound:.0f} us")


def _insertions(bench: Bench, network: Network, tokens: int) -> tuple[list[float], list[float] | None]:
    """Insert newcomers beside one row; return seconds by the clock, and on a GPU those of the device."""
    newcomers = bench.sizes.insertions + WARMING
    shape = Shape("insertion", [tokens] * (newcomers + 1), [2] * (newcomers + 1))
    policy = Baton(max_batch=newcomers + 1)
    requests = shape.requests()
    ledger = make_ledger(policy, shape.kv_tokens(policy), declared)
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
