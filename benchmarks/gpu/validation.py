"""The simulator, after one profile, on two workloads that the profile did not see: first predicted, then measured."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.gpu.bench import Bench, kv_tokens_for
from benchmarks.gpu.profiles import compared
from benchmarks.gpu.record import Record
from policies.execution import GRAPHS
from real.machine import machine_of
from real.options import ValidateOptions
from real.validate import Validation
from sim.calibration.catalogue import read_named
from sim.results import make_folder
from workloads.requests import Requests
from workloads.reshape import capped

UNSEEN_SEED = 1
"""Other requests than those of any other section."""

KINDS = {"throughput": "output_throughput", "mean TTFT": "mean_ttft_ms", "mean E2E": "mean_e2el_ms"}


def measure(bench: Bench, record: Record, until: float) -> None:
    """Validate the profile of recorded decode steps.

    Raises:
        RuntimeError: There is no profile.
    """
    profile = bench.profiles.get(GRAPHS)
    if profile is None:
        raise RuntimeError("there is no profile of recorded decode steps to validate")
    sizes, network = bench.sizes, bench.network(bench.models[0], GRAPHS)
    policies, workloads = compared(bench, sizes.batch), workloads_of(bench)
    folder = make_folder(bench.folder / "validate")
    validation = Validation(
        network,
        policies,
        profile,
        workloads,
        folder,
        kv_tokens=kv_tokens_for(network, policies.values(), *workloads.values()),
        options=ValidateOptions(limit_s=max(0.0, until - time.perf_counter()), rounds=min(3, sizes.rounds)),
        seed=bench.seed,
        machine=machine_of(network, "sdpa"),
        on_round=lambda share: bench.tell(f"{100 * min(1.0, share):.0f} % of the time"),
    )
    report = validation.run()
    for kind, error in errors(report):
        record.add(kind=kind, error=error)
    record.say(
        model=bench.models[0],
        longest=sizes.longest,
        max_batch=sizes.batch,
        profile=profile.name,
        report="validate/validation.json",
        rounds=[load["rounds"] for load in report["loads"]],
        worst=worst(report),
    )


def workloads_of(bench: Bench) -> dict[str, Requests]:
    """Return requests of ShareGPT's lengths and of the Orca paper's synthetic ones, none longer than is measured."""
    sizes = bench.sizes
    count = sizes.batch * sizes.requests_per_row
    synthetic = replace(read_named("workload", "synthetic"), num_requests=count)
    return {
        "sharegpt": bench.sharegpt(count, sizes.longest, seed=UNSEEN_SEED),
        "synthetic": capped(synthetic.build(UNSEEN_SEED), sizes.longest),
    }


def errors(report: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the relative error of every figure that has a target."""
    for load in report["loads"]:
        for metrics in load["policies"].values():
            yield from ((kind, metrics[metric]["error"]) for kind, metric in KINDS.items() if metric in metrics)
        yield from (("ratios", ratio["error"]) for ratio in load["ratios"])


def worst(report: dict[str, Any]) -> dict[str, float]:
    """Return the largest error of each kind."""
    found: dict[str, float] = {}
    for kind, error in errors(report):
        found[kind] = max(found.get(kind, 0.0), error, key=abs)
    return found
