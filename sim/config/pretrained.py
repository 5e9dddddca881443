"""A model on disk, as transformers saves it: its dimensions, read from config.json and the files beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.checks import InputError, shown
from sim.config.weights import BYTES, check_dtype, refuse_quantised, stored_dtype
from sim.cost.model import Model

_LLAMA: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers",),
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "intermediate": ("intermediate_size",),
    "max_positions": ("max_position_embeddings",),
}
_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": _LLAMA | {"intermediate": ("ffn_dim",)},
    "gpt2": {
        "layers": ("n_layer", "num_hidden_layers"),
        "hidden": ("n_embd", "hidden_size"),
        "heads": ("n_head", "num_attention_heads"),
        "max_positions": ("n_positions", "max_position_embeddings"),
    },
    "bloom": {
        "layers": ("n_layer", "num_hidden_layers"),
        "hidden": ("n_embed", "hidden_size"),
        "heads": ("n_head", "num_attention_heads"),
        "max_positions": ("seq_length",),
    },
}
"""Where each architecture keeps its dimensions: the names that transformers takes for the same."""

_GATED = ("llama", "qwen2", "qwen3")

_DEFAULTS = {
    "bloom": {"seq_length": 2048},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
"""What config.json may leave out, with what transformers takes for it."""

_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A causal language model on disk, or the name of one on the Hugging Face hub, which a real engine can fetch.

    Attributes:
        path: Its folder, its config.json, or `OWNER/NAME` on the hub.
        name: Its name in results; None: the last part of the path.
        dtype: The type of its weights and KV as it is served, of `sim.config.weights.BYTES`; None: as config.json says.
    """

    path: str | None
    name: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no path, no name and no type."""
        if not isinstance(self.path, str) or not self.path:
            raise InputError("model.path is missing: give model.path=FOLDER, one that holds a config.json")
        if self.name is not None and not isinstance(self.name, str):
            raise InputError(f"model.name={self.name}: must be text")
        check_dtype(self.dtype)

    @property
    def place(self) -> Path:
        """The path that was given, if it is one."""
        given = str(self.path)
        return Path(given).expanduser() if given == "~" or given.startswith("~/") else Path(given)

    @property
    def file(self) -> Path:
        """Its config.json, if it is on disk."""
        return self.place if self.place.suffix == ".json" else self.place / "config.json"

    @property
    def label(self) -> str:
        """Its name in results."""
        return self.name or self.file.resolve().parent.name

    def dimensions(self, unsaid: str | None = None) -> Model:
        """Read config.json, and what the files beside it say of the weights.

        Args:
            unsaid: The type of weights to assume where none is named; None: refuse such a model.

        Raises:
            InputError: if it is not there or not to be read, the architecture is not one that is supported, the weights
                are quantised or of a type that is not modelled, or no type is named.
        """
        config = self.config()
        architecture = config.get("model_type")
        if not isinstance(architecture, str) or architecture not in _KEYS:
            told = " ".join(str(architecture).split())[:60]
            raise InputError(
                f"{self.file}: model_type {told} is not supported; choose a model of type {', '.join(_KEYS)}"
            )
        _refuse_variants(self.file, config)
        refuse_quantised(self.file, config)
        stored = stored_dtype(self.file, config)
        dtype = self.dtype or stored or unsaid
        if dtype is None:
            raise InputError(
                f"{self.file}: names no dtype; give model.dtype=bfloat16 or float16 (vLLM serves such a model in 16 "
                "bits), or model.dtype=float32"
            )
        sizes = self._sizes(config, architecture)
        tied = config.get("tie_word_embeddings")
        if not isinstance(tied, bool | None):
            raise InputError(f"{self.file}: tie_word_embeddings is {shown(tied)}, not true or false; correct it")
        return Model(
            name=self.label,
            source=str(self.file),
            gated=architecture in _GATED,
            tied_embeddings=architecture not in _GATED if tied is None else tied,
            bytes_per_value=BYTES[dtype],
            architecture=architecture,
            **sizes,
        )

    def config(self) -> Mapping[str, Any]:
        """Return what config.json says.

        Raises:
            InputError: if it is not there or not to be read.
        """
        from workloads.recorded.contents import refuse_pointer

        refuse_pointer(self.file)
        try:
            config = json.loads(self.file.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise InputError(
                f"model.path={self.path}: there is no {self.file}; give the folder of a model that was downloaded or "
                "saved by transformers"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.file}: no JSON to be read ({error}); give another model.path") from None
        if not isinstance(config, Mapping):
            raise InputError(f"{self.file}: no JSON object; give another model.path")
        return config

    def _sizes(self, config: Mapping[str, Any], architecture: str) -> dict[str, int]:
        """Return the dimensions that are numbers, by their name in `Model`."""
        whole = {**_DEFAULTS.get(architecture, {}), **config}
        config = {key: value for key, value in whole.items() if value is not None}
        wanted = _KEYS[architecture] | {"vocabulary": ("vocab_size",)}
        missing = [" or ".join(keys) for keys in wanted.values() if not any(key in config for key in keys)]
        if missing:
            raise InputError(f"{self.file}: no {', '.join(missing)}; give another model.path")
        sizes = {name: self._agreed(config, keys) for name, keys in wanted.items()}
        sizes.setdefault("intermediate", self._agreed(config, ("n_inner",), 4 * sizes["hidden"]))
        sizes["kv_heads"] = self._agreed(config, ("num_key_value_heads",), sizes["heads"])
        if "head_dim" not in config and sizes["hidden"] % sizes["heads"]:
            raise InputError(f"{self.file}: a width of {sizes['hidden']} is no multiple of {sizes['heads']} heads")
        sizes["head_dim"] = self._agreed(config, ("head_dim",), sizes["hidden"] // sizes["heads"])
        return sizes

    def _agreed(self, config: Mapping[str, Any], keys: tuple[str, ...], default: int | None = None) -> int:
        """Return the number that is there under one or several names; the default if under none."""
        found = {key: config[key] for key in keys if key in config}
        for key, value in found.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
                raise InputError(f"{self.file}: {key} is {shown(value)}, not a whole number from 1; correct it")
        if len(set(found.values())) > 1:
            told = " and ".join(f"{key}={value}" for key, value in found.items())
            raise InputError(f"{self.file}: {told} contradict each other; correct it")
        size = next(iter(found.values()), default)
        assert size is not None
        return size


def _refuse_variants(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would be computed differently from what is modelled."""
    if config.get("sliding_window") and config.get(
        "use_sliding_window", config["model_type"] not in ("qwen2", "qwen3")
    ):
        raise InputError(f"{file}: attention with a sliding window is not supported; choose another model")
    narrow = config.get("word_embed_proj_dim")
    if narrow is not None and narrow != config.get("hidden_size"):
        raise InputError(f"{file}: embeddings narrower than the model are not supported; choose another model")
