"""What a measured file says is held against what was simulated."""

from dataclasses import replace

import numpy as np
import pytest

from sim.tasks.measured_facts import facts_that_differ, same_model, unit_that_differs
from tests.runs import LLAMA3_8B
from workloads.demand import Demand
from workloads.recorded.measured import MeasuredRun


def run(**facts: object) -> MeasuredRun:
    one = np.ones(1)
    demand = Demand(prompt_tokens=np.ones(1, np.int64), output_tokens=np.ones(1, np.int64))
    return replace(MeasuredRun(name="run.json", demand=demand, ttft_s=one, e2e_s=one), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3_8b"),
        ("meta-llama/Llama-3.1-8B", "llama3_1_8b"),
        ("/models/Llama-2-7b-chat-hf/", "llama2_7b"),
        ("codellama/CodeLlama-34b-Instruct-hf", "codellama_34b"),
        ("Qwen/Qwen3-32B", "qwen3_32b"),
        ("facebook/opt-13b", "opt_13b"),
    ],
)
def test_a_model_is_known_by_the_name_of_the_hub(said: str, name: str) -> None:
    assert same_model(said, replace(LLAMA3_8B, name=name))
    assert not same_model(said, replace(LLAMA3_8B, name="other_7b"))


@pytest.mark.parametrize(
    "said", ["Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B-AWQ", "Qwen/Qwen3-3B", "Qwen/Qwen2-32B", "gpt-4", ""]
)
def test_another_model_is_none(said: str) -> None:
    assert not same_model(said, replace(LLAMA3_8B, name="qwen3_32b"))


def test_the_folder_of_a_model_is_a_name_too() -> None:
    assert same_model("org/My-Own_9B", replace(LLAMA3_8B, name="label", source="/data/my-own-9b/config.json"))


def test_only_what_differs_is_told() -> None:
    alike = run(model="meta-llama/Meta-Llama-3-8B", gpus=2, client="vLLM")
    assert list(facts_that_differ(alike, LLAMA3_8B, 2, False)) == []
    assert list(facts_that_differ(run(), LLAMA3_8B, 4, True)) == [], "the file says nothing"
    model, gpus, server = facts_that_differ(run(model="a/b", gpus=8, client="vLLM"), LLAMA3_8B, 1, True)
    assert "its model is a/b, and llama3_8b is simulated" in model
    assert "8 GPUs, and 1 is simulated: give tensor_parallel=8" in gpus
    assert "vLLM takes the times of a client" in server


@pytest.mark.parametrize(
    ("factor", "unit"),
    [
        (1, None),
        (20, None),
        (0.01, None),
        (200, "milli"),
        (4e3, "milli"),
        (1 / 900, "milli"),
        (8e5, "micro"),
        (2e9, "nano"),
    ],
)
def test_times_in_another_unit_show_in_their_size(factor: float, unit: str | None) -> None:
    predicted = np.array([0.2, 0.4, np.nan, 1.5])
    note = unit_that_differs(predicted * factor * np.array([1.3, 0.8, 1, 1]), predicted)
    assert (note is None) is (unit is None)
    if note is not None:
        assert f"{unit}seconds" in note
    assert unit_that_differs(np.array([np.nan, 0.0]), np.array([1.0, 1.0])) is None
