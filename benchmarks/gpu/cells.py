"""What BATON is worth against Orca: the same requests, KV memory and execution, round by round, predicted before.

A cell is one such setting. Throughput is scored while the server is saturated, from the start until the last newcomer's
prefill begins: what comes after it is a queue that is empty and a batch that drains, which says little of a policy.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.bench import GRACE, LOADING, Bench, NoRoom, Served, check_room, kv_tokens_for, policy_named, release
from benchmarks.gpu.findings import Part
from benchmarks.gpu.newcomers import lanes_of
from benchmarks.rounds import Contender, in_one_line, rounds
from benchmarks.transformers_peers import Peers
from policies.policy import Policy
from real.model.network import DTYPES
from real.serving.machine import memory_left
from real.serving.memory import needs_of
from real.serving.prompts import random_prompts
from sim.engine.execution import GRAPHS, Execution
from sim.metrics.metrics import Summary
from workloads.requests import Requests
from workloads.streams import stream

WARMING_ROWS = 2
"""Requests of an untimed pass, for every row: each batch fills, is filled up, and drains."""

BATONS = ("baton_ragged", "baton")
"""What is held against transformers' ways."""

COMPILING_S = 120.0
"""Transformers' static cache is asked for only if so much time is left: what it runs is compiled first."""

UNSEEN_SEED = 1
"""Other requests than those of any other part."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting in which policies are compared.

    Attributes:
        batch: Rows.
        execution: How decode steps are run.
        rounds: Most rounds.
        per_row: Requests, for every row.
        scale: Factor of ShareGPT's lengths.
        longest: Tokens of the longest request.
        load: Arrivals as a share of the lowest predicted capacity; None: all are there at the start.
    """

    batch: int
    execution: Execution
    rounds: int
    per_row: int
    scale: float
    longest: int
    load: float | None = None

    @property
    def name(self) -> str:
        """The setting in words."""
        load = "" if self.load is None else f", load {self.load:g}"
        return f"batch {self.batch} {self.execution.name}, lengths x {self.scale:g} up to {self.longest}{load}"

    def facts(self) -> dict[str, Any]:
        """The setting as JSON."""
        return {
            "cell": self.name, "batch": self.batch, "execution": self.execution.name, "scale": self.scale,
            "longest": self.longest, "load": self.load, "num_requests": self.batch * self.per_row,
        }  # fmt: skip

    def requests(self, bench: Bench) -> Requests:
        """Return its requests, all there at the start."""
        return bench.sharegpt(self.batch * self.per_row, self.longest, self.scale, UNSEEN_SEED)


def policies_of(bench: Bench, cell: Cell) -> dict[str, Policy]:
    """Return those that are compared, those first that matter most."""
    return {name: policy_named(name, cell.batch) for name in bench.sizes.compared}


def measure(bench: Bench, part: Part, until: float, cells: Sequence[Cell]) -> None:
    """Measure cells, each in its share of the time."""
    stop = bench.until
    for place, cell in enumerate(cells):
        now = time.perf_counter()
        if now > until:
            part.left_out(cell.name, "no time")
            continue
        share = (until - now) / (len(cells) - place)
        bench.until = min(stop, now + share * (1 + GRACE))
        try:
            _measure(bench, part, now + share, cell)
        except NoRoom as error:
            part.left_out(cell.name, str(error))
            bench.tell(f"{cell.name}: left out: {error}")


def _measure(bench: Bench, part: Part, until: float, cell: Cell) -> None:
    network, policies, requests = bench.network(cell.execution), policies_of(bench, cell), cell.requests(bench)
    kv_tokens, rate = kv_tokens_for(network, policies.values(), requests), None
    few = first_of(requests, WARMING_ROWS * cell.batch)
    if cell.load is not None:
        rates = [row["rate"] for (name, _), row in bench.predicted.items() if name == cell.name]
        if not rates:
            part.left_out(cell.name, "its rate follows from a prediction, and there is none")
            return
        rate = rates[0]
        requests = at_rate(requests, rate, bench.seed)
    last: dict[str, Served] = {}

    def take(name: str) -> float:
        last[name] = bench.serve(network, policies[name], requests, kv_tokens)
        return last[name].seconds

    def keep(name: str, place: int, seconds: float) -> None:
        served = last.pop(name)
        part.keep(f"{cell.name}, {name}, round {place + 1}", served.records)
        found = facts_of(served.summary, cell) | lanes_of(served.records)
        part.add(**cell.facts(), policy=name, round=place, kv_tokens=kv_tokens, rate=rate, **found)

    contenders: dict[str, Contender] = {}
    for name, policy in policies.items():  # untimed: what is compiled, loaded or allocated at first
        if time.perf_counter() > until:
            part.left_out(f"{cell.name}, {name}", "no time")
            continue
        try:
            bench.serve(network, policy, few, kv_tokens)
            contenders[name] = partial(take, name)
        except Exception as error:  # it is out, the others are not
            part.left_out(f"{cell.name}, {name}", in_one_line(error))
    turns = rounds(contenders, cell.rounds, until, lambda said: bench.tell(f"{cell.name}, {said}"), on_turn=keep)
    for name in contenders:
        if not turns.seconds(name):
            part.left_out(f"{cell.name}, {name}", turns.failed.get(name, "no time"))


def first_of(requests: Requests, count: int) -> Requests:
    """Return the first so many requests."""
    few = slice(count)
    names = ("arrival_s", "prompt_tokens", "output_tokens", "max_new_tokens", "priority", "prefix_id", "prefix_tokens")
    return replace(requests, **{name: getattr(requests, name)[few] for name in names})


def at_rate(requests: Requests, rate: float, seed: int) -> Requests:
    """Return the requests as a Poisson process of so many a second, the first at 0."""
    gaps = stream(seed, "load").exponential(1 / rate, len(requests))
    return replace(requests, arrival_s=np.concatenate([[0.0], np.cumsum(gaps[1:])]))


def facts_of(summary: Summary, cell: Cell) -> dict[str, Any]:
    """Return what is compared of a run, measured or predicted: `score` in requests/s, latencies in seconds."""
    saturated = cell.load is None
    return {
        "score": score_of(summary, saturated),
        "saturated": bool(summary["saturated"]) if saturated else None,
        "waiting_share": summary["waiting_time_fraction"],
        "duration_s": summary["duration_s"],
        "output_throughput": summary["output_throughput"],
        "mean_ttft_s": _seconds(summary["mean_ttft_ms"]),
        "mean_e2e_s": _seconds(summary["mean_e2el_ms"]),
    }


def score_of(summary: Summary, saturated: bool) -> float:
    """Return requests per second, of the saturated part only or of the whole run."""
    found = summary["saturated_request_throughput" if saturated else "request_throughput"]
    return float(found or 0.0)


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1e3


def measure_peers(bench: Bench, part: Part, until: float) -> None:
    """Measure output tokens per second of ragged and padded BATON in graphs, and of transformers' own ways.

    Where memory does not hold two models, each gives way to the other between turns, which no clock counts.
    """
    sizes, dimensions = bench.sizes, bench.network(GRAPHS).dimensions
    requests = bench.sharegpt(sizes.batch * sizes.peer_per_row, sizes.longest, sizes.scale, UNSEEN_SEED)
    prompts = random_prompts(requests, dimensions.vocabulary, bench.seed)
    policies = {name: policy_named(name, sizes.batch) for name in BATONS}
    kv_tokens = kv_tokens_for(bench.network(GRAPHS), policies.values(), requests)
    peers = Peers(dimensions, bench.device, DTYPES[bench.dtype], requests, prompts, sizes.batch, bench.seed)
    peers.until = bench.until
    own = LOADING * dimensions.weight_bytes + peers.kv_tokens * dimensions.kv_bytes_per_token
    check_room("transformers' model", own, memory_left(bench.device))
    ours = needs_of(bench.network(GRAPHS), policies.values(), requests).total(kv_tokens)
    together = own + ours <= memory_left(bench.device)
    few = first_of(requests, WARMING_ROWS * sizes.batch)
    warm: set[str] = set()

    def serve(name: str) -> float:
        if not together:
            peers.drop()
        network = bench.network(GRAPHS)
        if name not in warm:
            bench.serve(network, policies[name], few, kv_tokens)
            warm.add(name)
        return bench.serve(network, policies[name], requests, kv_tokens).seconds

    def let(peer: Contender) -> float:
        bench.check()
        if together:
            release(bench.device)
        else:
            bench.drop()
        return peer()

    tokens = int(requests.output_tokens.sum())
    part.say(
        num_requests=len(requests), output_tokens=tokens, batch=sizes.batch, together=together, blocks=peers.blocks
    )
    compiled = bench.device.type == "cuda" and until - time.perf_counter() > COMPILING_S
    theirs: dict[str, Contender] = {name: partial(let, peer) for name, peer in peers.contenders(compiled).items()}
    contenders: dict[str, Contender] = {f"{name} {GRAPHS.name}": partial(serve, name) for name in BATONS} | theirs

    def keep(name: str, place: int, seconds: float) -> None:
        part.add(name=name, round=place, seconds=seconds, tokens_per_s=tokens / seconds)

    turns = rounds(contenders, sizes.peer_rounds, until, bench.tell, on_turn=keep)
    peers.drop()
    for name in contenders:
        if not turns.seconds(name):
            part.left_out(name, turns.failed.get(name, "no time"))
