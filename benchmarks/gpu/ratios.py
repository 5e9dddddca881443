"""What BATON is worth against Orca, by batch: at equal execution and with the same KV memory, predicted and measured.

Throughput is requests per second of a whole run, all requests there at the start. The prediction simulates the same
requests with the profile of the same execution.
"""

import itertools
import time

from benchmarks.gpu.bench import Bench, kv_tokens_for
from benchmarks.gpu.profiles import compared
from benchmarks.gpu.record import Record
from policies.policy import Policy
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.simulation.simulation import simulate
from workloads.requests import Requests


def measure(bench: Bench, record: Record, until: float) -> None:
    """Measure both executions, recorded decode steps first."""
    sizes = bench.sizes
    record.say(model=bench.models[0], workload="sharegpt", length_scale=sizes.compared_scale, longest=sizes.longest)
    for execution, batch in itertools.product((GRAPHS, EAGER), sizes.compared_batches):
        if time.perf_counter() > until:
            record.left_out(f"{execution.name}, batch {batch}")
        else:
            _measure_batch(bench, record, execution, batch)


def _measure_batch(bench: Bench, record: Record, execution: Execution, batch: int) -> None:
    policies, network = compared(bench, batch), bench.network(bench.models[0], execution)
    sizes = bench.sizes
    requests = bench.sharegpt(batch * sizes.requests_per_row, sizes.longest, sizes.compared_scale)
    kv_tokens = kv_tokens_for(network, policies.values(), requests)
    for name, policy in policies.items():
        seconds = bench.serve(network, policy, requests, kv_tokens).seconds
        predicted = _predicted(bench, execution, policy, requests, kv_tokens)
        record.add(
            execution=execution.name,
            batch=batch,
            policy=name,
            num_requests=len(requests),
            output_tokens=int(requests.output_tokens.sum()),
            kv_tokens=kv_tokens,
            seconds=seconds,
            predicted_seconds=predicted,
        )
        told = "" if predicted is None else f", predicted {predicted:.2f} s"
        bench.tell(f"{execution.name}, batch {batch}, {name}: {seconds:.2f} s{told}")


def _predicted(bench: Bench, execution: Execution, policy: Policy, requests: Requests, kv_tokens: int) -> float | None:
    """Return the seconds that a simulation says; None without a profile."""
    profile = bench.profiles.get(execution)
    if profile is None:
        return None
    model = bench.network(bench.models[0], execution).dimensions
    result = simulate(requests, policy, profile, model, kv_tokens=kv_tokens, execution=execution)
    duration = result.summary["duration_s"]
    assert duration is not None
    return float(duration)
