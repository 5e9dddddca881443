"""Are tokens the same whatever the execution and the policy? Greedy, fp32."""

import itertools

from benchmarks.gpu.bench import Bench, kv_tokens_for, policies_of
from benchmarks.gpu.record import Record
from policies.execution import EAGER, EXECUTIONS, Execution


def measure(bench: Bench, record: Record, until: float) -> None:
    """Serve the same requests with every policy in both executions, and compare all answers with the first's."""
    sizes = bench.sizes
    requests = bench.sharegpt(sizes.exact_requests, sizes.exact_tokens)
    policies = policies_of(sizes.exact_rows)
    network = bench.network(sizes.exact_model, EAGER, "float32")
    kv_tokens = kv_tokens_for(network, policies.values(), requests)
    record.say(model=sizes.exact_model, dtype="float32", num_requests=len(requests), max_batch=sizes.exact_rows)
    first: dict[int, list[int]] | None = None
    for name, execution in itertools.product(policies, EXECUTIONS):
        network = bench.network(sizes.exact_model, Execution(execution), "float32")
        generated = bench.serve(network, policies[name], requests, kv_tokens).generated
        first = first or generated
        if execution == "eager":
            eager = generated
        differing = [request for request, tokens in generated.items() if tokens != eager[request]]
        record.add(
            policy=name,
            execution=execution,
            requests=len(generated),
            same_as_eager=len(generated) - len(differing),
            same_as_first=sum(tokens == first[request] for request, tokens in generated.items()),
            differing=differing,
        )
    bench.tell(f"{len(policies)} policies, eager and graphs")
