"""The dimensions of a model on disk, read without torch."""

import json
from dataclasses import replace
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
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024, "vocab_size": 256} | {
    "torch_dtype": "float16"
}
BLOOM = {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "dtype": "float16"}


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
    model = pretrained(tmp_path, GPT2).dimensions()
    assert (model.kv_heads, model.head_dim, model.intermediate, model.gated, model.tied_embeddings) == (
        4, 16, 256, False, True,
    )  # fmt: skip
    assert pretrained(tmp_path, BLOOM).dimensions().max_positions == 2048


@pytest.mark.parametrize(
    ("config", "renamed"),
    [
        ("GPT2", {"n_embd": "hidden_size"}),
        ("GPT2", {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}),
        ("GPT2", {"n_positions": "max_position_embeddings"}),
        ("BLOOM", {"hidden_size": "n_embed", "n_head": "num_attention_heads"}),
        ("BLOOM", {"n_layer": "num_hidden_layers"}),
    ],
)
def test_dimensions_have_all_names_that_transformers_takes_for_them(
    config: str, renamed: dict[str, str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"GPT2": GPT2, "BLOOM": BLOOM}[config]
    expected = pretrained(tmp_path, given).dimensions()
    again = {renamed.get(key, key): value for key, value in given.items()}
    assert pretrained(tmp_path, again).dimensions() == expected
    assert pretrained(tmp_path, given | again).dimensions() == expected, "both names, alike"
    one, other = next(iter(renamed.items()))
    with pytest.raises(InputError, match="contradict each other"):
        pretrained(tmp_path, given | {one: 8, other: 16}).dimensions()


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_what_is_left_out_is_as_transformers_takes_it(architecture: str, tmp_path: Path) -> None:
    qwen = LLAMA | {"model_type": architecture, "num_attention_heads": 64, "hidden_size": 4096}
    del qwen["num_key_value_heads"]
    model = pretrained(tmp_path, qwen).dimensions()
    assert (model.kv_heads, model.head_dim) == (32, 128 if architecture == "qwen3" else 64)


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", "float16", "torch.float16", "half"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_type_of_weights_has_several_spellings(key: str, dtype: str, tmp_path: Path) -> None:
    untyped = {name: value for name, value in LLAMA.items() if name != "torch_dtype"}
    assert pretrained(tmp_path, untyped | {key: dtype}).dimensions().bytes_per_value == 2
    assert pretrained(tmp_path, untyped | {key: "torch.float32"}).dimensions().bytes_per_value == 4


@pytest.mark.parametrize("unsaid", [None, "auto", ""])
def test_a_type_that_nobody_names_is_asked_for(unsaid: str | None, tmp_path: Path) -> None:
    untyped = pretrained(tmp_path, LLAMA | {"torch_dtype": unsaid})
    with pytest.raises(InputError, match=r"names no dtype; give model\.dtype=bfloat16 or float16"):
        untyped.dimensions()
    assert untyped.dimensions("float32").bytes_per_value == 4
    for dtype, size in (("bfloat16", 2), ("float16", 2), ("float32", 4)):
        assert replace(untyped, dtype=dtype).dimensions("float32").bytes_per_value == size
    assert replace(pretrained(tmp_path, LLAMA), dtype="float32").dimensions().bytes_per_value == 4, "what is given wins"
    with pytest.raises(InputError, match=r"model\.dtype is 'fp8': choose one of bfloat16"):
        replace(untyped, dtype="fp8")


@pytest.mark.parametrize(
    ("config", "beside", "kind"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {}, r"awq, 4 bits, says quantization_config\)"),
        ({"quantization_config": {"load_in_8bit": True}}, {}, r"8bit, says quantization_config\)"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, {}, "fp8, says text_config.quantization_c"),
        ({"compression_config": {"format": "int-quantized"}}, {}, "int-quantized, says compression_config"),
        ({"quantization": {"group_size": 32, "bits": 8}}, {}, "8 bits, says quantization"),
        (
            {},
            {"hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4"}}},
            "ModelOpt, NVFP4, says hf_quant_config.json",
        ),
        (
            {},
            {"hf_quant_config.json": {"quantization": {"kv_cache_quant_algo": "FP8"}}},
            "ModelOpt, KV cache FP8, says hf_qu",
        ),
        ({}, {"quantize_config.json": {"bits": 3}}, "GPTQ, 3 bits, says quantize_config.json"),
        ({}, {"quant_config.json": {"w_bit": 4, "version": "GEMM"}}, "AWQ, GEMM, 4 bits, says quant_config.json"),
    ],
)
def test_quantised_weights_are_refused_by_name(
    config: dict[str, Any], beside: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    for name, said in beside.items():
        (tmp_path / name).write_text(json.dumps(said))
    for folder in (
        pretrained(tmp_path, LLAMA | config),
        replace(pretrained(tmp_path, LLAMA | config), dtype="float16"),
    ):
        with pytest.raises(InputError, match=rf"quantised weights are not supported \({kind}"):
            folder.dimensions("float32")


@pytest.mark.parametrize(
    ("config", "beside"),
    [
        ({"quantization_config": None, "compression_config": {}}, {}),
        ({}, {"hf_quant_config.json": {"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}}),
    ],
)
def test_what_says_that_nothing_is_quantised_is_no_reason_to_refuse(
    config: dict[str, Any], beside: dict[str, Any], tmp_path: Path
) -> None:
    for name, said in beside.items():
        (tmp_path / name).write_text(json.dumps(said))
    assert pretrained(tmp_path, LLAMA | config).dimensions().bytes_per_value == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "model_type mamba is not supported; choose a model of type llama, "),
        ({}, "model_type None is not supported"),
        ("[1]", "no JSON object"),
        ("{", "no JSON to be read"),
        (LLAMA | {"hidden_size": None}, "no hidden_size"),
        (LLAMA | {"sliding_window": 128}, "a sliding window is not supported"),
        (LLAMA | {"torch_dtype": "float8_e5m2"}, "weights of type 'float8_e5m2' are not supported"),
        (LLAMA | {"dtype": ["float16"]}, r"weights of type \['float16'\] are not supported"),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads is 0, not a whole number from 1"),
        (LLAMA | {"num_attention_heads": 3}, "a width of 64 is no multiple of 3 heads"),
        (LLAMA | {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        (LLAMA | {"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
    ],
)
def test_what_cannot_be_run_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        pretrained(tmp_path, config).dimensions()
    assert "\n" not in str(error.value)
