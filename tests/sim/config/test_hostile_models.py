"""Hostile model configurations: each becomes dimensions that can be, or one line that refuses it."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.checks import InputError
from sim.config.pretrained import Pretrained
from sim.config.weights import BYTES
from sim.cost.model import Model

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 99, "max_position_embeddings": 64,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 99,
        "n_inner": None, "dtype": "float16",
    },
    "bloom": {
        "model_type": "bloom", "n_embed": 64, "n_layer": 2, "num_attention_heads": 4, "seq_length": 64,
        "vocab_size": 99, "dtype": "torch.float32",
    },
}  # fmt: skip
KEYS = st.sampled_from(
    sorted({key for config in CONFIGS.values() for key in config} | {
        "sliding_window", "word_embed_proj_dim", "quantization_config", "quantization", "compression_config",
        "text_config", "ffn_dim",
    })
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, -1, 3, 64, 2.5, 1e300, 10**400, 2**31, float("nan"), float("inf"), True, False, None, "", "x", "64", "auto",
     "float8_e4m3fn", "torch.int8", "half", [], [64], {}, {"quant_method": "fp8"}, {"quant_method": ["a\nb"]},
     {"quantization_config": {"bits": 4}}, {"a": {"a": {"a": {"a": {}}}}}, "qwen2", "opt", "mamba", "a\nb"]
)  # fmt: skip
BESIDE = st.dictionaries(
    st.sampled_from(["hf_quant_config.json", "quantize_config.json", "quant_config.json"]),
    st.sampled_from(["{}", "null", "[]", "{", "", "[" * 9999, '{"bits": 4}', '{"quantization": {"quant_algo": null}}',
                     '{"quantization": {"quant_algo": "FP8"}}', "version https://git-lfs.github.com/spec/v1"]),
    max_size=1,
)  # fmt: skip
RAW = st.sampled_from(
    [b"", b"{", b"[]", b"\xff\xfe{", b"[" * 9999, b"\xef\xbb\xbf{}", b"version https://git-lfs.github.com/spec/"]
)
OPTIONS = st.fixed_dictionaries({}, optional={"dtype": VALUES | st.sampled_from(sorted(BYTES)), "name": VALUES})


@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.sampled_from(sorted(CONFIGS)),
    changes=st.dictionaries(KEYS, VALUES, max_size=3),
    beside=BESIDE,
    raw=st.none() | st.none() | st.none() | RAW,
    options=OPTIONS,
)
def test_dimensions_that_can_be_or_one_line(
    tmp_path: Path, config: str, changes: dict[str, Any], beside: dict[str, str], raw: bytes | None, options: Any
) -> None:
    files = beside | {"config.json": json.dumps(CONFIGS[config] | changes)}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if raw is not None:
        (tmp_path / "config.json").write_bytes(raw)
    try:
        model = Pretrained(path=str(tmp_path), **options).dimensions()
    except InputError as refused:
        said = str(refused)
        assert "\n" not in said and len(said) < 1000
        assert "model." in said or str(tmp_path) in said
    else:
        assert isinstance(model, Model)
        assert model.bytes_per_value in (2, 4)
        quantised = ("quantization_config", "quantization", "compression_config")
        assert not any(changes.get(key) for key in quantised), "never priced as if it were not"
        assert model.weight_bytes > 0 and model.kv_bytes_per_token > 0
    for name in files:
        (tmp_path / name).unlink()
