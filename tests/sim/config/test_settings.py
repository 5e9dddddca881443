"""The YAML files of the command line, and the objects that are made of them."""

import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.checks import InputError
from policies.policy import Policy
from sim.config.settings import Settings, build, read_settings, refuse_foreign
from sim.config.table_file import with_tables
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.memory import kv_capacity
from sim.cost.model import Model
from sim.simulation.notes import memory_notes

CONF = Path(__file__).parents[3] / "conf"
FILES = {group: sorted((CONF / group).glob("*.yaml")) for group in ("policy", "hardware", "model", "engine")}
KINDS: dict[str, type[Any]] = {"policy": Policy, "hardware": Device, "model": Model, "engine": EngineConstants}
ALL = [file for files in FILES.values() for file in files if file.stem != "hf"]

PARAMETERS = {
    "opt_13b": 12.85e9,
    "llama2_7b": 6.738e9,
    "llama2_13b": 13.016e9,
    "llama2_70b": 68.977e9,
    "llama3_1_8b": 8.030e9,
    "llama3_8b": 8.030e9,
    "codellama_34b": 33.744e9,
    "qwen3_14b": 14.768e9,
    "qwen3_32b": 32.762e9,
}
"""Published parameter counts."""

RANDOM = {"tiny_llama", "tiny_qwen3", "tiny_gpt2", "tiny_opt", "tiny_bloom", "small_llama"}
"""Models made for this project, with random weights."""


def load(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / group / f"{name}.yaml").read_text())) | changes


def settings(policies: dict[str, Any] | None = None, **changes: Any) -> Settings:
    config = {
        "workload": load("workload", "sharegpt"),
        "hardware": load("hardware", "h100_sxm"),
        "engine": load("engine", "vllm"),
        "tensor_parallel": 1,
        "model": load("model", "llama3_8b"),
        "kv_tokens": None,
        "seed": 0,
        "pictures": True,
        "measured": None,
        **task_options(changes.pop("task", "run")),
    }
    return read_settings(config | changes, policies or {"orca": load("policy", "orca")})


def task_options(task: str) -> dict[str, Any]:
    """Return what conf/task/TASK.yaml adds to a configuration, with the files that it builds on."""
    options: dict[str, Any] = {}
    described = load("task", task)
    parts = [load("", part[1:]) for part in described.pop("defaults", []) if str(part).startswith("/")]
    for part in (*parts, described):
        for name, value in part.items():
            options[name] = options.get(name, {}) | value if isinstance(value, dict) else value
    return options


def test_the_groups_are_complete() -> None:
    assert [file.stem for file in FILES["policy"]] == [
        "baton", "baton_concatenate", "baton_dedicated", "baton_direct", "baton_overlapped", "baton_ragged",
        "baton_window", "chunked_prefill", "orca", "orca_per_request", "orca_rectangular", "prefill_first",
        "run_to_completion",
    ]  # fmt: skip
    gpus = ["a100_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx4090", "rtx_pro_6000"]
    assert {file.stem for file in FILES["hardware"]} == {*gpus, *(f"{gpu}_datasheet" for gpu in gpus)}
    assert [file.stem for file in FILES["engine"]] == ["ideal", "transformers_eager", "vllm"]
    assert {file.stem for file in FILES["model"]} == {"hf", *PARAMETERS, *RANDOM}


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_a_file_lists_every_option_and_makes_its_object(file: Path) -> None:
    options = with_tables(load(file.parent.name, file.stem), file.parent.name)
    made: Any = build(options, file.parent.name)
    assert isinstance(made, KINDS[file.parent.name])
    known = {field.name for field in fields(made)}
    if isinstance(made, Calibrated):
        known -= {"engine", "tensor_parallel"}  # root options
        known -= {"all_reduce"} if made.all_reduce is None else set()
    if file.parent.name != "engine":
        assert set(options) - {"_target_"} == known
    assert getattr(made, "name", file.stem) == file.stem


def test_policies_differ_as_their_names_say() -> None:
    traits = {file.stem: build(load("policy", file.stem), "policy").traits for file in FILES["policy"]}
    del traits["baton_direct"]  # differs in what it plans
    assert len(set(traits.values())) == len(traits)
    assert {name for name, each in traits.items() if each.gpus == 2} == {"baton_dedicated"}
    assert {name for name, each in traits.items() if each.reserve == "window"} == {"baton_window"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_has_the_published_number_of_parameters(name: str) -> None:
    model = build(load("model", name), "model")
    assert model.weight_bytes / model.bytes_per_value == pytest.approx(PARAMETERS[name], rel=0.03)


def test_kv_memory_is_what_the_weights_leave_free() -> None:
    model, hardware = build(load("model", "llama3_8b"), "model"), build(load("hardware", "h100_sxm"), "hardware")
    assert model.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert kv_capacity(hardware, model) == (0.9 * 80 * 2**30 - model.weight_bytes) // 131072
    assert settings().kv_tokens == kv_capacity(hardware, model)


@pytest.mark.parametrize(
    ("model", "hardware", "remedy"),
    [
        ("llama2_70b", "h100_sxm", "138.0 GB of weights, 77.3 GB usable; give tensor_parallel=2, or choose another"),
        ("qwen3_32b", "l40s", "65.5 GB of weights, 43.5 GB usable; give tensor_parallel=2, or choose another"),
        ("qwen3_32b", "rtx4090", "choose another .tensor_parallel= needs one whose communication was measured"),
        ("llama2_70b", "h100_sxm_datasheet", "choose another .tensor_parallel= needs one whose communication was"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_fewest_gpus_that_hold_it(
    model: str, hardware: str, remedy: str
) -> None:
    groups = {"model": load("model", model), "hardware": load("hardware", hardware)}
    with pytest.raises(InputError, match=rf"model={model} does not fit on hardware={hardware}: .*{remedy}"):
        settings(**groups)
    with pytest.raises(InputError, match=r"does not fit .* whatever kv_tokens=1000 says; .*hardware.memory_bytes="):
        settings(**groups, kv_tokens=1000)
    if "give tensor_parallel=2" in remedy:
        assert settings(**groups, tensor_parallel=2).kv_tokens > 1000
    groups["hardware"] = groups["hardware"] | {"memory_bytes": 2e11}
    assert settings(**groups, kv_tokens=1000).kv_tokens == 1000, "a larger memory may be assumed, openly"


def test_fewer_gpus_than_hold_a_model_are_not_proposed() -> None:
    """67.5 GB of weights: two GPUs of 24 GB hold none of it, and neither do three; four do, and share its heads."""
    small = load("hardware", "h100_sxm") | {"memory_bytes": 24e9}
    with pytest.raises(InputError, match=r"GB usable; give tensor_parallel=4, or"):
        settings(model=load("model", "codellama_34b"), hardware=small)
    odd = load("model", "codellama_34b") | {"kv_heads": 1}
    with pytest.raises(InputError, match="no number of GPUs for which hardware=h100_sxm was measured holds it"):
        settings(model=odd, hardware=small)


def test_more_kv_memory_than_there_is_is_said() -> None:
    model, hardware = build(load("model", "llama3_8b"), "model"), build(load("hardware", "h100_sxm"), "hardware")
    whole = int((hardware.memory_bytes - model.weight_bytes) // model.kv_bytes_per_token)
    assert memory_notes(settings(kv_tokens=whole)) == []
    (note,) = memory_notes(settings(kv_tokens=whole + 1))
    assert note.startswith(f"kv_tokens={whole + 1} is more than there is: with the weights that is 85.9 GB, and")


def test_max_batch_sets_every_policy() -> None:
    policies = {name: load("policy", name) for name in ("orca", "baton")}
    assert {policy.max_batch for policy in settings(policies).policies.values()} == {32}
    assert {policy.max_batch for policy in settings(policies, max_batch=7).policies.values()} == {7}


@pytest.mark.parametrize("depth", [{}, {"a": [{"b": 1}]}])
def test_a_foreign_class_is_refused_before_it_is_imported(depth: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "foreign_module_of_a_stranger.py").write_text("class Policy: ...")
    foreign = {"_target_": "foreign_module_of_a_stranger.Policy"}
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(InputError, match=r"_target_=foreign_module_of_a_stranger.Policy is refused"):
            settings({"mine": load("policy", "orca") | {"layout": [depth, foreign] if depth else foreign}})
    finally:
        sys.path.remove(str(tmp_path))
    assert "foreign_module_of_a_stranger" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "workloads.recorded.places.os.system",  # a module that one of ours has imported
        "workloads.recorded.places.Path",  # a class that is not ours
        "policies.orca.Policy",  # ours, but from elsewhere, and abstract
        "policies.policy.Policy",
        "policies.queue.make_queue",  # no class
        "sim.nowhere.Policy",
        "sim.",
    ],
)
def test_only_our_own_configurable_classes_are_made(target: str) -> None:
    import_module("workloads.recorded.places")
    with pytest.raises(InputError, match=r"policy\._target_="):
        build({"_target_": target}, "policy")


def test_a_target_must_begin_with_a_whole_package_name() -> None:
    refuse_foreign({"_target_": "sim.cost.model.Model"})
    for target in ("simulated.Model", "sim", "os.path.join", "${oc.env:X}", 3, None):
        with pytest.raises(InputError, match="is refused"):
            refuse_foreign({"_target_": target})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foo": 1}, "foo: there is no such option; choose from workload, "),
        ({"hardware": None}, "hardware names no _target_"),
        ({"hardware": load("model", "opt_13b")}, "hardware._target_=sim.cost.model.Model is no Hardware"),
        ({"workload": load("policy", "orca")}, "workload._target_=policies.orca.Orca is no Workload"),
        ({"model": load("model", "opt_13b") | {"size": 1}}, "model.size: there is no such option; Model takes name, "),
        ({"model": load("model", "opt_13b") | {"gated": "yes"}}, "model.gated='yes': give true or false"),
        ({"model": load("model", "opt_13b") | {"layers": "many"}}, "model.layers=many: must be a whole number"),
        (
            {"hardware": load("hardware", "rtx4090_datasheet") | {"peak_flops": "fast"}},
            "hardware.peak_flops=fast: must be a",
        ),
        (
            {"hardware": load("hardware", "rtx4090_datasheet") | {"usable_memory": 1.1}},
            "hardware.usable_memory=1.1: must be",
        ),
        ({"max_batch": 0}, "max_batch is 0: give a whole number from 1"),
        ({"kv_tokens": 1.5}, "kv_tokens is 1.5: give a whole number from 1"),
        ({"seed": True}, "seed is True: give a whole number from 0"),
        ({"slo": 1}, "slo=1: give slo.ttft_s=VALUE or slo.tpot_s=VALUE"),
        ({"slo": {"ttft": 1}}, "slo.ttft: there is no such option; did you mean ttft_s? SLO takes ttft_s, tpot_s"),
        ({"timeline": "yes"}, "timeline='yes': give true or false"),
    ],
)
def test_a_wrong_option_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        settings(**changes)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_missing_option_is_named() -> None:
    options = load("model", "opt_13b")
    del options["layers"]
    with pytest.raises(InputError, match=r"model.layers is missing: give model.layers=VALUE"):
        settings(model=options)


def test_among_several_policies_the_wrong_one_is_named() -> None:
    policies = {"orca": load("policy", "orca"), "mine": load("policy", "baton", max_prefill=0)}
    with pytest.raises(InputError, match=r"policy.max_prefill=0: .* \(in policy mine\)"):
        settings(policies)
