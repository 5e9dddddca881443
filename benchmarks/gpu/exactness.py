"""Are tokens the same whatever the execution and the policy? Greedy, fp32."""

import itertools
import time

from benchmarks.gpu.bench import Bench, kv_tokens_for, policies_of
from benchmarks.gpu.record import Record
from policies.execution import EAGER, EXECUTIONS, Execution

Answers = dict[int, list[int]]
"""The tokens of every answer."""


def measure(bench: Bench, record: Record, until: float) -> None:
    """Serve the same requests with every policy in both executions, and compare all answers with the first's."""
    sizes = bench.sizes
    requests = bench.sharegpt(sizes.exact_requests, sizes.exact_tokens)
    policies = policies_of(sizes.exact_rows)
    kv_tokens = kv_tokens_for(bench.network(sizes.exact_model, EAGER, "float32"), policies.values(), requests)
    record.say(
        model=sizes.exact_model,
        dtype="float32",
        num_requests=len(requests),
        longest=sizes.exact_tokens,
        max_batch=sizes.exact_rows,
    )
    first: Answers | None = None
    eager: dict[str, Answers] = {}
    for name, execution in itertools.product(policies, EXECUTIONS):
        if time.perf_counter() > until:
            record.left_out(f"{name} {execution}")
            continue
        network = bench.network(sizes.exact_model, Execution(execution), "float32")
        generated = bench.serve(network, policies[name], requests, kv_tokens).generated
        first = first or generated
        if execution == EAGER.name:
            eager[name] = generated
        differing = [request for request, tokens in generated.items() if tokens != eager[name][request]]
        record.add(
            policy=name,
            execution=execution,
            requests=len(generated),
            same_as_eager=len(generated) - len(differing),
            same_as_first=sum(tokens == first[request] for request, tokens in generated.items()),
            differing=differing,
        )
    bench.tell(f"{len(policies)} policies, eager and graphs")
