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
from policies.checks import InputError
from sim import capacity, compare, simulate
from sim.__main__ import main
from sim.api import read_requests
from sim.engine.execution import GRAPHS
from sim.metrics.interval import interval
from sim.metrics.slo import SLO
from sim.tasks.comparison import comparison
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


def test_replications_are_those_of_the_command_line(tmp_path: Path) -> None:
    options = ("workload.num_requests=30", "max_batch=4", "seed=3", "replications=3", "pictures=false")
    assert run_here(main, "policies=[orca,baton]", *options, f"hydra.run.dir={tmp_path}") == 0
    few = ShareGPT(num_requests=30, max_new_cap=2048)
    done, written = compare(few, ["orca", "baton"], replications=3, max_batch=4, seed=3), summary(tmp_path)
    frames: Any = (done.intervals, done.ratios)
    intervals, ratios = (frame.astype(object).where(frame.notna(), None) for frame in frames)
    for name in ("orca", "baton"):
        assert intervals.loc[name].to_dict("index") == written["intervals"][name]
    assert ratios.loc[("baton", "orca")].to_dict("index") == written["ratios"]["baton/orca"]
    assert done.notes == written["notes"]
    pd.testing.assert_frame_equal(
        done.runs.reset_index(), pd.read_parquet(tmp_path / "replications.parquet"), check_dtype=False
    )
    means = done.runs.groupby("policy")["output_throughput"].mean()
    assert done.summary["output_throughput"].to_dict() == pytest.approx(means.to_dict())
    for text in (done._repr_html_(), repr(done)):
        assert "±" in text and "baton/orca: throughput" in text


def test_a_capacity_is_that_of_the_command_line(tmp_path: Path) -> None:
    search = ("task=capacity", "slo.ttft_s=0.5", "slo.attainment=0.8", "replications=2", "precision=0.3")
    options = ("policies=[orca_per_request,orca]", "workload.num_requests=30", "max_batch=2", "pictures=false")
    assert run_here(main, *options, *search, f"hydra.run.dir={tmp_path}") == 0
    few = ShareGPT(num_requests=30, max_new_cap=2048)
    search_for: dict[str, Any] = {"attainment": 0.8, "replications": 2, "precision": 0.3, "max_batch": 2}
    found = capacity(few, ["orca_per_request", "orca"], slo=SLO(ttft_s=0.5), **search_for)
    written = summary(tmp_path)
    rates: Any = found.summary
    assert rates.astype(object).where(rates.notna(), None).to_dict("index") == written["capacity"]
    assert found.notes == written["notes"]
    runs = pd.read_parquet(tmp_path / "capacity.parquet").groupby(["policy", "rate"], sort=False)
    np.testing.assert_allclose(runs["slo_attainment"].mean(), found.points["attainment"])
    assert runs.size().tolist() == found.points["replications"].tolist()
    assert f"{found['orca'].rate:,.3g}" in repr(found)
    points: Any = found.points
    at = points.loc[("orca", found["orca"].rate)]
    assert at["attainment_low"] <= at["attainment"] == at["slo_attainment"] >= 0.8


def test_a_frame_is_resampled_and_its_rate_scaled() -> None:
    gaps = np.random.default_rng(0).exponential(10.0, 40)
    frame = pd.DataFrame({"arrival_s": np.cumsum(gaps), "prompt_tokens": 100, "output_tokens": 100})
    done = compare(frame, ["orca"], replications=2)
    assert done.resampled and any("in blocks of 7, drawn with replacement" in note for note in done.notes)
    found = capacity(frame, ["orca"], slo=SLO(ttft_s=1.0), attainment=0.8, replications=2, precision=0.5, max_batch=1)
    twice = capacity(frame.assign(arrival_s=frame["arrival_s"] / 2), ["orca"], slo=SLO(ttft_s=1.0), attainment=0.8,
                     replications=2, precision=0.5, max_batch=1)  # fmt: skip
    pd.testing.assert_frame_equal(found.points, twice.points)
    ends = found.points[["attainment_low", "attainment_high"]].to_numpy()
    expected = [interval(point.attainments, resampled=True) for point in found["orca"].points]
    np.testing.assert_array_equal(ends, [(each.low, each.high) for each in expected])
    assert (ends[:, 1] > ends[:, 0]).any()


def test_a_frame_is_a_trace(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "trace.csv", index=False)
    frame, trace = read_requests(FRAME), Trace(path=str(tmp_path / "trace.csv")).build(0)
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "max_new_tokens", "priority"):
        np.testing.assert_array_equal(getattr(frame, column), getattr(trace, column))
    assert frame.notes == trace.notes
    assert frame.notes[0] == "1 row out of order: all rows sorted by arrival time"
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
    lines = {line.split()[0]: line.split()[1:] for line in repr(results).splitlines()}
    assert lines["policy"] == list(results)
    assert lines["output_throughput"] == [f"{value:,.3g}" for value in frame["output_throughput"]]
    assert lines["mean_tpot_ms"][0] == "-", "answers that leave with their batch have none"
    assert lines["kv_peak_tokens"] == [f"{value:,}" for value in frame["kv_peak_tokens"]]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replications": 1}, "replications is 1: give a whole number from 2"),
        ({"replications": 2, "warm_up": 1.0}, "warm_up is 1.0: give a number from 0 to 0.9"),
        ({"warm_up": 0.2}, "warm_up=0.2 has no use without replications=N"),
        ({"replications": 2, "seed": -1}, "seed is -1: give a whole number from 0"),
        ({"replications": 2, "workload": FEW.build(0)}, "workload: the requests of sharegpt are built: give what"),
        ({"slo": SLO()}, "capacity needs an SLO: give slo.ttft_s=SECONDS"),
        ({"slo": SLO(ttft_s=1), "attainment": 1.0}, "slo.attainment is 1.0: give a number from 0.01"),
        ({"slo": SLO(ttft_s=1), "precision": 0}, "precision is 0: give a number from 0.001"),
        ({"slo": SLO(ttft_s=1)}, "slo.attainment=0.99 of 11 requests that count allows none to miss"),
        ({"slo": SLO(ttft_s=1), "attainment": 0.5, "workload": FRAME.assign(arrival_s=0.0)}, "workload: all requests "),
    ],
)
def test_what_cannot_be_repeated_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        given: dict[str, Any] = {"workload": FEW, "policies": ["orca"]} | options
        (capacity if "slo" in options else compare)(**given)
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
    assert sim.__all__ == ["Capacities", "Replicated", "Results", "capacity", "compare", "simulate"]
    with pytest.raises(AttributeError, match="has no attribute 'foo'"):
        sim.foo  # noqa: B018
