"""How many tokens per second every policy makes of the same requests, and how many transformers' own ways do.

All requests are there at the start; everybody takes a turn in each round. What is recorded, compiled or started before
it serves is not counted on either side.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.gpu.bench import Bench, kv_tokens_for, median, policies_of, release
from benchmarks.gpu.record import Record
from benchmarks.rounds import Contender, Turns, rounds
from benchmarks.transformers_peers import generate, generate_batch, peer_model
from real.model.network import DTYPES
from real.serving.prompts import random_prompts
from sim.engine.execution import EAGER, GRAPHS, Execution
from workloads.requests import Requests

BATONS = ("baton_ragged", "baton")
"""What is held against the peers: an attention that reads each row's own tokens, and BATON as published."""

FIRST = (*BATONS, "orca", "orca_per_request", "run_to_completion")
"""Policies that are served first, in this order."""

PAGE = 256
"""KV tokens of a block of transformers' continuous batching."""

WARMING = 4
"""Tokens of the answers that warm a peer up."""

STATIC, CONTINUOUS = "generate", "generate_batch"
"""How the names of peers begin."""


def measure(bench: Bench, record: Record, until: float) -> None:
    """Let policies and peers take turns until time is up."""
    sizes = bench.sizes
    requests = bench.sharegpt(sizes.batch * sizes.requests_per_row, sizes.longest)
    tokens = int(requests.output_tokens.sum())
    record.say(
        model=bench.models[0],
        workload="sharegpt",
        longest=sizes.longest,
        num_requests=len(requests),
        prompt_tokens=int(requests.prompt_tokens.sum()),
        output_tokens=tokens,
        batch=sizes.batch,
    )
    peers = _peers(bench, requests)  # before ours: what it takes is not there for their KV memory
    ours = _ours(bench, requests)
    first = {name: ours[name] for name in (f"{policy} {GRAPHS.name}" for policy in BATONS)}
    turns = rounds(first | peers | ours, sizes.rounds, until, bench.tell)
    _write(record, turns, tokens)


def _write(record: Record, turns: Turns, tokens: int) -> None:
    for name in turns.taken:
        seconds = turns.seconds(name)
        if name in turns.failed:
            record.add(name=name, reason=turns.failed[name])
        elif seconds:
            record.add(name=name, seconds=turns.taken[name], median_tokens_per_s=median(tokens / s for s in seconds))
        else:
            record.left_out(name)


def _ours(bench: Bench, requests: Requests) -> dict[str, Contender]:
    policies = policies_of(bench.sizes.batch)
    ordered = [*FIRST, *(name for name in policies if name not in FIRST)]
    kv_tokens = kv_tokens_for(bench.network(bench.models[0], GRAPHS), policies.values(), requests)

    def serve(name: str, execution: Execution) -> float:
        return bench.serve(bench.network(bench.models[0], execution), policies[name], requests, kv_tokens).seconds

    return {f"{name} {how.name}": partial(serve, name, how) for how in (GRAPHS, EAGER) for name in ordered}


def _peers(bench: Bench, requests: Requests) -> dict[str, Contender]:
    """Return transformers' ways, on a model of its own; static batches are warmed up, so that nothing is compiled."""
    sizes, dimensions = bench.sizes, bench.network(bench.models[0], EAGER).dimensions
    model = peer_model(dimensions, bench.device, DTYPES[bench.dtype], bench.seed)
    prompts = random_prompts(requests, dimensions.vocabulary, bench.seed)
    short = replace(requests, output_tokens=np.minimum(requests.output_tokens, WARMING))
    static_cache = int(requests.prompt_tokens.max() + requests.output_tokens.max())
    limits = partial(
        ContinuousBatchingConfig,
        max_requests_per_batch=sizes.batch,
        num_blocks=2 * sizes.batch * -(-static_cache // PAGE),
        max_batch_tokens=max(1024, min(8192, sizes.batch * sizes.longest // 4)),
    )
    cold: dict[int | None, bool] = {None: True, static_cache: True}

    def in_static_batches(cache: int | None) -> float:
        release(bench.device)
        if cold[cache]:
            generate(model, short, prompts, sizes.batch, cache)
            cold[cache] = False
        return generate(model, requests, prompts, sizes.batch, cache)

    def continuously(**options: Any) -> float:
        release(bench.device)
        return generate_batch(model, requests, prompts, limits(**options))

    found: dict[str, Contender] = {CONTINUOUS: continuously}
    if bench.device.type == "cuda":
        found[f"{CONTINUOUS}, CUDA graphs"] = partial(continuously, use_cuda_graph=True)
    return found | {
        f"{STATIC}, static cache": partial(in_static_batches, static_cache),
        STATIC: partial(in_static_batches, None),
    }
