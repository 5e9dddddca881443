"""Are tokens the same whatever the execution and the policy (greedy, fp32), and is attention in bf16 right?"""

import itertools
import time

import torch

from benchmarks.gpu.bench import Bench, kv_tokens_for, policies_of
from benchmarks.gpu.record import Record
from real.model.attention import Attention
from sim.engine.execution import EAGER, EXECUTIONS, Execution

Answers = dict[int, list[int]]
"""The tokens of every answer."""


def attention_error(device: torch.device) -> float:
    """Return the relative error of decode attention in bf16, 8 rows of up to 1,024 tokens, heads as in Llama 3 8B."""
    random = torch.Generator(device).manual_seed(0)
    drawn = [torch.randn(shape, generator=random, device=device) for shape in ((8, 32, 128), (8, 8, 1024, 128))]
    drawn.append(torch.randn(drawn[1].shape, generator=random, device=device))
    query, keys, values = (tensor.bfloat16() for tensor in drawn)
    lengths = torch.arange(8, device=device) * 146
    found = Attention("sdpa", None).rows(query, keys, values, 128**-0.5, lengths)
    wanted = Attention("eager", None).rows(query.double(), keys.double(), values.double(), 128**-0.5, lengths)
    return float((found.double() - wanted).norm() / wanted.norm())


def measure(bench: Bench, record: Record, until: float) -> None:
    """Serve the same requests with every policy in both executions, and compare all answers with the first's."""
    sizes = bench.sizes
    requests = bench.sharegpt(sizes.exact_requests, sizes.exact_tokens)
    policies = policies_of(sizes.exact_rows)
    network = bench.network(sizes.exact_model, EAGER, "float32")
    kv_tokens = kv_tokens_for(network, policies.values(), requests)
    record.say(
        attention_error=attention_error(network.device),
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
