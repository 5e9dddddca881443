"""Tiny models, and the truth about them: the same weights in a transformers model of its own, one request at a time."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM

from real.model.architecture import configuration
from real.model.network import Network, random_network
from sim.cost.model import Model
from sim.engine.execution import EAGER, Execution

TINY = ("tiny_llama", "tiny_qwen3", "tiny_gpt2", "tiny_opt", "tiny_bloom")


@cache
def dimensions(name: str) -> Model:
    """Return the model that conf/model describes under this name."""
    options = yaml.safe_load((Path(__file__).parents[2] / f"conf/model/{name}.yaml").read_text())
    return Model(**{key: value for key, value in options.items() if key != "_target_"})


@cache
def network(name: str, attention: str = "sdpa", execution: Execution = EAGER) -> Network:
    """Return the model with random weights, in the hands of our layouts."""
    return random_network(dimensions(name), attention=attention, execution=execution)


@cache
def original(name: str) -> Any:
    """Return a transformers model with the same weights, its attention and caches untouched."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configuration(dimensions(name)), dtype=torch.float32).eval()


@torch.inference_mode()
def logits_alone(name: str, tokens: list[int]) -> Tensor:
    """Return the logits [tokens, vocabulary] of a sequence run by itself."""
    logits = original(name)(torch.tensor([tokens]), use_cache=False).logits[0]
    assert isinstance(logits, Tensor)
    return logits
