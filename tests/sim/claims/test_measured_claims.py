"""Measured results in the claims: each beside its statement, with a verdict of its own interval, and none lost."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from sim.__main__ import main
from sim.claims import measurement, task
from sim.claims.beside import others_in_words, set_beside, where_measured
from sim.claims.experiments import BATONS, SCHOOLS
from sim.claims.measurement import METRICS, OF_TWO, Machine, Measured, Measurement, committed, read_file, write
from sim.claims.run import Claims, measured_row
from sim.claims.statements import SAME_ANSWERS
from sim.claims.task import lines
from sim.claims.verdict import Bound, Finding, Statement, Verdict, in_words
from sim.metrics.interval import Interval
from sim.simulation.results import Results
from tests.command_line import run_here

MACHINE = Machine(
    device="cpu", machine="a computer", model="small", dtype="float32", attention="sdpa", threads=2,
    versions={"torch": "2.13.0"},
)  # fmt: skip
FASTER = Measurement(
    metric="request_throughput", policy="baton", to="orca", workload="sharegpt", load="all at once", num_requests=24,
    max_batch=8, repeats="4 rounds of the same requests, seed 0", count=4, measured=2.0, standard_error=0.01,
    predicted=1.9,
)  # fmt: skip
IDLE = replace(FASTER, metric="idle_time_fraction", to=None, measured=0.2, predicted=0.1)


def measured(*results: Measurement, machine: Machine = MACHINE) -> Measured:
    return Measured(machine=machine, date="2026-11-24", commands=["python -m real"], results=results)


def stated(metric: str, bound: Bound, to: str | None = None) -> Statement:
    found = [Finding({"prefill": "inline"}, Interval(1.0, 0.9, 1.1))]
    return Statement(
        text=metric, source="abstract", quantity="", bound=bound, findings=found, metric=metric, to=to
    )  # fmt: skip


STATEMENTS = [
    stated("request_throughput", Bound(1.75, least=True), "orca"),
    stated("request_throughput", Bound(1.75, least=True), "orca_per_request"),
    stated("idle_time_fraction", Bound(0.05)),
    stated("", Bound(1.0)),
]


def of_first(*results: Measurement) -> Statement:
    """What was measured of the first statement, BATON's throughput relative to Orca's."""
    found = set_beside(STATEMENTS, [measured(*results)]).statements[0].measured
    assert found is not None
    return found


def test_the_interval_is_students_over_what_was_repeated() -> None:
    half = 3.182446 * 0.01  # t of three degrees of freedom
    assert FASTER.found.low == pytest.approx(2 * math.exp(-half), rel=1e-6)
    assert FASTER.found.high == pytest.approx(2 * math.exp(half), rel=1e-6)
    assert (IDLE.found.low, IDLE.found.high) == pytest.approx((0.2 - half, 0.2 + half), rel=1e-6)
    once = replace(FASTER, count=1, standard_error=None).found
    assert (once.low, once.high) == (0, math.inf), "of one run nothing is known"
    assert in_words(once) == "2.00 (no interval)"


def test_a_measured_result_that_is_turned_turns_its_verdict() -> None:
    assert of_first(FASTER).verdict is Verdict.HOLDS
    assert of_first(replace(FASTER, measured=1.0)).verdict is Verdict.FAILS
    assert of_first(replace(FASTER, standard_error=0.05)).verdict is Verdict.OPEN
    assert of_first(replace(FASTER, count=1, standard_error=None)).verdict is Verdict.OPEN
    elsewhere = measured(replace(FASTER, measured=1.0), machine=replace(MACHINE, machine="a GPU", device="cuda"))
    both = set_beside(STATEMENTS, [measured(FASTER), elsewhere]).statements[0].measured
    assert both is not None and (both.verdict, both.condition) == (Verdict.SOMETIMES, "machine a computer, 2 threads")


def test_predicted_and_measured_verdicts_do_not_depend_on_each_other() -> None:
    before = [(statement.verdict, statement.condition) for statement in STATEMENTS]
    beside = set_beside(STATEMENTS, [measured(FASTER, IDLE)])
    assert [(statement.verdict, statement.condition) for statement in beside.statements] == before
    assert of_first(FASTER) == of_first(FASTER, IDLE)
    assert measured_row(of_first(FASTER))["measured"] == (
        "2.00 (1.94 to 2.06), predicted 1.90: machine a computer, 2 threads, model small (float32, sdpa), "
        "workload sharegpt, batch 8, prefill inline, 4 rounds of the same requests, seed 0"
    )


def test_a_ratio_taken_the_other_way_round_is_the_same_result() -> None:
    turned = replace(FASTER, policy="orca", to="baton", measured=0.5, predicted=1 / 1.9)
    (one,), (other,) = of_first(FASTER).findings, of_first(turned).findings
    assert one.factors == other.factors
    assert (one.found.low, one.found.high) == pytest.approx((other.found.low, other.found.high))
    assert one.predicted == pytest.approx(other.predicted)


def test_answers_are_stated_to_be_the_same_and_one_that_differs_is_seen() -> None:
    same = replace(
        FASTER, metric="same_tokens", to="run_to_completion", measured=1.0, standard_error=0.0, predicted=None
    )  # fmt: skip
    for share, verdict in ((1.0, Verdict.HOLDS), (23 / 24, Verdict.FAILS)):
        for error in (0.0, 0.05):  # what an error would make uncertain was seen
            correct = set_beside(STATEMENTS, [measured(replace(same, measured=share, standard_error=error))]).correct
            assert correct is not None and (correct.verdict, correct.quantity) == (verdict, SAME_ANSWERS)
    assert set_beside(STATEMENTS, [measured(FASTER)]).correct is None


def test_batons_that_agree_prove_nothing_but_if_they_differ_one_is_wrong() -> None:
    same = replace(FASTER, metric="same_tokens", to="baton_single", measured=1.0, standard_error=0.0, predicted=None)
    for result in (same, replace(same, policy="baton_single", to="baton")):
        beside = set_beside(STATEMENTS, [measured(result)])
        assert beside.correct is None
        assert [other.result for other in beside.others] == [result]
    wrong = set_beside(STATEMENTS, [measured(replace(same, measured=23 / 24))]).correct
    assert wrong is not None and wrong.verdict is Verdict.FAILS


NAMES = st.sampled_from(list(SCHOOLS))


@st.composite
def results(draw: st.DrawFn) -> Measurement:
    metric = draw(st.sampled_from(METRICS))
    return replace(
        FASTER,
        metric=metric,
        policy=draw(NAMES),
        to=draw(NAMES) if metric in OF_TWO else None,
        load=draw(st.sampled_from(["all at once", "3 requests/s"])),
        measured=draw(st.floats(0.1, 1)),
        predicted=None,
    )


@given(st.lists(results(), min_size=1, max_size=12))
def test_every_result_is_shown_exactly_once(found: Sequence[Measurement]) -> None:
    beside = set_beside(STATEMENTS, [measured(*found)])
    placed = [statement.measured for statement in beside.statements if statement.measured]
    counted = sum(len(one.findings) for one in placed) + (len(beside.correct.findings) if beside.correct else 0)
    assert counted + len(beside.others) == len(found)
    words = " ".join(others_in_words(beside.others))
    assert all(other.result.policy in words and other.result.metric in words for other in beside.others)
    assert all(one.result.policy not in BATONS or one.result.to or one.result.metric != IDLE.metric
               for one in beside.others if one.result.load == "all at once")  # fmt: skip


def test_it_is_only_counted_where_nobody_gave_it() -> None:
    beside = set_beside(STATEMENTS, [measured(replace(FASTER, to="run_to_completion"), replace(IDLE, policy="orca"))])
    claims = Claims(
        statements=beside.statements, samples=[], at_load=Results({}), preempting=Results({}), others=beside.others
    )
    said = [str(line) for line in lines(claims, listed=False) if isinstance(line, Text)]
    assert said[-1] == "- 2 measured results of none of these statements in claims.json"
    assert any("baton 2.00 (1.94 to 2.06)" in str(line) for line in lines(claims))


def test_what_no_statement_is_of_is_listed() -> None:
    others = (
        replace(FASTER, to="run_to_completion"),
        replace(FASTER, load="0.7 of the lowest capacity, 3 requests/s", measured=1.0),
        replace(IDLE, policy="orca"),
    )
    beside = set_beside(STATEMENTS, [measured(*others)])
    assert [other.result for other in beside.others] == list(others)
    assert list(others_in_words(beside.others)) == [
        "- small (float32, sdpa) on a computer, 2 threads: sharegpt, all at once, 8 rows, 4 rounds of the same "
        "requests, seed 0",
        "  request_throughput to run_to_completion: baton 2.00 (1.94 to 2.06), predicted 1.90",
        "  idle_time_fraction: orca 0.20 (0.17 to 0.23), predicted 0.10",
        "- small (float32, sdpa) on a computer, 2 threads: sharegpt, 0.7 of the lowest capacity, 3 requests/s, 8 rows, "
        "4 rounds of the same requests, seed 0",
        "  request_throughput to orca: baton 1.00 (0.97 to 1.03), predicted 1.90",
    ]


def test_where_it_was_measured_is_said() -> None:
    assert "nothing that was measured" in where_measured([])
    assert "small (float32, sdpa) on a computer, 2 threads" in where_measured([measured(FASTER)])
    assert "not of a GPU" in where_measured([measured(FASTER)])
    assert "not of a GPU" not in where_measured([measured(FASTER, machine=replace(MACHINE, device="cuda"))])


# files


def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "a.json", measured(FASTER, replace(IDLE, standard_error=None, count=1)))
    found = read_file(tmp_path / "a.json")
    assert (found.machine, list(found.results)) == (MACHINE, [FASTER, replace(IDLE, standard_error=None, count=1)])


def test_the_page_has_what_was_measured_on_the_cpu() -> None:
    page = (Path(__file__).parents[3] / "docs/claims.md").read_text()
    (held,) = (one for one in committed() if one.machine.machine == "AMD EPYC, 2 cores")
    assert held.commands and all(command.startswith("python -m real ") for command in held.commands)
    rows = [
        f"| {in_words(one.found)} | {one.predicted:.2f} |"
        for one in held.results
        if one.policy == "baton" and one.load == "all at once" and one.to in (None, "orca", "orca_per_request")
        if one.metric != "same_tokens"
    ]
    assert len(rows) == 2 * 3 + 2 * 4
    assert [row for row in rows if row not in page] == []
    assert {one.measured for one in held.results if one.metric == "same_tokens"} == {1.0}


def spoilt(**changes: Any) -> str:
    """A file with one entry of its first result changed; None takes it away."""
    given = json.loads(json.dumps(asdict(measured(FASTER))))
    given["results"][0] |= changes
    given["results"][0] = {name: value for name, value in given["results"][0].items() if value != "gone"}
    return json.dumps(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n', "bad.json, line 2: not valid JSON (Expecting property name enclosed in double quotes)"),
        ("[1]", "bad.json: holds [1], not a JSON object"),
        ("{}", "bad.json: results is null: give a list of at least one"),
        (
            spoilt(metric="speed"),
            "bad.json: results[0].metric is 'speed': choose one of request_throughput, idle_token",
        ),
        (spoilt(measured=-1), "bad.json: results[0].measured is -1: give a number from 1e-09 to 1e+12"),
        (spoilt(measured="2"), "bad.json: results[0].measured is '2': give a number"),
        (spoilt(measured=math.nan), "bad.json: results[0].measured is nan: give a number"),
        (spoilt(metric="idle_time_fraction"), "bad.json: results[0].to is 'orca': idle_time_fraction is of one policy"),
        (spoilt(to=None), "bad.json: results[0].to is null: give it in words"),
        (spoilt(count=1), "bad.json: results[0].standard_error is 0.01: it is not known of one run, give null"),
        (spoilt(count="gone"), "bad.json: results[0].count is missing: give it"),
        (spoilt(colour="red"), "bad.json: results[0].colour is unknown: leave it out"),
        (json.dumps({**asdict(measured(FASTER)), "machine": 1}), "bad.json: machine is 1: give an object"),
        (json.dumps({**asdict(measured(FASTER)), "date": 1}), "bad.json: date is 1: give it in words"),
        (json.dumps({**asdict(measured(FASTER)), "commands": "x"}), "bad.json: commands is 'x': give a list of what"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(task, "try_claims")  # refused before anything is simulated
    Path("bad.json").write_text(text)
    assert run_here(main, "task=claims", "measured=bad.json", "hydra.run.dir=out") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("measured=nothing", "nothing: holds no results of python -m real"),
        ("measured=3", "measured is 3: give a folder or a file, or several as [A,B]"),
        ("measured=[a,3]", "measured is ['a', 3]: give a folder or a file"),
        ("task=run measured=a", "measured=a has no use in task=run: add task=overlay, workload=measured or"),
    ],
)
def test_what_is_no_result_is_refused(
    given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = given.split() if "task=" in given else ["task=claims", *given.split()]
    assert run_here(main, *arguments, "hydra.run.dir=out") == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_the_command_shows_them_beside_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "write_figures", lambda folder, claims: [])
    monkeypatch.setattr(task, "_write_runs", lambda path, claims: None)
    monkeypatch.setattr(measurement, "files", lambda package: tmp_path)
    (tmp_path / "measured").mkdir()
    write(tmp_path / "measured/mine.json", measured(FASTER))
    write(tmp_path / "other.json", measured(replace(FASTER, measured=1.0), replace(FASTER, to="run_to_completion")))

    def tried(setting: Any, size: str, seed: int, on_run: Any, given: Sequence[Measured]) -> Claims:
        nothing: Any = None
        beside = set_beside(STATEMENTS, given)
        return Claims(**vars(beside), measured=given, samples=[], at_load=nothing, preempting=nothing)

    monkeypatch.setattr(task, "try_claims", tried)
    assert run_here(main, "task=claims", "measured=other.json", "hydra.run.dir=out") == 0
    found = json.loads((tmp_path / "out/claims.json").read_text())
    first = found["statements"][0]
    assert [(one["estimate"], one["predicted"]) for one in first["measured_findings"]] == [(2.0, 1.9), (1.0, 1.9)]
    assert (first["verdict"], first["measured_verdict"]) == ("does not hold", "holds when")
    assert [one["result"]["to"] for one in found["other_measurements"]] == ["run_to_completion"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "request_throughput to run_to_completion: baton 2.00 (1.94 to 2.06), predicted 1.90" in shown
