"""What transformers itself offers for many requests: static batches (`generate`) and continuous ones.

Each returns seconds and checks that every answer had its length: a peer that stops early would look fast.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from real.model.architecture import configuration
from sim.cost.model import Model
from workloads.requests import Requests

WAIT_S = 1.0


def peer_model(model: Model, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """Return a model of these dimensions with random weights, as transformers has it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        module: PreTrainedModel = AutoModelForCausalLM.from_config(configuration(model), dtype=dtype)
    return module.eval()


@torch.inference_mode()
def generate(
    model: Any, requests: Requests, prompts: Sequence[Sequence[int]], batch: int, static_cache: int | None = None
) -> float:
    """Serve static batches: padded on the left, each run until its longest answer ends.

    Args:
        model: A model of transformers.
        requests: The workload; arrivals do not count.
        prompts: Tokens of every prompt.
        batch: Rows.
        static_cache: KV tokens per row that are allocated whatever the batch, prompts then padded to one length: what
            decodes is compiled where transformers does that, which is on GPUs, and compiled once; None: as it grows.
    """
    longest_prompt = max(map(len, prompts))
    start = time.perf_counter()
    for first in range(0, len(prompts), batch):
        rows = prompts[first : first + batch]
        width = max(map(len, rows)) if static_cache is None else longest_prompt
        ids, mask = _padded_left(rows, width, model.device)
        new = int(requests.output_tokens[first : first + batch].max())
        options: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        if static_cache is not None:
            options |= {"cache_implementation": "static", "max_cache_len": static_cache}
        made = model.generate(ids, attention_mask=mask, generation_config=GenerationConfig(**options))
        if made.shape[1] != width + new:
            raise RuntimeError(f"generate stopped after {made.shape[1] - width} of {new} tokens")
    _wait(model.device)
    return time.perf_counter() - start


def _padded_left(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    fill = [width - len(row) for row in rows]
    ids = [[0] * count + list(row) for count, row in zip(fill, rows, strict=True)]
    mask = [[0] * count + [1] * len(row) for count, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def generate_batch(
    model: Any, requests: Requests, prompts: Sequence[Sequence[int]], limits: ContinuousBatchingConfig
) -> float:
    """Serve with continuous batching; its start-up and warm-up are not counted.

    On a GPU it serves other prompts of the same lengths first: a CUDA graph is captured when its shape first comes up.
    """
    outputs = requests.output_tokens.tolist()
    config = GenerationConfig(max_new_tokens=max(outputs), do_sample=False, eos_token_id=-1)
    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=limits, timeout=5
    ) as manager:
        if model.device.type == "cuda":
            vocabulary = model.config.vocab_size
            _answered(manager, [[(token + 1) % vocabulary for token in prompt] for prompt in prompts], outputs)
        start = time.perf_counter()
        _answered(manager, prompts, outputs)
        return time.perf_counter() - start


def _answered(manager: Any, prompts: Sequence[Sequence[int]], outputs: Sequence[int]) -> None:
    """Have every prompt answered with as many tokens as it is to get."""
    for prompt, new in zip(prompts, outputs, strict=True):
        manager.add_request(list(prompt), max_new_tokens=new)
    left, tokens = len(prompts), 0
    while left:
        result = manager.get_result(timeout=WAIT_S)
        if result is not None and result.is_finished():
            left -= 1
            tokens += len(result.generated_tokens)
        if left and not manager.is_running():
            raise RuntimeError("continuous batching stopped early")
    if tokens != sum(outputs):
        raise RuntimeError(f"continuous batching generated {tokens} of {sum(outputs)} tokens")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
