"""Repeated comparisons, capacity and explanations from the command line."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sim.__main__ import main
from sim.breakdown import PARTS
from sim.interval import interval, ratio_interval
from sim.simulation import simulate
from tests.command_line import files, run_here, summary

FEW = ("workload.num_requests=40", "max_batch=4", "hydra.run.dir=out")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return tmp_path


def sim(*arguments: str) -> int:
    return run_here(main, *arguments)


def test_replications_leave_intervals_that_their_table_bears_out(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim("policies=[orca_per_request,orca]", "replications=4", *FEW) == 0
    assert files(scratch / "out") == {"summary.json", "replications.parquet", "replications.png"}
    found, table = summary(scratch / "out"), pq.read_table(scratch / "out/replications.parquet").to_pandas()
    assert len(table) == 8 and found["replications"] == 4 and found["warm_up_requests"] == 4
    rate = {name: rows["saturated_output_throughput"].tolist() for name, rows in table.groupby("policy")}
    told = found["intervals"]["orca"]["saturated_output_throughput"]
    expected = interval(rate["orca"])
    assert (told["estimate"], told["low"], told["high"]) == pytest.approx(
        (expected.estimate, expected.low, expected.high)
    )
    ratio = ratio_interval(rate["orca"], rate["orca_per_request"])
    told = found["ratios"]["orca/orca_per_request"]["saturated_output_throughput"]
    assert ratio is not None and (told["low"], told["high"]) == pytest.approx((ratio.low, ratio.high))
    assert told["verdict"] == "higher"
    assert len(set(rate["orca"])) == 4, "every replication has requests of its own"
    shown = capsys.readouterr().out
    assert f"orca/orca_per_request: throughput {ratio.estimate:.2f}, 95 % CI {ratio.low:.2f} to" in shown


def test_all_policies_see_the_same_requests_and_the_first_is_that_of_one_run(scratch: Path) -> None:
    (scratch / "my/policy").mkdir(parents=True)
    (scratch / "my/policy/twin.yaml").write_text("defaults: [orca]\n")
    assert sim("policies=[orca,twin]", "--config-dir=my", "replications=2", "warm_up=0", *FEW) == 0
    found = summary(scratch / "out")
    assert {each["verdict"] for each in found["ratios"]["twin/orca"].values()} == {"equal within 2 %"}
    table = pq.read_table(scratch / "out/replications.parquet").to_pandas()
    assert sim("+policy=orca", "policy.max_batch=4", "workload.num_requests=40", "hydra.run.dir=one") == 0
    alone = summary(scratch / "one")["policies"]["orca"]
    first = table[(table["policy"] == "orca") & (table["replication"] == 0)].iloc[0]
    assert {key: first[key] for key in alone if alone[key] is not None} == pytest.approx(
        {key: value for key, value in alone.items() if value is not None}
    )


def test_a_trace_is_resampled(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{at},{10 + at % 7},{1 + at % 5}\n" for at in range(60))
    (scratch / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    options = ("workload=trace", "workload.path=trace.csv", "+policy=orca", "hydra.run.dir=out")
    assert sim(*options, "replications=3") == 0
    found = summary(scratch / "out")
    assert found["resampled"] is True
    assert "in blocks of 8, drawn with replacement" in capsys.readouterr().out
    told = found["intervals"]["orca"]["mean_e2el_ms"]
    values = pq.read_table(scratch / "out/replications.parquet")["mean_e2el_ms"].to_pylist()
    assert told["high"] == pytest.approx(interval(values, resampled=True).high)


def test_a_workload_without_chance_says_so(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("+policy=orca", "workload=synthetic_fixed", "replications=2", "workload.num_requests=20") == 0
    assert "nothing in this workload is random, intervals mean nothing" in capsys.readouterr().out


def test_an_interruption_saves_the_replications_that_are_whole(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter(range(5))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return simulate(*arguments, **options)

    monkeypatch.setattr("sim.draws.simulate", interrupted)
    assert sim("policies=[orca,baton]", "replications=9", *FEW) == 130
    assert capsys.readouterr().err == f"interrupted: saved 2 of 9 replications in {scratch / 'out'}\n"
    found = summary(scratch / "out")
    assert (found["partial"], found["replications"]) == (True, 2)
    assert len(pq.read_table(scratch / "out/replications.parquet")) == 4
    left = iter(range(3))
    assert sim("policies=[orca,baton]", "replications=9", *FEW[:2], "hydra.run.dir=few") == 130
    assert files(scratch / "few") == set()


def test_capacity_is_the_rate_from_which_the_slo_is_missed(scratch: Path) -> None:
    options = ("task=capacity", "policies=[orca_per_request,orca]", "slo.ttft_s=0.2", "slo.attainment=0.9")
    few = ("max_batch=4", "hydra.run.dir=out", "workload.num_requests=60")
    assert sim(*options, "replications=8", "precision=0.05", *few) == 0
    assert files(scratch / "out") == {"summary.json", "capacity.parquet", "capacity.png"}
    found, table = summary(scratch / "out"), pq.read_table(scratch / "out/capacity.parquet").to_pandas()
    for name, told in found["capacity"].items():
        assert 0 < told["low"] <= told["requests_per_s"] <= told["high"] * 1.001
        met = table[table["policy"] == name].groupby("rate")["slo_attainment"].mean()
        assert met[told["requests_per_s"]] >= 0.9
        assert met[met.index <= told["low"]].min() >= 0.9 > met[met.index >= told["high"]].max()
    assert found["capacity"]["orca"]["requests_per_s"] > found["capacity"]["orca_per_request"]["requests_per_s"]


def test_an_explanation_adds_up_to_the_latency(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("task=explain", "request=30", "policies=[orca,baton]", "workload.rate=20", *FEW) == 0
    assert "explanation.png" in files(scratch / "out")
    shown = capsys.readouterr().out
    assert "request 30: " in shown and "end to end" in shown
    for name in ("orca", "baton"):
        row = pq.read_table(scratch / f"out/{name}/requests.parquet").to_pylist()[30]
        assert sum(row[f"{part}_part_s"] for part in PARTS) == pytest.approx(row["e2e_s"])
        assert f"{row['e2e_s']:.3f}" in shown.split("end to end")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("task=foo", "task is 'foo': choose one of run, capacity, explain"),
        ("replications=1", "replications is 1: give a whole number from 2"),
        ("warm_up=0.2", "warm_up=0.2 has no use without replications=N"),
        ("replications=3 warm_up=1", "warm_up is 1: give a number from 0 to 0.9"),
        ("replications=3 timeline=true", "timeline=true has no use with replications=N"),
        ("replications=3 seed=9223372036854775807", "seed=9223372036854775807: there are not 3 seeds after it"),
        ("request=3", "request=3 has no use in task=run"),
        ("slo.attainment=0.9", "slo.attainment=0.9 has no use in task=run"),
        ("task=capacity", "task=capacity needs an SLO: give slo.ttft_s=SECONDS"),
        ("task=capacity slo.ttft_s=1 slo.attainment=1", "slo.attainment is 1: give a number from 0.01 to 0.9999"),
        ("task=capacity slo.ttft_s=1 precision=0", "precision is 0: give a number from 0.001 to 0.5"),
        ("task=capacity slo.ttft_s=1 request=3", "request=3 has no use in task=capacity"),
        (
            "task=capacity slo.ttft_s=1 workload.num_requests=100",
            "slo.attainment=0.99 of 90 requests that count allows",
        ),
        (
            "task=capacity slo.ttft_s=1 workload.arrival=closed_loop workload.concurrency=3",
            "workload.arrival=closed_loop has no rate",
        ),
        ("task=explain", "request is null: give a whole number from 0"),
        ("task=explain request=1000", "request=1000: the workload has requests 0 to 999"),
        ("task=explain request=3 replications=3", "replications=3 has no use in task=explain"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: str, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1
    assert not files(scratch)


def test_the_summary_is_json_that_any_reader_takes(scratch: Path) -> None:
    assert sim("+policy=orca", "replications=2", *FEW[:1], "hydra.run.dir=out") == 0
    json.loads((scratch / "out/summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
