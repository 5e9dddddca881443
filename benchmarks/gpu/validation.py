"""The simulator, after one profile, on two workloads that the profile did not see: first predicted, then measured."""

import time
from dataclasses import replace

from benchmarks.gpu.bench import Bench, kv_tokens_for
from benchmarks.gpu.profiles import compared
from benchmarks.gpu.record import Record
from real.configuration import ValidateOptions
from real.serving.machine import machine_of
from real.validation.limits import errors
from real.validation.validation import Validation
from sim.calibration.command import read_named
from sim.engine.execution import GRAPHS
from sim.output.writing import make_folder
from workloads.requests import Requests
from workloads.reshape import capped

UNSEEN_SEED = 1
"""Other requests than those of any other section."""


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
    found = errors(report)
    for kind, each in found.items():
        for error in each:
            record.add(kind=kind, error=error)
    record.say(
        model=bench.models[0],
        longest=sizes.longest,
        max_batch=sizes.batch,
        profile=profile.name,
        report="validate/validation.json",
        rounds=[load["rounds"] for load in report["loads"]],
        worst={kind: max(each, key=abs) for kind, each in found.items()},
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
