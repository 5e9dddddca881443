"""The simulator from Python: what it takes, and that it answers as the command line does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sim
from policies.baton import Baton
from policies.errors import InputError
from policies.execution import GRAPHS
from sim import compare, comparison, simulate
from sim.__main__ import main
from sim.api import read_requests
from sim.metrics import SLO
from tests.command_line import run_here, summary
from workloads import Frame, ShareGPT, Trace

FRAME = pd.DataFrame(
    {"arrival_s": [0.0, 0.5, 0.2], "prompt_tokens": [30, 20, 10], "output_tokens": [5, 6, 7], "priority": [0, 1, 2]}
)
FEW = ShareGPT(num_requests=12, max_new_cap=2048)


def test_it_answers_as_the_command_line_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    options = ("workload.num_requests=12", "max_batch=4", "seed=3", "slo.ttft_s=1", "hydra.run.dir=out")
    assert run_here(main, "policies=[orca,baton]", *options) == 0
    results = compare(FEW, ["orca", "baton"], max_batch=4, seed=3, slo=SLO(ttft_s=1))
    assert {name: result.summary for name, result in results.items()} == summary(tmp_path / "out")["policies"]
    written = pd.read_parquet(tmp_path / "out/baton/requests.parquet").set_index("request_id")
    given = results["baton"].requests
    assert list(written) == list(given)
    np.testing.assert_array_equal(written["e2e_s"], given["e2e_s"])


def test_a_frame_is_a_trace(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "trace.csv", index=False)
    frame, trace = read_requests(FRAME), Trace(path=str(tmp_path / "trace.csv")).build(0)
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "max_new_tokens", "priority"):
        np.testing.assert_array_equal(getattr(frame, column), getattr(trace, column))
    assert frame.notes == trace.notes == ("1 row out of order: all rows sorted by arrival time",)
    shuffled = FRAME.set_index(pd.Index([7, 7, 1]))
    np.testing.assert_array_equal(read_requests(shuffled).prompt_tokens, [30, 10, 20])
    assert simulate(FRAME).summary == simulate(trace).summary
    faster = Frame(frame=FRAME, rate_multiplier=2.0).build(0)
    np.testing.assert_array_equal(faster.arrival_s, frame.arrival_s / 2)


def test_policies_are_names_or_objects() -> None:
    results = compare(FEW, {"mine": Baton(max_batch=4), "direct": "baton_direct"}, max_batch=3, engine="ideal")
    assert [result.policy.max_batch for result in results.values()] == [4, 3]
    assert simulate(FEW, Baton(max_batch=4), engine="ideal").summary == results["mine"].summary


def test_recorded_steps_are_asked_for_by_name_or_object() -> None:
    named, given = (compare(FEW, ["orca"], execution=execution)["orca"] for execution in ("graphs", GRAPHS))
    assert named.summary == given.summary
    assert named.summary["idle_token_fraction_bucket_dummies"]
    assert not compare(FEW, ["orca"])["orca"].summary["idle_token_fraction_bucket_dummies"]


def test_the_summary_has_a_row_per_policy_and_a_column_per_metric() -> None:
    results = compare(FEW, ["run_to_completion", "orca"])
    frame = results.summary
    assert frame.index.tolist() == list(results) == ["run_to_completion", "orca"]
    assert frame.loc["orca", "output_throughput"] == results["orca"].summary["output_throughput"]
    assert frame["request_throughput"].dtype == np.float64
    assert "output_throughput" in results._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "foo"}, "workload=foo is unknown; choose from azure_code, "),
        ({"policies": ["foo"]}, "policy=foo is unknown; choose from baton, "),
        ({"policies": "orca"}, "policies='orca': give names, such as"),
        ({"policies": []}, "policies=[]: give names, such as"),
        ({"policies": {"mine": 3}}, "policy=3: give a name or a Policy"),
        ({"hardware": "foo"}, "hardware=foo is unknown; choose from a100_sxm, "),
        ({"model": "hf"}, "model.path is missing"),
        ({"kv_tokens": 0}, "kv_tokens is 0: give a whole number from 1"),
        ({"tensor_parallel": 3}, "tensor_parallel=3: communication of hardware=h100_sxm was not measured"),
        ({"max_batch": 0}, "policy.max_batch=0: must be a whole number"),
        ({"execution": "fast"}, "execution=fast: unknown; choose one of eager, graphs"),
        ({"execution": "graphs", "engine": "transformers_eager"}, "execution=graphs: engine=transformers_eager"),
        ({"workload": FRAME.drop(columns="prompt_tokens")}, "DataFrame: no column prompt_tokens: add or rename it"),
        ({"workload": FRAME.head(0)}, "DataFrame: has columns but no rows"),
        (
            {"workload": FRAME.assign(output_tokens=[1, 0, 2])},
            "DataFrame, row 1, column output_tokens: is 0, not a whole",
        ),
        ({"workload": 3}, "workload=3: give a DataFrame, a workload, its requests or a name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        given: dict[str, Any] = {"workload": FEW, "policies": ["orca"]} | options
        compare(**given)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_the_package_is_light_until_it_is_used() -> None:
    heavy = "{'pandas', 'matplotlib', 'numpy', 'simpy', 'torch', 'hydra'}"
    code = f"import sys, sim; print(sorted({heavy} & set(sys.modules))); from sim import simulate; assert simulate"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
    code = f"import sys; from sim import simulate; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pandas" not in shown
    assert "matplotlib" not in shown


def test_there_is_nothing_else_in_the_package() -> None:
    assert sim.__all__ == ["Results", "compare", "simulate"]
    with pytest.raises(AttributeError, match="has no attribute 'foo'"):
        sim.foo  # noqa: B018
