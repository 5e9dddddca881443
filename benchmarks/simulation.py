"""How fast the simulator is, in units of a bare SimPy timeout timed just before and after each figure.

python -m benchmarks.simulation                     everything, several minutes
python -m benchmarks.simulation --requests 100000   smaller runs
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import simpy
from rich.console import Console
from rich.table import Table

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from sim.calibration.command import read_named
from sim.engine.engine import Engine
from sim.engine.iteration_log import IterationLog
from workloads import ShareGPT
from workloads.requests import Requests

ROWS = 128
KV_TOKENS = 2_000_000
GPU = read_named("hardware", "h100_sxm").deployed(read_named("engine", "vllm"), 1)
MODEL = read_named("model", "llama3_8b")
POLICIES: dict[str, Policy] = {
    "orca": Orca(max_batch=ROWS),
    "orca_per_request": Orca(max_batch=ROWS, attention="per_request"),
    "orca_rectangular": Orca(max_batch=ROWS, layout="rectangular"),
    "run_to_completion": RunToCompletion(max_batch=ROWS),
    "prefill_first": PrefillFirst(max_batch=ROWS),
    "chunked_prefill": ChunkedPrefill(max_batch=ROWS),
    "baton": Baton(max_batch=ROWS),
    "baton_window": Baton(max_batch=ROWS, reserve="window"),
    "baton_overlapped": Baton(max_batch=ROWS, prefill="overlapped"),
    "baton_dedicated": Baton(max_batch=ROWS, prefill="dedicated"),
}


def bare_timeout() -> float:
    """Return the CPU seconds of one SimPy timeout in an otherwise empty process."""
    count = 100_000

    def process(env: simpy.Environment) -> Iterator[simpy.Event]:
        for _ in range(count):
            yield env.timeout(1.0)

    env = simpy.Environment()
    env.process(process(env))  # type: ignore[arg-type]
    start = time.process_time()
    env.run()
    return (time.process_time() - start) / count


def in_timeouts(work: Callable[[], float], repeats: int = 5) -> float:
    """Return the median of the CPU seconds that `work` reports, over the timeout's before and after each."""
    ratios = []
    before = bare_timeout()
    for _ in range(repeats):
        seconds = work()
        after = bare_timeout()
        ratios.append(seconds / ((before + after) / 2))
        before = after
    return statistics.median(ratios)


def simulate(requests: Requests, policy: Policy, stretch: bool = True, kv_tokens: int = KV_TOKENS) -> float:
    """Return the CPU seconds of a run on calibrated hardware, results not written."""
    cost = GPU.cost_model(MODEL, policy.traits)
    engine = Engine(requests, policy, cost, IterationLog(), kv_tokens, stretch=stretch)
    start = time.process_time()
    engine.run()
    return time.process_time() - start


def long_answers(tokens: int) -> Requests:
    """Return one full batch of equal requests: after the first, every iteration but the last changes nothing."""
    ones = np.ones(ROWS, dtype=np.int64)
    zeros = np.zeros(ROWS, dtype=np.int64)
    return Requests(zeros.astype(float), ones, ones * tokens, ones * tokens, zeros, zeros - 1, zeros)


def unchanged_iteration(policy: Policy, stretch: bool) -> float:
    """Return bare timeouts per iteration that changes nothing."""
    short, long = 500, 10_500
    ample = 4 * ROWS * long  # a rectangle that grows needs room for two

    def seconds(tokens: int) -> float:
        return simulate(long_answers(tokens), policy, stretch, ample)

    def work() -> float:
        return (seconds(long) - seconds(short)) / (long - short)

    return in_timeouts(work)


def per_request(policy: Policy, count: int) -> float:
    """Return bare timeouts per saturated ShareGPT request, all its iterations included."""
    requests = ShareGPT(num_requests=count).build(0)
    return in_timeouts(lambda: simulate(requests, policy) / count, repeats=3)


def speed_up_from_stretching(policy: Policy) -> float:
    """Return how many times faster a lightly loaded run is when promised iterations are stretched."""
    requests = ShareGPT(num_requests=1000, rate=0.5).build(0)
    ratios = [simulate(requests, policy, stretch=False) / simulate(requests, policy) for _ in range(3)]
    return statistics.median(ratios)


def whole_command(name: str, count: int) -> tuple[float, float]:
    """Return the wall seconds and the peak memory, in MB, of the command from start to written results."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sim", f"+policy={name}", f"policy.max_batch={ROWS}"]
        options = [f"workload.num_requests={count}", f"kv_tokens={KV_TOKENS}", f"hydra.run.dir={folder}"]
        start = time.perf_counter()
        subprocess.run([*command, *options], check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Print every figure beside its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests of the whole-command runs")
    parser.add_argument("--policies", default=",".join(POLICIES), help="which policies, by comma")
    arguments = parser.parse_args()
    names, count = arguments.policies.split(","), arguments.requests
    console = Console(width=110)
    table = Table("policy", title="In bare SimPy timeouts, but for the last column")
    for column in ("iteration, stretched", "iteration, not stretched (<= 8)", "request (<= 10)", "light load (>= 10x)"):
        table.add_column(column, justify="right")
    for name in names:
        policy = POLICIES[name]
        figures = [unchanged_iteration(policy, True), unchanged_iteration(policy, False), per_request(policy, 30_000)]
        table.add_row(name, *(f"{figure:.2f}" for figure in figures), f"{speed_up_from_stretching(policy):.0f}x")
    console.print(f"a bare timeout takes {bare_timeout() * 1e6:.2f} us of CPU here", table)
    table = Table("policy", title=f"python -m sim, {count:,} ShareGPT requests, {ROWS} rows")
    for column in ("wall s", "requests/s", f"x of {count // 10:,} requests (<= 11)", "peak MB (<= 1,000)"):
        table.add_column(column, justify="right")
    for name in names:
        small, _ = whole_command(name, count // 10)
        seconds, peak = whole_command(name, count)
        table.add_row(name, f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{seconds / small:.1f}", f"{peak:,.0f}")
    console.print(table)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
