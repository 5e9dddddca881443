"""Are the kernels right on this device, and are tokens the same in graphs as eager (greedy, fp32)?"""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, OutOfTime, Served, kv_tokens_for, policy_named
from benchmarks.gpu.findings import Part
from real.model.attention import Attention
from sim.engine.execution import EAGER, GRAPHS
from workloads.requests import Requests

ROOT = Path(__file__).parents[2]
TESTS = "tests/real/model/test_kernels.py"
OPTIONS = ("-o", "addopts=", "-q", "--tb=short", "-W", "default", "-p", "no:cacheprovider")
"""A warning of some other version of a library is no failure of a kernel."""

LAST_LINES = 40
"""Of what failing tests say, so many lines are kept."""


def measure_kernels(bench: Bench, part: Part, until: float) -> None:
    """Find the errors of attention in bf16, then run the tests of the kernels in a process of its own.

    A kernel that reads where it must not leaves a process without its GPU: this one stays fit.
    """
    part.say(attention_errors=attention_errors(bench.device))
    told = ", ".join(f"{name} {error:.2%}" for name, error in part.found["attention_errors"].items())
    bench.tell(f"attention in bf16 against float64: {told}")
    part.add(**kernel_tests(max(1.0, until - time.perf_counter()), bench.sizes.kernel_tests))
    bench.tell(f"{TESTS}: {part.found['rows'][0]['said']}")


def attention_errors(device: torch.device) -> dict[str, float]:
    """Return the relative errors of decode attention in bf16, 8 rows of up to 1,024 tokens, heads as in Llama 3 8B.

    Once with rows in a rectangle, once with tokens in slots of a pool, in an order of chance, that a table names.
    """
    random = torch.Generator(device).manual_seed(0)
    query, keys, values = (
        torch.randn(shape, generator=random, device=device).bfloat16()
        for shape in ((8, 32, 128), (8, 8, 1024, 128), (8, 8, 1024, 128))
    )
    lengths, scale = torch.arange(8, device=device) * 146, 128**-0.5
    table = torch.randperm(8 * 1024, generator=random, device=device).view(8, 1024)
    pool = torch.empty(2, 8 * 1024, 8, 128, device=device, dtype=torch.bfloat16)
    pool[:, table] = torch.stack([keys, values]).transpose(2, 3)
    wanted = Attention("eager", None).rows(query.double(), keys.double(), values.double(), scale, lengths)
    attention = Attention("sdpa", None)
    return {
        "rows": relative_error(attention.rows(query, keys, values, scale, lengths), wanted),
        "table": relative_error(attention.rows(query, pool[0], pool[1], scale, lengths, table), wanted),
    }


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference, relative to what is wanted."""
    return float((found.double() - wanted).norm() / wanted.norm())


def kernel_tests(limit_s: float, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Run the tests of the kernels; return whether they passed, what pytest said last, and their failures."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, TESTS, *chosen]
    start = time.perf_counter()
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"passed": None, "said": f"not over after {limit_s:.0f} s", "seconds": limit_s}
    lines = (ended.stdout.strip() or ended.stderr.strip()).splitlines()
    return {
        "passed": ended.returncode == 0,
        "said": re.sub(r"^=+ | =+$", "", lines[-1]) if lines else f"exit code {ended.returncode}",
        "seconds": time.perf_counter() - start,
        "failures": [] if ended.returncode == 0 else lines[-LAST_LINES:],
    }


def measure_tokens(bench: Bench, part: Part, until: float) -> None:
    """Serve the same requests eager and in graphs, policy by policy, and compare every answer."""
    sizes = bench.sizes
    requests = bench.sharegpt(sizes.exact_requests, sizes.exact_tokens)
    part.say(
        model=sizes.exact_model,
        dtype="float32",
        num_requests=len(requests),
        longest=sizes.exact_tokens,
        max_batch=sizes.exact_rows,
    )
    first: Mapping[int, list[int]] | None = None
    for name in sizes.exact_policies:
        if time.perf_counter() > until:
            part.left_out(name, "no time")
            continue
        try:
            eager, recorded = (_serve(bench, name, requests, how == "graphs") for how in ("eager", "graphs"))
        except OutOfTime as error:
            part.left_out(name, str(error))
            continue
        first = first or eager.generated
        differing = differences(eager.generated, recorded.generated)
        gaps: dict[int, float] = {}
        if differing:
            again = _serve(bench, name, requests, False, with_logits=True)
            gaps = {request: gap_of(again, recorded.generated[request], request) for request in differing}
        part.add(
            policy=name,
            requests=len(requests),
            same_as_eager=len(requests) - len(differing),
            same_as_first=len(requests) - len(differences(first, eager.generated)),
            gaps=gaps,
        )
        bench.tell(f"{name}: {len(requests) - len(differing)} of {len(requests)} answers alike, eager and in graphs")


def _serve(bench: Bench, name: str, requests: Requests, recorded: bool, with_logits: bool = False) -> Served:
    policy = policy_named(name, bench.sizes.exact_rows)
    network = bench.network(GRAPHS if recorded else EAGER, bench.sizes.exact_model, "float32")
    kv_tokens = kv_tokens_for(network, [policy], requests)
    return bench.serve(network, policy, requests, kv_tokens, with_logits=with_logits)


def differences(one: Mapping[int, list[int]], other: Mapping[int, list[int]]) -> list[int]:
    """Return the requests whose answers differ."""
    return [request for request, tokens in one.items() if tokens != other.get(request)]


def gap_of(eager: Served, tokens: Sequence[int], request: int) -> float:
    """Return by how much the eager logits prefer their token to the other one, where two answers part.

    Relative to the largest of these logits. Sums in fp32 depend on their order: a gap of some 1e-6 is a tie, and either
    token is right; a larger one is an error.
    """
    for own, other, logits in zip(eager.generated[request], tokens, eager.logits[request], strict=False):
        if own != other:
            return float((logits[own] - logits[other]) / logits.abs().max())
    return 0.0
