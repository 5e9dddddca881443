"""Throughput of the real engine beside transformers' own, on the same requests: `python -m benchmarks.real`.

48 requests with lengths of ShareGPT's shape, about 55 tokens of prompt and of answer on average, all there at once; a
Llama of 34 million parameters in fp32 on the CPU; at most 8 requests in a batch. Everybody takes a turn in each round;
reported are medians over the rounds, of tokens per second and of ratios within a round.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.architecture import configuration
from real.attention import Step
from real.engine import Engine
from real.network import Network, random_network
from real.prompts import random_prompts
from sim.log import IterationLog
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

Contender = Callable[[], float]
"""Serves all requests once; returns seconds."""


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


@torch.inference_mode()
def generate(model: torch.nn.Module, requests: Requests, prompts: Sequence[Sequence[int]]) -> float:
    """Static batches of transformers: padded on the left, each run until its longest answer ends."""
    start = time.perf_counter()
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
        new = int(requests.output_tokens[first : first + BATCH].max())
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        model.generate(ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
    return time.perf_counter() - start


def generate_batch(model: torch.nn.Module, requests: Requests, prompts: Sequence[Sequence[int]]) -> float:
    """Continuous batching of transformers; its start-up and warm-up are not counted."""
    config = GenerationConfig(max_new_tokens=int(requests.output_tokens.max()), do_sample=False, eos_token_id=-1)
    limits = ContinuousBatchingConfig(max_requests_per_batch=BATCH, num_blocks=64, max_batch_tokens=1024)
    with model.continuous_batching_context_manager(  # type: ignore[operator]
        generation_config=config, continuous_batching_config=limits, timeout=5
    ) as manager:
        start = time.perf_counter()
        for prompt, new in zip(prompts, requests.output_tokens.tolist(), strict=True):
            manager.add_request(list(prompt), max_new_tokens=new)
        left = len(prompts)
        while left:
            result = manager.get_result(timeout=1)
            left -= bool(result and result.is_finished())
            if not manager.is_running():
                raise SystemExit("transformers' continuous batching stopped early")
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
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration(SMALL_LLAMA), dtype=torch.float32).eval()
    print(
        f"{len(requests)} requests, prompts {requests.prompt_tokens.mean():.0f} and answers "
        f"{requests.output_tokens.mean():.0f} tokens on average; {options.threads} threads, torch {torch.__version__}"
    )
    contenders: dict[str, Contender] = {
        name: (lambda policy=policy: ours(policy, network, requests, prompts))  # type: ignore[misc]
        for name, policy in POLICIES.items()
    }
    contenders["generate"] = lambda: generate(model, requests, prompts)
    contenders["generate_batch"] = lambda: generate_batch(model, requests, prompts)
    print_table(rounds(contenders, options.rounds), int(requests.output_tokens.sum()))
    share = outside_forward(network, contenders["baton"])
    print(f"outside the model's forward, baton: {100 * share:.1f} % of a step (target: 5 %)")


def rounds(contenders: dict[str, Contender], count: int) -> dict[str, list[float]]:
    """Let everybody serve once per round, in an order that turns; return seconds by name."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(count):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(contenders[name]())
            print(f"round {turn + 1}: {name} {taken[name][-1]:.2f} s", flush=True)
    return taken


def print_table(taken: dict[str, list[float]], tokens: int) -> None:
    """Print throughput, and how many times as fast BATON was."""
    print(f"{'':20}{'tokens/s':>10}{'baton is x times':>18}")
    for name, seconds in taken.items():
        speed = statistics.median(tokens / each for each in seconds)
        ratio = statistics.median(np.divide(seconds, taken["baton"]))
        print(f"{name:20}{speed:>10.0f}{ratio:>18.2f}")


if __name__ == "__main__":
    main()
