"""Models with their own weights: loaded from safetensors only, text in and out, and ends of answers."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from policies.checks import InputError
from real.__main__ import main
from real.model import pretrained
from real.model.pretrained import fetch, pretrained_network
from sim.config.pretrained import Pretrained
from sim.tasks.comparison import comparison
from tests.command_line import run_here, summary

TEXTS = ["the cat sat on the mat", "a dog", "the dog and the cat sat and sat and sat", "mat"]
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "eos_token_id": None,
    "bos_token_id": None,
}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, without the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    return tmp_path


def save(folder: Path, config: Any = None, end_token: int | None = None) -> Any:
    """Save a small random model with a tokenizer; return the model."""
    torch.manual_seed(0)
    module: Any = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES)).eval()
    module.generation_config.eos_token_id = end_token
    module.save_pretrained(folder)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.train_from_iterator(TEXTS, BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return module


def generate(module: Any, prompt: list[int], count: int) -> list[int]:
    """Return what transformers itself answers."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


SERVED = (
    *("model=hf", "model.path=./mine", "texts=prompts.txt", "device=cpu", "threads=1", "policies=[orca,baton]"),
    *("workload=synthetic_fixed", "workload.output.tokens=12", "workload.num_requests=5", "hydra.run.dir=out"),
)


def test_text_goes_in_and_comes_out_as_transformers_would_say_it(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = save(scratch / "mine")
    (scratch / "prompts.txt").write_text("\n".join([*TEXTS, ""]))
    capsys.readouterr()
    assert run_here(main, *SERVED) == 0
    assert capsys.readouterr().err == ""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(scratch / "mine")
    found = summary(scratch / "out")
    assert (found["model"], found["dtype"]) == ("mine", "float32")
    assert "prompts are 4 texts, repeated for 5 requests" in found["notes"]
    for policy in ("orca", "baton"):
        table = pq.read_table(scratch / "out" / policy / "generated.parquet")
        for request, row in enumerate(table.to_pylist()):
            prompt = tokenizer(TEXTS[request % 4])["input_ids"]
            assert row["tokens"] == generate(module, prompt, 12)
            assert row["text"] == tokenizer.decode(row["tokens"])
        prompts = pq.read_table(scratch / "out" / policy / "requests.parquet")["prompt_tokens"].to_pylist()
        assert prompts == [len(tokenizer(TEXTS[request % 4])["input_ids"]) for request in range(5)]


def test_an_answer_ends_at_the_token_that_the_model_ends_by(scratch: Path) -> None:
    tokenizer_prompt = "the cat sat on the mat"
    whole = save(scratch / "mine")
    (scratch / "prompts.txt").write_text(tokenizer_prompt)
    prompt = PreTrainedTokenizerFast.from_pretrained(scratch / "mine")(tokenizer_prompt)["input_ids"]
    said = generate(whole, prompt, 12)
    end = said[4]
    save(scratch / "mine", end_token=end)
    assert run_here(main, *SERVED) == 0
    for policy in ("orca", "baton"):
        folder = scratch / "out" / policy
        tokens = pq.read_table(folder / "generated.parquet")["tokens"].to_pylist()
        assert tokens == [said[: said.index(end) + 1]] * 5
        assert pq.read_table(folder / "requests.parquet")["output_tokens"].to_pylist() == [said.index(end) + 1] * 5
    assert summary(scratch / "out")["policies"]["orca"]["total_output_tokens"] == 5 * (said.index(end) + 1)


def test_an_architecture_that_only_others_have_built_is_exact_too(scratch: Path) -> None:
    module = save(scratch / "mine", Qwen2Config(**SIZES))
    (scratch / "prompts.txt").write_text(TEXTS[0])
    assert run_here(main, *SERVED) == 0
    prompt = PreTrainedTokenizerFast.from_pretrained(scratch / "mine")(TEXTS[0])["input_ids"]
    tokens = pq.read_table(scratch / "out/baton/generated.parquet")["tokens"].to_pylist()
    assert tokens == [generate(module, prompt, 12)] * 5


def test_prompts_may_be_json_lines(scratch: Path) -> None:
    save(scratch / "mine")
    (scratch / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in TEXTS))
    served = [option.replace("prompts.txt", "prompts.jsonl") for option in SERVED]
    assert run_here(main, *served) == 0
    assert "prompts are 4 texts, repeated for 5 requests" in summary(scratch / "out")["notes"]


def test_texts_that_are_too_long_are_cut(scratch: Path) -> None:
    module = save(scratch / "mine")
    (scratch / "prompts.txt").write_text(TEXTS[2])
    assert run_here(main, *SERVED, "max_request_tokens=16", "workload.max_new_tokens=oracle") == 0
    prompt = PreTrainedTokenizerFast.from_pretrained(scratch / "mine")(TEXTS[2])["input_ids"]
    requests = pq.read_table(scratch / "out/baton/requests.parquet")
    (kept,), (answer,) = (set(requests[name].to_pylist()) for name in ("prompt_tokens", "output_tokens"))
    assert kept < len(prompt)
    assert kept + answer <= 16
    tokens = pq.read_table(scratch / "out/baton/generated.parquet")["tokens"].to_pylist()
    assert tokens == [generate(module, prompt[:kept], answer)] * 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.txt", None, "texts=prompts.txt: cannot be read (No such file or directory)"),
        ("prompts.txt", "\n \n", "texts=prompts.txt: holds no prompt"),
        (
            "prompts.jsonl",
            '{"prompt": "a"}\n{"text": "b"}',
            'texts=prompts.jsonl, line 2: no object with a text "prompt"',
        ),
        ("prompts.jsonl", "{", "texts=prompts.jsonl, line 1: no object"),
    ],
)
def test_a_file_without_prompts_is_said_so(
    name: str, content: str | None, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(scratch / "mine")
    if content is not None:
        (scratch / name).write_text(content)
    capsys.readouterr()
    assert run_here(main, *[option.replace("prompts.txt", name) for option in SERVED]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1


def test_a_tokenizer_of_another_model_is_said_so(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(scratch / "mine", LlamaConfig(**SIZES | {"vocab_size": 60}))
    (scratch / "prompts.txt").write_text("the cat")
    capsys.readouterr()
    assert run_here(main, *SERVED) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: texts: the tokenizer of model=mine gives token ")
    assert "and the model knows 60, counted from 0" in shown
    assert shown.count("\n") == 1


def test_weights_come_from_safetensors_only(scratch: Path) -> None:
    module = save(scratch / "mine")
    (scratch / "mine/model.safetensors").unlink()
    torch.save(module.state_dict(), scratch / "mine/pytorch_model.bin")
    with pytest.raises(InputError, match="no weights in safetensors; other formats can run code and are not loaded"):
        pretrained_network(Pretrained(path=str(scratch / "mine")))


def test_damaged_weights_are_one_line(scratch: Path) -> None:
    save(scratch / "mine")
    (scratch / "mine/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="its weights cannot be loaded") as error:
        pretrained_network(Pretrained(path=str(scratch / "mine")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "../prompts.txt"])
def test_pointers_of_git_lfs_are_named(name: str, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(scratch / "mine")
    (scratch / "prompts.txt").write_text("the cat")
    (scratch / "mine" / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    capsys.readouterr()
    assert run_here(main, *SERVED) == 2
    shown = capsys.readouterr().err
    assert f"{Path(name).name}: is a Git LFS pointer" in shown and "git lfs pull" in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("lost", "gained", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "its weights lack model.layers.1.mlp.up_proj.weight; fetch it"),
        ("lm_head.weight", None, "its weights lack lm_head.weight;"),
        (None, "model.layers.0.self_attn.q_proj.bias", "among its weights, model.layers.0.self_attn.q_proj.bias;"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(
    scratch: Path, lost: str | None, gained: str | None, message: str
) -> None:
    tensors = {name: value.clone() for name, value in save(scratch / "mine").state_dict().items() if name != lost}
    if gained is not None:
        tensors[gained] = torch.zeros(64)
    save_file(tensors, scratch / "mine/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        pretrained_network(Pretrained(path=str(scratch / "mine")))


def test_a_head_that_shares_the_embeddings_weights_and_old_constants_are_no_fault(scratch: Path) -> None:
    module = save(scratch / "mine", LlamaConfig(**SIZES, tie_word_embeddings=True))
    tensors = {name: value.clone() for name, value in module.state_dict().items() if name != "lm_head.weight"}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, scratch / "mine/model.safetensors", metadata={"format": "pt"})
    assert pretrained_network(Pretrained(path=str(scratch / "mine"))).dimensions.tied_embeddings


def test_dimensions_that_are_not_those_of_the_weights_are_refused(scratch: Path) -> None:
    save(scratch / "mine")
    config = json.loads((scratch / "mine/config.json").read_text())
    for changed in ({"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"intermediate_size": 64}):
        (scratch / "mine/config.json").write_text(json.dumps(config | changed))
        with pytest.raises(InputError, match="fetch it again"):
            pretrained_network(Pretrained(path=str(scratch / "mine")))


def test_code_that_a_model_brings_is_not_run(scratch: Path) -> None:
    save(scratch / "mine")
    config = json.loads((scratch / "mine/config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (scratch / "mine/config.json").write_text(json.dumps(config))
    (scratch / "mine/evil.py").write_text("raise SystemExit('run')")
    assert pretrained_network(Pretrained(path=str(scratch / "mine"))).dimensions.layers == 2


@pytest.mark.parametrize(
    ("architecture", "renamed"),
    [
        ("bloom", {"hidden_size": "n_embed", "n_head": "num_attention_heads"}),
        ("gpt2", {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_positions": "max_position_embeddings"}),
    ],
)
def test_dimensions_under_the_names_of_the_hub_are_those_of_the_network(
    scratch: Path, architecture: str, renamed: dict[str, str]
) -> None:
    common: Any = {"vocab_size": 300, "n_layer": 2, "n_head": 4}
    sizes: Any = {
        "bloom": BloomConfig(hidden_size=64, **common),
        "gpt2": GPT2Config(n_embd=64, n_positions=96, **common),
    }
    module = save(scratch / "mine", sizes[architecture])
    config = json.loads((scratch / "mine/config.json").read_text())
    again = {renamed.get(key, key): value for key, value in config.items()}
    (scratch / "mine/config.json").write_text(json.dumps(again))
    network = pretrained_network(Pretrained(path=str(scratch / "mine")))
    assert (network.dimensions.hidden, network.dimensions.layers, network.dimensions.heads) == (64, 2, 4)
    assert network.dimensions.head_parameters == module.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("dtype", "asked", "value_bytes"),
    [(None, None, 4), ("torch.float32", None, 4), ("torch.bfloat16", None, 2), ("float32", "bfloat16", 2)],
)
def test_the_type_of_weights_is_what_was_asked_for_or_is_named_or_is_on_disk(
    scratch: Path, dtype: str | None, asked: str | None, value_bytes: int
) -> None:
    save(scratch / "mine")
    config = json.loads((scratch / "mine/config.json").read_text())
    config.pop("dtype", None)
    (scratch / "mine/config.json").write_text(json.dumps(config | ({"torch_dtype": dtype} if dtype else {})))
    assert pretrained_network(Pretrained(path="mine"), dtype=asked).dimensions.bytes_per_value == value_bytes
    assert pretrained_network(Pretrained(path="mine", dtype=asked)).dimensions.bytes_per_value == value_bytes


def test_quantised_weights_are_not_served_as_if_they_were_not(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(scratch / "mine")
    (scratch / "mine/hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    (scratch / "prompts.txt").write_text("the cat")
    capsys.readouterr()
    assert run_here(main, *SERVED) == 2
    assert "quantised weights are not supported (ModelOpt, FP8, says hf_quant_config.json)" in capsys.readouterr().err
    assert run_here(main, *SERVED, "dtype=float32", "model.dtype=bfloat16") == 2
    assert capsys.readouterr().err.startswith("error: dtype=float32 and model.dtype=bfloat16 contradict each other")


def response(status: int) -> Any:
    """Return what the hub answers."""
    from httpx2 import Request, Response

    return Response(status, request=Request("GET", "https://huggingface.co/a/b"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GatedRepoError("gated", response=response(403)), "the hub gives it only to those who were granted access"),
        (RepositoryNotFoundError("none", response=response(404)), "it is neither a folder nor on the Hugging Face hub"),
        (LocalEntryNotFoundError("offline"), "it is no folder here, and the Hugging Face hub cannot be reached"),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_one_line(
    answer: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        raise answer

    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match=f"model.path=owner/name: {message}") as error:
        fetch(Pretrained(path="owner/name"))
    assert "\n" not in str(error.value)


def test_what_the_hub_gives_has_its_name(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(scratch / "cache")
    monkeypatch.setattr(pretrained, "snapshot_download", lambda name, allow_patterns: str(scratch / "cache"))
    assert pretrained_network(Pretrained(path="owner/name")).dimensions.name == "name"
