"""Sweeps: what is finished stays, what fails is recorded, and one table holds it all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.checks import InputError
from sim.cli.sweep import (
    FAILED,
    FINISHED,
    Gathered,
    Point,
    fingerprint,
    gather,
    open_sweep,
    program_digest,
    sweep_id,
    write_table,
)
from sim.cli.sweep_picture import axis_of, draw_sweep, headlines, swept_options, write_sweep_plot
from sim.tasks.comparison.run import Run
from tests.command_line import sim

FEW = ("workload.num_requests=5", "hardware=h100_sxm_datasheet", "pictures=false")


pytestmark = pytest.mark.usefixtures("scratch")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "sweep.parquet").to_pylist()
    return found


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the policies that are really simulated."""
    names: list[str] = []
    run = Run._run

    def counted(self: Run, name: str, *rest: Any) -> None:
        names.append(name)
        run(self, name, *rest)

    monkeypatch.setattr(Run, "_run", counted)
    return names


def test_a_sweep_gathers_a_row_for_every_policy_of_every_point(scratch: Path) -> None:
    assert sim("-m", "policies=[orca,baton]", "max_batch=2,3", *FEW, "hydra.sweep.dir=sweep") == 0
    rows = rows_of(scratch / "sweep")
    assert [(row["run"], row["policy"], row["max_batch"], row["status"]) for row in rows] == [
        (0, "orca", 2, FINISHED), (0, "baton", 2, FINISHED), (1, "orca", 3, FINISHED), (1, "baton", 3, FINISHED),
    ]  # fmt: skip
    summaries = [json.loads((scratch / f"sweep/{run}/summary.json").read_text()) for run in (0, 1)]
    for row in rows:
        metrics = summaries[row["run"]]["policies"][row["policy"]]
        assert {name: row[name] for name in metrics} == metrics
        assert (row["hardware"], row["workload.num_requests"]) == ("h100_sxm_datasheet", 5)
    assert (scratch / "sweep/sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_where_it_was_stopped(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "+policy=orca,baton,prefill_first", *FEW)
    run = Run._run

    def stopped(self: Run, name: str, *rest: Any) -> None:
        if name == "baton":
            raise KeyboardInterrupt
        run(self, name, *rest)

    with monkeypatch.context() as once:
        once.setattr(Run, "_run", stopped)
        assert sim(*command) == 130
        assert capsys.readouterr().err.endswith("; the same command goes on with run 1\n")
    (folder,) = (scratch / "multirun").iterdir()
    before = (folder / "0/requests.parquet").stat().st_mtime_ns
    ran.clear()
    assert sim(*command) == 0
    assert ran == ["baton", "prefill_first"]
    assert (folder / "0/requests.parquet").stat().st_mtime_ns == before
    assert (
        "run 0: +policy=orca ++workload.num_requests=5 hardware=h100_sxm_datasheet pictures=False (finished before)"
        in capsys.readouterr().out
    )
    assert [row["policy"] for row in rows_of(folder)] == ["orca", "baton", "prefill_first"]
    ran.clear()
    assert sim(command[0], "hydra/launcher=basic", *reversed(command[1:])) == 0, "how it is launched does not matter"
    assert ran == []


def test_a_point_that_fails_is_recorded_and_the_others_go_on(
    scratch: Path, capsys: pytest.CaptureFixture[str], ran: list[str]
) -> None:
    command = ("-m", "+policy=orca,baton", "policy.prefill=inline", *FEW, "hydra.sweep.dir=sweep")
    assert sim(*command) == 2
    failed, good = rows_of(scratch / "sweep")
    assert (failed["policy"], failed["status"], failed["completed"]) == ("orca", FAILED, None)
    assert failed["error"].startswith("policy.prefill: there is no such option; Orca takes ")
    assert (good["policy"], good["status"], good["completed"]) == ("baton", FINISHED, 5)
    shown = capsys.readouterr()
    assert "run 0 failed: policy.prefill: there is no such option" in shown.err
    assert "error: 1 of 2 points failed (0): sweep.parquet says why" in shown.err
    ran.clear()
    assert sim(*command) == 2
    assert ran == [], "the finished one is not run again"


def test_a_defect_of_ours_stops_no_other_point(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run._run

    def broken(self: Run, name: str, *rest: Any) -> None:
        if name == "orca":
            raise ZeroDivisionError("ours")
        run(self, name, *rest)

    monkeypatch.setattr(Run, "_run", broken)
    assert sim("-m", "+policy=orca,baton", *FEW, "hydra.sweep.dir=sweep") == 1
    assert [(row["policy"], row["error"]) for row in rows_of(scratch / "sweep")] == [
        ("orca", "ZeroDivisionError: ours"), ("baton", None),
    ]  # fmt: skip
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_of_another_sweep_is_refused(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_sweep(scratch / "sweep", ["seed=1,2"])
    assert sim("-m", "seed=1,2,3", "+policy=orca", *FEW, "hydra.sweep.dir=sweep") == 2
    assert capsys.readouterr().err == (
        "error: hydra.sweep.dir=sweep holds another sweep (seed=1,2): choose another folder, or remove it\n"
    )


def point(folder: Path, **settings: Any) -> Point:
    return Point(folder=folder, number=0, overrides=(), fingerprint=fingerprint(settings))


def test_a_point_counts_as_finished_only_for_what_it_was_run_with(scratch: Path) -> None:
    trace = scratch / "trace.csv"
    trace.write_text("a")
    mine = point(scratch / "0", seed=1, workload={"path": "trace.csv"})
    assert not mine.finished
    mine.record(error="no")
    assert not mine.finished
    mine.record()
    assert mine.finished
    assert point(scratch / "0", seed=1, workload={"path": "trace.csv"}).finished
    assert not point(scratch / "0", seed=2, workload={"path": "trace.csv"}).finished
    trace.write_text("ab")
    assert not point(scratch / "0", seed=1, workload={"path": "trace.csv"}).finished
    (scratch / "0/point.json").write_text('{"status": "fini')
    assert not mine.finished, "a torn file is no result"


@pytest.mark.parametrize("told", ["runs", ["trace.csv", "runs"]])
def test_a_file_counts_however_deep_it_lies_and_however_many_are_named(scratch: Path, told: object) -> None:
    results = scratch / "runs/today/orca/summary.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    before = fingerprint({"measured": told}, {})
    assert fingerprint({"measured": told}, {}) == before
    results.write_text('{"seed": 1}')
    changed = fingerprint({"measured": told}, {})
    (results.parent / "requests.parquet").write_text("new")
    assert len({before, changed, fingerprint({"measured": told}, {})}) == 3


@pytest.mark.parametrize(
    "name",
    ["sim/engine/loop.py", "sim/claims/measured/mine.json", "conf/hardware/gpu.json", "workloads/data/lengths.csv"],
)
def test_what_the_program_ships_counts(scratch: Path, name: str) -> None:
    digest = program_digest.__wrapped__  # as it is when first asked for
    shipped = scratch / name
    shipped.parent.mkdir(parents=True)
    shipped.write_text("1")
    before = digest(scratch)
    shipped.with_suffix(".pyc").write_text("what Python made of it")
    assert digest(scratch) == before
    shipped.write_text("2")
    assert digest(scratch) != before


def test_a_sweep_is_named_by_its_arguments() -> None:
    assert sweep_id(["seed=1,2", "+policy=orca"]) == sweep_id(["+policy=orca", "seed=1,2", "hydra/launcher=ray"])
    assert sweep_id(["seed=1,2"]) != sweep_id(["seed=1,2,3"])


def test_columns_keep_their_types_and_mixed_ones_become_text(scratch: Path) -> None:
    overrides = (("max_batch=2", "workload.rate=1.5"), ("max_batch=null", "workload.rate=2"), ("kv_tokens=x", "seed=1"))
    for number, given in enumerate(overrides):
        Point(folder=scratch / str(number), number=number, overrides=given).record()
    sweep = gather(scratch)
    assert sweep.options == ("max_batch", "workload.rate", "kv_tokens", "seed")
    write_table(scratch / "sweep.parquet", sweep.rows)
    columns = pq.read_table(scratch / "sweep.parquet").to_pydict()
    assert columns["max_batch"] == [2, None, None]
    assert columns["workload.rate"] == [1.5, 2.0, None]
    write_table(scratch / "mixed.parquet", [{"a": 1}, {"a": "x"}])
    assert pq.read_table(scratch / "mixed.parquet").to_pydict() == {"a": ["1", "x"]}
    with pytest.raises(InputError, match="cannot be written"):
        write_table(scratch / "gone/sweep.parquet", sweep.rows)


def swept(count: int) -> Gathered:
    rows = [
        {"run": run, "status": FINISHED, "policy": policy, "workload.rate": run % 4, "seed": run // 4,
         "output_throughput": 1.0 * run}
        for run in range(count) for policy in ("orca", "baton")
    ]  # fmt: skip
    return Gathered(rows, ("workload.rate", "seed"))


def finished(run: int, saturated: bool, **metrics: float) -> list[dict[str, Any]]:
    told = {"run": run, "status": FINISHED, "max_batch": run + 1, "saturated_output_throughput": 9.0, **metrics}
    return [{**told, "policy": "orca", "saturated": True}, {**told, "policy": "baton", "saturated": saturated}]


def test_the_picture_marks_the_throughput_that_the_table_of_a_point_shows() -> None:
    rows = finished(0, True, output_throughput=5.0) + finished(1, False, output_throughput=5.0)
    assert headlines(rows) == {(0, "orca"): 9.0, (0, "baton"): 9.0}, "one policy keeps up: the table has whole runs"
    throughput = draw_sweep(Gathered(rows, ("max_batch",)), rows).axes[0]
    marks = [line for line in throughput.get_lines() if line.get_marker() == "D"]
    assert [np.asarray(mark.get_xydata()).tolist() for mark in marks] == [[[1, 9]], [[1, 9]]]
    assert throughput.get_ylim()[1] > 9, "the marks are inside"
    assert "open: while saturated" in throughput.get_ylabel()
    rows = finished(0, False, output_throughput=5.0)
    assert draw_sweep(Gathered(rows, ("max_batch",)), rows).axes[0].get_ylabel() == "output tokens/s, whole run"


def test_latencies_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    for slow, scale in ((140_000.0, "log"), (400.0, "linear")):
        rows = finished(0, True, p99_ttft_ms=50.0) + finished(1, True, p99_ttft_ms=slow)
        latency = draw_sweep(Gathered(rows, ("max_batch",)), rows).axes[1]
        assert latency.get_yscale() == scale
        assert np.asarray(latency.get_lines()[0].get_ydata()).max() == pytest.approx(slow / 1000)


def test_the_swept_number_with_the_most_values_is_drawn_across(scratch: Path) -> None:
    sweep = swept(8)
    assert swept_options(sweep) == ["workload.rate", "seed"]
    assert axis_of(["run", "workload.rate"], sweep.rows) == ("run", ["workload.rate"])
    assert axis_of(["seed", "workload.rate"], sweep.rows) == ("workload.rate", []), "seeds are repetitions"
    assert axis_of(["policy"], sweep.rows) == (None, ["policy"])
    for count in (1, 8, 80):
        path = write_sweep_plot(scratch / f"{count}.png", swept(count))
        assert path is not None
        assert path.read_bytes().startswith(b"\x89PNG")
    nothing = Gathered([{"run": 0, "status": FAILED}], ())
    assert write_sweep_plot(scratch / "none.png", nothing) is None
