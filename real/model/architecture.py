"""transformers' configuration of a model whose dimensions are given."""

import math
from collections.abc import Callable
from typing import Any

from transformers import BloomConfig, GPT2Config, LlamaConfig, OPTConfig, PretrainedConfig, Qwen3Config

from policies.checks import InputError
from sim.cost.model import Model


def _llama(model: Model, **common: Any) -> PretrainedConfig:
    return LlamaConfig(**_grouped(model), **common)


def _qwen3(model: Model, **common: Any) -> PretrainedConfig:
    return Qwen3Config(**_grouped(model), **common)


def _grouped(model: Model) -> dict[str, Any]:
    return {
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_positions,
    }


def _gpt2(model: Model, **common: Any) -> PretrainedConfig:
    return GPT2Config(
        n_embd=model.hidden,
        n_inner=model.intermediate,
        n_layer=model.layers,
        n_head=model.heads,
        n_positions=model.max_positions,
        **common,
    )


def _opt(model: Model, **common: Any) -> PretrainedConfig:
    common["init_std"] = common.pop("initializer_range")
    return OPTConfig(
        hidden_size=model.hidden,
        word_embed_proj_dim=model.hidden,
        ffn_dim=model.intermediate,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        max_position_embeddings=model.max_positions,
        **common,
    )


def _bloom(model: Model, **common: Any) -> PretrainedConfig:
    return BloomConfig(hidden_size=model.hidden, n_layer=model.layers, n_head=model.heads, **common)


_CONFIGURATIONS: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "opt": _opt,
    "bloom": _bloom,
}

ARCHITECTURES = tuple(_CONFIGURATIONS)
"""The values of `Model.architecture` that can be built."""

LEARNED_POSITIONS = ("gpt2", "opt")
"""Architectures whose positions are rows of a table: beyond its end there is none."""

_FULL_HEADS = ("gpt2", "opt", "bloom")


def configuration(model: Model) -> PretrainedConfig:
    """Return the configuration of a model with these dimensions, for random weights.

    Weights get a standard deviation of 1.2 / sqrt(hidden), so that products keep their scale at any width: with
    transformers' default of 0.02 a narrow model repeats one token whatever it reads, and would prove nothing.

    Raises:
        InputError: The architecture is unknown, or cannot have these dimensions.
    """
    if model.architecture not in _CONFIGURATIONS:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"model.architecture={model.architecture}: cannot be built; choose one of {known}")
    gated = model.architecture in ("llama", "qwen3")
    if model.gated is not gated:
        raise InputError(f"model.gated={model.gated}: {model.architecture} has gated={gated}")
    if model.architecture in _FULL_HEADS:
        _check_full_heads(model)
    elif model.head_dim % 2:
        raise InputError(f"model.head_dim={model.head_dim}: {model.architecture} rotates pairs, so it must be even")
    try:
        return _CONFIGURATIONS[model.architecture](
            model,
            vocab_size=model.vocabulary,
            tie_word_embeddings=model.tied_embeddings,
            initializer_range=1.2 / math.sqrt(model.hidden),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    except Exception as error:  # whatever the library's own checks raise
        *_, reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"model={model.name}: transformers cannot build it ({reason.strip()}); correct it") from None


def _check_full_heads(model: Model) -> None:
    if model.kv_heads != model.heads:
        raise InputError(f"model.kv_heads={model.kv_heads}: {model.architecture} has as many as heads, {model.heads}")
    if model.head_dim * model.heads != model.hidden:
        raise InputError(f"model.head_dim={model.head_dim}: {model.architecture} has hidden / heads")
    if model.architecture == "bloom" and model.intermediate != 4 * model.hidden:
        raise InputError(f"model.intermediate={model.intermediate}: bloom has 4 x hidden")
