"""A model on disk, as transformers saves it: its dimensions, read from config.json and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.checks import InputError
from sim.cost.model import Model

_LLAMA = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
_KEYS = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": _LLAMA | {"intermediate": "ffn_dim"},
    "gpt2": {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "max_positions": "n_positions"},
    "bloom": {"layers": "n_layer", "hidden": "hidden_size", "heads": "n_head", "max_positions": "seq_length"},
}
"""Where each architecture keeps its dimensions."""

_GATED = ("llama", "qwen2", "qwen3")

_DEFAULTS = {"bloom": {"seq_length": 2048}}
"""What config.json may leave out."""

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A causal language model on disk, or the name of one on the Hugging Face hub, which a real engine can fetch.

    Attributes:
        path: Its folder, its config.json, or `OWNER/NAME` on the hub.
        name: Its name in results; None: the last part of the path.
    """

    path: str | None
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no path and no name."""
        if not isinstance(self.path, str) or not self.path:
            raise InputError("model.path is missing: give model.path=FOLDER, one that holds a config.json")
        if self.name is not None and not isinstance(self.name, str):
            raise InputError(f"model.name={self.name}: must be text")

    @property
    def file(self) -> Path:
        """Its config.json, if it is on disk."""
        path = Path(str(self.path)).expanduser()
        return path if path.suffix == ".json" else path / "config.json"

    @property
    def label(self) -> str:
        """Its name in results."""
        return self.name or self.file.resolve().parent.name

    def dimensions(self) -> Model:
        """Read config.json.

        Raises:
            InputError: if it is not there or not to be read, or the architecture is not one that is supported.
        """
        config = self._read()
        architecture = config.get("model_type")
        if architecture not in _KEYS:
            raise InputError(
                f"{self.file}: model_type {architecture} is not supported; choose a model of type {', '.join(_KEYS)}"
            )
        _refuse_variants(self.file, config)
        sizes = self._sizes(config, architecture)
        return Model(
            name=self.label,
            source=str(self.file),
            gated=architecture in _GATED,
            tied_embeddings=bool(config.get("tie_word_embeddings", architecture not in _GATED)),
            bytes_per_value=_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4),
            architecture=architecture,
            **sizes,
        )

    def _read(self) -> Mapping[str, Any]:
        try:
            config = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"model.path={self.path}: there is no {self.file}; give the folder of a model that was downloaded or "
                "saved by transformers"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file}: no JSON to be read ({error}); give another model.path") from None
        if not isinstance(config, Mapping):
            raise InputError(f"{self.file}: no JSON object; give another model.path")
        return config

    def _sizes(self, config: Mapping[str, Any], architecture: str) -> dict[str, int]:
        """Return the dimensions that are numbers, by their name in `Model`."""
        config = _DEFAULTS.get(architecture, {}) | dict(config)
        wanted = _KEYS[architecture] | {"vocabulary": "vocab_size"}
        missing = [key for key in wanted.values() if not isinstance(config.get(key), int)]
        if missing:
            raise InputError(f"{self.file}: no {', '.join(missing)}; give another model.path")
        sizes: dict[str, int] = {name: config[key] for name, key in wanted.items()}
        sizes.setdefault("intermediate", config.get("n_inner") or 4 * sizes["hidden"])
        sizes["kv_heads"] = config.get("num_key_value_heads") or sizes["heads"]
        sizes["head_dim"] = config.get("head_dim") or sizes["hidden"] // sizes["heads"]
        return sizes


def _refuse_variants(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would be computed differently from what is modelled."""
    if config.get("sliding_window") and config.get(
        "use_sliding_window", config["model_type"] not in ("qwen2", "qwen3")
    ):
        raise InputError(f"{file}: attention with a sliding window is not supported; choose another model")
    if config.get("word_embed_proj_dim", config.get("hidden_size")) != config.get("hidden_size"):
        raise InputError(f"{file}: embeddings narrower than the model are not supported; choose another model")
    if config.get("quantization_config"):
        raise InputError(f"{file}: quantised weights are not supported; choose another model")
