"""The dimensions of a model on disk, read without torch."""

import json
from pathlib import Path
from typing import Any

import pytest

from policies.checks import InputError
from sim.config.pretrained import Pretrained

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def pretrained(folder: Path, config: Any) -> Pretrained:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return Pretrained(path=str(folder))


def test_a_llama_is_read(tmp_path: Path) -> None:
    model = pretrained(tmp_path, LLAMA).dimensions()
    assert model.name == tmp_path.name
    assert (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim) == (2, 64, 4, 2, 16)
    assert (model.intermediate, model.vocabulary, model.max_positions) == (128, 256, 4096)
    assert (model.gated, model.tied_embeddings, model.bytes_per_value, model.architecture) == (True, False, 2, "llama")
    assert Pretrained(path=str(tmp_path / "config.json"), name="mine").dimensions().name == "mine"


def test_other_architectures_name_and_leave_out_what_they_like(tmp_path: Path) -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024, "vocab_size": 256}
    model = pretrained(tmp_path, gpt2).dimensions()
    assert (model.kv_heads, model.head_dim, model.intermediate, model.gated, model.tied_embeddings) == (
        4, 16, 256, False, True,
    )  # fmt: skip
    assert model.bytes_per_value == 4
    bloom = {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256}
    assert pretrained(tmp_path, bloom).dimensions().max_positions == 2048


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "model_type mamba is not supported; choose a model of type llama, "),
        ({}, "model_type None is not supported"),
        ("[1]", "no JSON object"),
        ("{", "no JSON to be read"),
        (LLAMA | {"hidden_size": None}, "no hidden_size"),
        (LLAMA | {"sliding_window": 128}, "a sliding window is not supported"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
    ],
)
def test_what_cannot_be_run_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        pretrained(tmp_path, config).dimensions()
    assert "\n" not in str(error.value)
