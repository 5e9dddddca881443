"""Repeated comparisons, capacity and explanations: what they leave, and how they answer what is wrong."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from policies.checks import InputError
from sim.__main__ import main, run_task
from sim.config.settings import build
from sim.metrics.breakdown import PARTS
from sim.metrics.interval import in_words, interval, ratio_interval
from sim.metrics.metrics import Summary
from sim.metrics.slo import SLO
from sim.simulation.draws import Draws
from sim.simulation.simulation import Simulation
from sim.tasks.capacity.results import CapacitySearch, unit_draws
from sim.tasks.comparison import comparison
from sim.tasks.trial import Trial
from tests.command_line import files, run_here, summary
from tests.sim.config.test_settings import load, settings
from workloads.requests import Requests


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longest: of each picture one test is enough."""
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    monkeypatch.setattr(
        "sim.tasks.replications.task.write_replication_plot", lambda folder, done: folder / "replications.png"
    )


def run(folder: Path, *policies: str, workload: str = "sharegpt", **changes: Any) -> str:
    """Do a task on a few requests of a workload and return what is printed; `changes` are options at the top."""
    few = {"num_requests": 40} | changes.pop("of_workload", {})
    options = {"workload": load("workload", workload, **few), "max_batch": 4} | changes
    shown = io.StringIO()
    made = settings({name: load("policy", name) for name in policies}, **options)
    run_task(made, folder, Console(file=shown, width=200))
    return shown.getvalue()


def test_replications_leave_intervals_that_their_table_bears_out(tmp_path: Path) -> None:
    shown = run(tmp_path, "orca_per_request", "orca", replications=4, of_workload={"num_requests": 100})
    assert files(tmp_path) == {"summary.json", "replications.parquet"}
    found, table = summary(tmp_path), pq.read_table(tmp_path / "replications.parquet").to_pandas()
    assert len(table) == 8 and found["replications"] == 4 and found["warm_up_requests"] == 10
    rate = {name: rows["saturated_output_throughput"].tolist() for name, rows in table.groupby("policy")}
    told, expected = found["intervals"]["orca"]["saturated_output_throughput"], interval(rate["orca"])
    assert list(told.values()) == pytest.approx([expected.estimate, expected.low, expected.high])
    ratio = ratio_interval(rate["orca"], rate["orca_per_request"])
    told = found["ratios"]["orca/orca_per_request"]["saturated_output_throughput"]
    assert ratio is not None and (told["low"], told["high"]) == pytest.approx((ratio.low, ratio.high))
    assert told["verdict"] == "higher"
    assert len(set(rate["orca"])) == 4, "every replication has requests of its own"
    assert f"orca/orca_per_request: throughput {in_words(ratio)}" in shown
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_first_replication_is_that_of_one_run(tmp_path: Path) -> None:
    run(tmp_path / "many", "orca", replications=2, warm_up=0)
    run(tmp_path / "one", "orca")
    alone = summary(tmp_path / "one")["policies"]["orca"]
    first = pq.read_table(tmp_path / "many/replications.parquet").to_pylist()[0]
    assert {key: first[key] for key in alone} == alone


def test_all_policies_see_the_same_requests(tmp_path: Path) -> None:
    """Without shared prefixes and preemption a budget that is never reached changes nothing."""
    twins = {name: load("policy", "orca") for name in ("orca", "twin")}
    run_task(
        settings(twins, replications=2, workload=load("workload", "sharegpt", num_requests=40)),
        tmp_path,
        Console(file=io.StringIO()),
    )
    verdicts = {each["verdict"] for each in summary(tmp_path)["ratios"]["twin/orca"].values()}
    assert verdicts == {"equal within 2 %"}


def test_a_trace_is_resampled(tmp_path: Path) -> None:
    rows = "".join(f"{at},{10 + at % 7},{1 + at % 5}\n" for at in range(60))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    path = {"path": str(tmp_path / "trace.csv"), "num_requests": None}
    shown = run(tmp_path / "out", "orca", workload="trace", of_workload=path, replications=3)
    found = summary(tmp_path / "out")
    assert found["resampled"] is True
    assert "in blocks of 8, drawn with replacement" in shown
    values = pq.read_table(tmp_path / "out/replications.parquet")["mean_e2el_ms"].to_pylist()
    assert len(set(values)) == 3
    assert found["intervals"]["orca"]["mean_e2el_ms"]["high"] == pytest.approx(interval(values, resampled=True).high)


@pytest.mark.parametrize(("count", "short"), [(999, True), (1000, False)])
def test_the_intervals_of_a_short_trace_are_said_to_be_narrow(count: int, short: bool, tmp_path: Path) -> None:
    rows = "".join(f"{at},10,5\n" for at in range(count))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    trace = load("workload", "trace", path=str(tmp_path / "trace.csv"), num_requests=None)
    notes = Draws(build(trace, "workload"), 0, 2).notes
    assert any("intervals are too narrow" in note for note in notes) is short


def test_it_is_said_of_how_many_replications_nobody_can_tell_whether_they_keep_up(tmp_path: Path) -> None:
    shown = run(tmp_path, "orca", replications=2, max_batch=32, of_workload={"rate": 3})
    values = pq.read_table(tmp_path / "replications.parquet")
    assert values["falls_behind"].to_pylist() == [None, None] and not any(values["saturated"].to_pylist())
    assert "orca: 2 of 2 replications cannot tell whether it keeps up with the arrivals" in shown


def test_a_workload_without_chance_says_so(tmp_path: Path) -> None:
    shown = run(tmp_path, "orca", workload="synthetic_fixed", replications=2)
    assert "nothing in this workload is random, intervals mean nothing" in shown


def test_an_interruption_saves_the_replications_that_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_after(runs: int) -> None:
        left = iter(range(runs))

        def interrupted(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return Simulation(*arguments, **options)

        monkeypatch.setattr("sim.tasks.trial.Simulation", interrupted)

    interrupt_after(5)
    with pytest.raises(KeyboardInterrupt, match=f"interrupted: saved 2 of 9 replications in {tmp_path}"):
        run(tmp_path / "two", "orca", "baton", replications=9)
    found = summary(tmp_path / "two")
    assert (found["partial"], found["replications"]) == (True, 2)
    assert len(pq.read_table(tmp_path / "two/replications.parquet")) == 4
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt, match="fewer than two replications were finished, nothing was saved"):
        run(tmp_path / "one", "orca", "baton", replications=9)
    assert files(tmp_path / "one") == set()


def fail_at(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run with this number, from 1 on, end with what a person must mend."""
    trial_run, numbers = Trial.run, iter(range(1, run + 1))

    def failing(*arguments: Any) -> Any:
        if next(numbers) == run:
            raise InputError("policy mine at 3 s: something is wrong")
        return trial_run(*arguments)

    monkeypatch.setattr(Trial, "run", failing)


def test_what_was_finished_before_an_error_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nine replications of two policies, run 7 is the first of the fourth replication."""
    told = f"^policy mine at 3 s: something is wrong; saved 3 of 9 replications in {tmp_path}"
    with monkeypatch.context() as patched, pytest.raises(InputError, match=told):
        fail_at(7, patched)
        run(tmp_path / "out", "orca", "baton", replications=9)
    found = summary(tmp_path / "out")
    assert (found["partial"], found["replications"]) == (True, 3)
    assert len(pq.read_table(tmp_path / "out/replications.parquet")) == 6
    fail_at(3, monkeypatch)
    with pytest.raises(InputError, match=r"something is wrong$"):
        run(tmp_path / "none", "orca", "baton", replications=9)
    assert files(tmp_path / "none") == set()


CAPACITY: dict[str, Any] = {
    "task": "capacity",
    "slo": {"ttft_s": 1.0, "tpot_s": None, "attainment": 0.8},
    "precision": 0.3,
}


def test_a_capacity_that_was_found_before_an_error_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "alone", "orca", replications=2, pictures=False, **CAPACITY)
    expected = summary(tmp_path / "alone")["capacity"]
    runs: list[str] = []
    trial_run = Trial.run

    def failing(trial: Trial, name: str, requests: Requests) -> Any:
        runs.append(name)
        if runs.count("baton") == 3:
            raise InputError("policy baton: something is wrong")
        return trial_run(trial, name, requests)

    monkeypatch.setattr(Trial, "run", failing)
    with pytest.raises(InputError, match=r"something is wrong; saved what was found \(orca\) in "):
        run(tmp_path / "out", "orca", "baton", replications=2, **CAPACITY)
    found = summary(tmp_path / "out")
    assert found["partial"] is True and found["capacity"] == expected


def test_a_policy_that_serves_nobody_has_no_capacity_and_the_others_have(tmp_path: Path) -> None:
    """A batch that is made anew at every step needs more memory than there is, whatever the rate."""
    options: dict[str, Any] = {"replications": 2, "kv_tokens": 3600, "max_batch": 32} | CAPACITY
    shown = run(tmp_path, "orca", "baton_concatenate", report=True, **options)
    found = summary(tmp_path)
    assert found["partial"] is False and found["capacity"]["orca"]["requests_per_s"] > 0
    assert found["capacity"]["baton_concatenate"] == {
        "requests_per_s": 0, "low": 0, "high": 0, "saturated_request_throughput": 0, "limited_by_throughput": False,
    }  # fmt: skip
    told = "baton_concatenate: no request was served even with all there from the start: the capacity is 0"
    assert told in shown and told in found["notes"]
    missed = next(line for line in shown.splitlines() if "surely missed from" in line)
    assert missed.split()[-1] == "any"
    page = (tmp_path / "report.html").read_text()
    assert "more than baton_concatenate, which meets the SLO at no rate" in page
    assert files(tmp_path) == {"summary.json", "capacity.parquet", "capacity.png", "report.html"}


def test_replications_tell_of_a_policy_that_serves_nobody_and_leave_it_out(tmp_path: Path) -> None:
    """Three times 40 requests, of which 36 count."""
    shown = run(tmp_path, "orca", "baton_concatenate", replications=3, kv_tokens=3600, max_batch=32)
    for told in (
        "baton_concatenate: no request was served, so there is nothing to compare.",
        "Requests rejected because the KV memory can never hold them: baton_concatenate 108 of 108.",
    ):
        assert told in shown and told in summary(tmp_path)["notes"]
    assert "throughputs are those of whole runs" not in shown, "orca was saturated each time"
    saturated = summary(tmp_path)["policies"]["orca"]["saturated_output_throughput"]
    line = next(line for line in shown.splitlines() if line.startswith("output tokens/s"))
    assert line.split()[2] == f"{saturated:,.2f}" and line.split()[-1] == "-"


def test_warnings_of_many_runs_are_those_of_all_of_them() -> None:
    """Counts are added up, shares are averaged: 0.1 % is worth a warning and 0.05 % is not."""
    policies = {name: load("policy", "orca") for name in ("orca", "rare", "none")}
    made = settings(policies, workload=load("workload", "sharegpt", num_requests=5))
    trial = Trial(setting=made, policies=made.policies, draws=Draws(made.workload, 0, 2), warm_up=0)
    quiet: Summary = {"completed": 5, "rejected": 0, "unfinished": 0, "beyond_calibration": 0.0, "gpus": 1}
    runs: dict[str, list[Summary]] = {
        "orca": [quiet | {"completed": 3, "rejected": 2}, quiet | {"completed": 4, "unfinished": 1}],
        "rare": [quiet | {"beyond_calibration": 0.0006}, quiet | {"beyond_calibration": 0.0014}],
        "none": [quiet, quiet | {"beyond_calibration": 0.001}],
    }
    assert trial.warnings(runs) == [
        "Requests rejected because the KV memory can never hold them: orca 2 of 10.",
        "Requests not finished when nothing could happen any more: orca 1 of 10.",
        f"Iterations larger than any measured on {made.hardware.name}, with times extrapolated: rare 0.1%.",
    ]
    assert trial.warnings({name: runs["none"] for name in policies}) == []


def test_if_no_policy_serves_anybody_there_is_nothing_to_search(tmp_path: Path) -> None:
    options: dict[str, Any] = {"replications": 2, "kv_tokens": 3600, "max_batch": 32} | CAPACITY
    with pytest.raises(InputError, match=r"^baton_concatenate: no request of this workload is served: give more"):
        run(tmp_path, "baton_concatenate", **options)
    assert files(tmp_path) == set()


def test_capacity_is_the_rate_from_which_the_slo_is_missed(tmp_path: Path) -> None:
    slo = {"ttft_s": 0.2, "tpot_s": None, "attainment": 0.9}
    run(tmp_path, "orca_per_request", "orca", task="capacity", slo=slo, replications=8, precision=0.2)
    assert files(tmp_path) == {"summary.json", "capacity.parquet", "capacity.png"}
    found, table = summary(tmp_path), pq.read_table(tmp_path / "capacity.parquet").to_pandas()
    for name, told in found["capacity"].items():
        assert 0 < told["low"] <= told["requests_per_s"] <= told["high"]
        met = table[table["policy"] == name].groupby("rate")["slo_attainment"].mean()
        assert met[told["requests_per_s"]] >= 0.9
        assert met[met.index <= told["low"]].min() >= 0.9 > met[met.index >= told["high"]].max()
    assert found["capacity"]["orca"]["requests_per_s"] > found["capacity"]["orca_per_request"]["requests_per_s"]


def test_the_capacity_of_a_trace_is_a_rate_whatever_it_was_recorded_at(tmp_path: Path) -> None:
    """One server, one length: nearly all must not wait, so the load is low; at 0.01 requests/s nobody ever waited."""
    gaps = np.random.default_rng(0).exponential(100, 40)
    rows = "".join(f"{at:.3f},100,100\n" for at in np.cumsum(gaps))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    path = {"path": str(tmp_path / "trace.csv"), "num_requests": None}
    slo = {"ttft_s": 0.1, "tpot_s": None, "attainment": 0.7}
    options: dict[str, Any] = {"task": "capacity", "slo": slo, "replications": 4, "precision": 0.1, "max_batch": 1}
    run(tmp_path / "out", "orca", workload="trace", of_workload=path, **options)
    found = summary(tmp_path / "out")["capacity"]["orca"]
    assert not found["limited_by_throughput"]
    assert found["requests_per_s"] == pytest.approx(0.3 * found["saturated_request_throughput"], rel=0.4)


def test_the_top_rate_is_the_mean_of_floods_and_rates_are_those_of_the_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace with a request every 4 s; four saturated runs serve 1, 2, 3 and 6 requests/s."""
    rows = "".join(f"{4 * place},10,10\n" for place in range(21))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    made = settings(
        {"orca": load("policy", "orca")}, workload=load("workload", "trace", path=str(tmp_path / "trace.csv"))
    )
    floods, gaps = iter([1.0, 2.0, 3.0, 6.0]), set[float]()

    def served(_: Trial, __: str, requests: Requests) -> Summary:
        if not requests.arrival_s.any():
            return {"saturated": True, "saturated_request_throughput": next(floods)}
        gaps.update(np.diff(requests.arrival_s).round(9).tolist())
        return {"slo_attainment": 1.0}

    monkeypatch.setattr(Trial, "run", served)
    draws = unit_draws(made.workload, SLO(ttft_s=1.0), 0, 4)
    trial = Trial(setting=made, policies=made.policies, draws=draws, warm_up=0)
    found = CapacitySearch(trial, attainment=0.5, precision=0.5, replications=4)()["orca"]
    assert found.saturated == found.rate == 3.0
    assert sorted(gaps) == pytest.approx(sorted(1 / point.rate for point in found.points))


def test_an_explanation_adds_up_to_the_latency(tmp_path: Path) -> None:
    shown = run(tmp_path, "orca", "baton", task="explain", request=30)
    assert "explanation.png" in files(tmp_path)
    assert "request 30: " in shown
    for name in ("orca", "baton"):
        row = pq.read_table(tmp_path / name / "requests.parquet").to_pylist()[30]
        assert sum(row[f"{part}_part_s"] for part in PARTS) == pytest.approx(row["e2e_s"])
        assert f"{row['e2e_s']:.3f}" in shown.split("request 30: end to end")[1].splitlines()[0]


ASKED = {"ttft_s": 1.0, "tpot_s": None, "attainment": 0.99}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replications": 1}, "replications is 1: give a whole number from 2"),
        ({"warm_up": 0.2}, "warm_up=0.2 has no use without replications=N"),
        ({"replications": 3, "warm_up": 1}, "warm_up is 1: give a number from 0 to 0.9"),
        ({"replications": 3, "timeline": True}, "timeline=true has no use with replications=N"),
        ({"replications": 3, "seed": 2**63 - 1}, "seed=9223372036854775807: there are not 3 seeds after it"),
        ({"slo": ASKED}, "slo.attainment: there is no such option; SLO takes ttft_s, tpot_s"),
        ({"task": "capacity"}, "capacity needs an SLO: give slo.ttft_s=SECONDS"),
        ({"task": "capacity", "slo": ASKED | {"attainment": 1}}, "slo.attainment is 1: give a number from 0.01"),
        ({"task": "capacity", "slo": ASKED, "precision": 0}, "precision is 0: give a number from 0.001 to 0.5"),
        ({"task": "capacity", "slo": ASKED}, "slo.attainment=0.99 of 36 requests that count allows none to miss"),
        (
            {"task": "capacity", "slo": ASKED, "of_workload": {"arrival": "closed_loop", "concurrency": 3}},
            "workload.arrival=closed_loop has no rate",
        ),
        ({"task": "explain"}, "request is null: give a whole number from 0"),
        ({"task": "explain", "request": 40}, "request=40: the workload has requests 0 to 39; give one of them"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run(tmp_path, "orca", **options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not files(tmp_path)


def test_the_command_line_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert run_here(main, "replications=2", "workload.num_requests=5", "+policy=orca", "hydra.run.dir=out") == 0
    assert summary(tmp_path / "out")["replications"] == 2
    assert run_here(main, "task=capacity", "slo.attainment=0.9") == 2
    assert capsys.readouterr().err.startswith("error: capacity needs an SLO")


def test_the_picture_of_replications_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run(tmp_path, "orca", "baton", replications=2)
    assert (tmp_path / "replications.png").read_bytes().startswith(b"\x89PNG")
