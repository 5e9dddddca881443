"""Throughput of the real engine beside transformers' own, on the same requests: `python -m benchmarks.real`.

48 requests with lengths of ShareGPT's shape, about 55 tokens of prompt and of answer on average, all there at once; a
Llama of 34 million parameters in fp32 on the CPU; at most 8 requests in a batch. Everybody takes a turn in each round;
reported are medians over the rounds, of tokens per second and of ratios within a round.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.rounds import Contender, Turns, rounds
from benchmarks.transformers_peers import generate, generate_batch, peer_model
from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.model.attention import Step
from real.model.network import Network, random_network
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.engine.iteration_log import IterationLog
from tests.real.models import dimensions
from workloads.requests import Requests
from workloads.sharegpt import ShareGPT

BATCH = 8
SMALL_LLAMA = dimensions("small_llama")
POLICIES: dict[str, Policy] = {
    "baton": Baton(max_batch=BATCH),
    "baton direct": Baton(max_batch=BATCH, embedding="direct"),
    "baton concatenate": Baton(max_batch=BATCH, embedding="concatenate"),
    "orca": Orca(max_batch=BATCH),
    "orca per_request": Orca(max_batch=BATCH, attention="per_request"),
    "run_to_completion": RunToCompletion(max_batch=BATCH),
}


def outside_forward(network: Network, serve: Contender) -> float:
    """Return the share of a run that is not spent in the model's forward pass."""
    forward, inside = network.forward, [0.0]

    def timed(ids: Tensor, positions: Tensor, step: Step, last: Tensor) -> Tensor:
        start = time.perf_counter()
        logits = forward(ids, positions, step, last)
        inside[0] += time.perf_counter() - start
        return logits

    network.forward = timed  # type: ignore[method-assign]
    seconds = serve()
    network.forward = forward  # type: ignore[method-assign]
    return 1 - inside[0] / seconds


def ours(policy: Policy, network: Network, requests: Requests, prompts: Sequence[Sequence[int]]) -> float:
    engine = Engine(requests, policy, network, prompts, IterationLog(), kv_tokens=40_000)
    start = time.perf_counter()
    engine.run()
    return time.perf_counter() - start


def workload(count: int) -> Requests:
    """ShareGPT first turns, prompts and answers each scaled to 55 tokens on average."""
    full = ShareGPT(num_requests=count, arrival="all_at_once").build(seed=0)
    prompts, outputs = (
        np.maximum(1, np.rint(tokens * (55 / tokens.mean()))).astype(np.int64)
        for tokens in (full.prompt_tokens, full.output_tokens)
    )
    return replace(full, prompt_tokens=prompts, output_tokens=outputs, max_new_tokens=np.full(count, outputs.max()))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    requests = workload(options.requests)
    prompts = random_prompts(requests, SMALL_LLAMA.vocabulary, seed=0)
    network = random_network(SMALL_LLAMA)
    model = peer_model(SMALL_LLAMA, torch.device("cpu"), torch.float32)
    limits = ContinuousBatchingConfig(max_requests_per_batch=BATCH, num_blocks=64, max_batch_tokens=1024)
    print(
        f"{len(requests)} requests, prompts {requests.prompt_tokens.mean():.0f} and answers "
        f"{requests.output_tokens.mean():.0f} tokens on average; {options.threads} threads, torch {torch.__version__}"
    )
    contenders: dict[str, Contender] = {
        name: (lambda policy=policy: ours(policy, network, requests, prompts))  # type: ignore[misc]
        for name, policy in POLICIES.items()
    }
    contenders["generate"] = lambda: generate(model, requests, prompts, BATCH)
    contenders["generate_batch"] = lambda: generate_batch(model, requests, prompts, limits)
    turns = rounds(contenders, options.rounds, tell=partial(print, flush=True))
    print_table(turns, int(requests.output_tokens.sum()))
    share = outside_forward(network, contenders["baton"])
    print(f"outside the model's forward, baton: {100 * share:.1f} % of a step (target: 5 %)")


def print_table(turns: Turns, tokens: int) -> None:
    """Print throughput, and how many times as fast BATON was."""
    print(f"{'':20}{'tokens/s':>10}{'baton is x times':>18}")
    for name in turns.taken:
        if name in turns.failed:
            print(f"{name:20}{turns.failed[name]}")
            continue
        speed = statistics.median(tokens / each for each in turns.seconds(name))
        ratio = statistics.median(turns.ratios(name, "baton"))
        print(f"{name:20}{speed:>10.0f}{ratio:>18.2f}")


if __name__ == "__main__":
    main()
