"""What transformers itself offers for many requests: static batches (`generate`) and continuous ones.

Each returns seconds and checks that every answer had its length: a peer that stops early would look fast.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.rounds import Contender
from real.model.architecture import configuration
from sim.cost.model import Model
from workloads.requests import Requests

WAIT_S = 1.0

STATIC, CONTINUOUS = "generate", "generate_batch"
"""How the names of peers begin."""

PAGE = 256
"""KV tokens of a block of continuous batching."""

WARMING = 4
"""Tokens of the answers that static batches are warmed up with."""


class Peers:
    """Transformers' ways to serve some requests, on a model of its own that is loaded when somebody's turn comes.

    Attributes:
        until: When a turn is given up, by `time.perf_counter`.
    """

    def __init__(
        self,
        dimensions: Model,
        device: torch.device,
        dtype: torch.dtype,
        requests: Requests,
        prompts: Sequence[Sequence[int]],
        batch: int,
        seed: int = 0,
    ) -> None:
        """Take a workload, and how many rows its batches have."""
        self.until = math.inf
        self._load = partial(peer_model, dimensions, device, dtype, seed)
        self._requests, self._prompts, self._batch = requests, prompts, batch
        self._model: Any = None
        self._cold: set[int | None] = {None, self.static_cache}

    @property
    def blocks(self) -> int:
        """Blocks of two full batches of the longest request."""
        longest = int((self._requests.prompt_tokens + self._requests.output_tokens).max())
        return 2 * self._batch * -(-longest // PAGE)

    @property
    def static_cache(self) -> int:
        """KV tokens per row that the largest static batch fills: its longest prompt and its longest answer."""
        prompts, outputs = self._requests.prompt_tokens, self._requests.output_tokens
        batches = range(0, len(self._requests), self._batch)
        return max(
            int(prompts[place : place + self._batch].max() + outputs[place : place + self._batch].max())
            for place in batches
        )

    @property
    def kv_tokens(self) -> int:
        """The most KV memory that any of the contenders takes, in tokens."""
        return max(self.blocks * PAGE, self._batch * self.static_cache)

    def contenders(self, compiled: bool) -> dict[str, Contender]:
        """Return them by name.

        Args:
            compiled: Whether to have static batches with a static cache, whose steps transformers compiles on a GPU.
        """
        found: dict[str, Contender] = {CONTINUOUS: self._continuously, STATIC: partial(self._in_batches, None)}
        if compiled:
            found[f"{CONTINUOUS}, CUDA graphs"] = partial(self._continuously, use_cuda_graph=True)
            found[f"{STATIC}, static cache"] = partial(self._in_batches, self.static_cache)
        return found

    def drop(self) -> None:
        """Give back the model."""
        self._model = None

    def _loaded(self) -> Any:
        self._model = self._model or self._load()
        return self._model

    def _in_batches(self, cache: int | None) -> float:
        model = self._loaded()
        if cache in self._cold:
            outputs = np.minimum(self._requests.output_tokens, WARMING)
            generate(
                model, replace(self._requests, output_tokens=outputs), self._prompts, self._batch, cache, self.until
            )
            self._cold.discard(cache)
        return generate(model, self._requests, self._prompts, self._batch, cache, self.until)

    def _continuously(self, **options: Any) -> float:
        limits = ContinuousBatchingConfig(
            max_requests_per_batch=self._batch,
            num_blocks=self.blocks,
            max_batch_tokens=max(1024, min(8192, self._batch * PAGE)),
            **options,
        )
        try:
            return generate_batch(self._loaded(), self._requests, self._prompts, limits, self.until)
        except BaseException:
            self.drop()  # it is left with an attention that only continuous batching can use
            raise


def peer_model(model: Model, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """Return a model of these dimensions with random weights, as transformers has it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        module: PreTrainedModel = AutoModelForCausalLM.from_config(configuration(model), dtype=dtype)
    return module.eval()


@torch.inference_mode()
def generate(
    model: Any,
    requests: Requests,
    prompts: Sequence[Sequence[int]],
    batch: int,
    static_cache: int | None = None,
    until: float = math.inf,
) -> float:
    """Serve static batches: padded on the left, each run until its longest answer ends.

    Args:
        model: A model of transformers.
        requests: The workload; arrivals do not count.
        prompts: Tokens of every prompt.
        batch: Rows.
        static_cache: KV tokens per row that are allocated whatever the batch: what decodes is compiled where
            transformers does that, which is on GPUs, and compiled once; None: as it grows.
        until: When to give up, by `time.perf_counter`.

    Raises:
        RuntimeError: An answer is shorter than it was to be.
    """
    start = time.perf_counter()
    for first in range(0, len(prompts), batch):
        rows = prompts[first : first + batch]
        width = max(map(len, rows))
        ids, mask = _padded_left(rows, width, model.device)
        new = int(requests.output_tokens[first : first + batch].max())
        options: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        if until < math.inf:
            options["max_time"] = until - time.perf_counter()
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
    model: Any,
    requests: Requests,
    prompts: Sequence[Sequence[int]],
    limits: ContinuousBatchingConfig,
    until: float = math.inf,
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
            _answered(manager, [[(token + 1) % vocabulary for token in prompt] for prompt in prompts], outputs, until)
        start = time.perf_counter()
        _answered(manager, prompts, outputs, until)
        return time.perf_counter() - start


def _answered(manager: Any, prompts: Sequence[Sequence[int]], outputs: Sequence[int], until: float) -> None:
    """Have every prompt answered with as many tokens as it is to get."""
    for prompt, new in zip(prompts, outputs, strict=True):
        manager.add_request(list(prompt), max_new_tokens=new)
    left, tokens = len(prompts), 0
    while left:
        result = manager.get_result(timeout=WAIT_S)
        if result is not None and result.is_finished():
            left -= 1
            tokens += len(result.generated_tokens)
        if left and time.perf_counter() > until:
            raise RuntimeError(f"continuous batching had {left} of {len(prompts)} answers to go as its time was over")
        if left and not manager.is_running():
            raise RuntimeError("continuous batching stopped early")
    if tokens != sum(outputs):
        raise RuntimeError(f"continuous batching generated {tokens} of {sum(outputs)} tokens")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
