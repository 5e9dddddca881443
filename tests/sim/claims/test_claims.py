"""The claims: verdicts follow from intervals alone, and turn when the data are turned."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.__main__ import main
from sim.api import read_setting
from sim.claims import experiments, figures, task
from sim.claims.experiments import BATONS, ORCAS, SCALES, SCHOOLS, Case, Sampled, Scale, cases, workloads
from sim.claims.run import Claims, try_claims
from sim.claims.statements import speedup, statements
from sim.claims.verdict import Bound, Finding, Statement, Verdict
from sim.metrics.interval import Interval
from sim.metrics.metrics import Summary
from tests.command_line import files, run_here

TINY = Scale(seeds=2, requests=16, batches=(2, 4), prompts=(8, 16), spreads=(0.0, 1.0))


def stated(bound: Bound, *found: tuple[float, float]) -> Statement:
    findings = [
        Finding({"batch": 8 * (place + 1), "prefill": "inline"}, Interval((low + high) / 2, low, high))
        for place, (low, high) in enumerate(found)
    ]
    return Statement(text="faster", source="abstract", quantity="ratio", bound=bound, findings=findings)


AT_LEAST = Bound(1.75, least=True)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([(1.8, 1.9), (1.75, 2.0)], Verdict.HOLDS),
        ([(1.8, 1.9), (1.2, 1.4)], Verdict.SOMETIMES),
        ([(1.8, 1.9), (1.7, 1.8)], Verdict.SOMETIMES),
        ([(1.2, 1.4), (1.3, 1.74)], Verdict.FAILS),
        ([(1.2, 1.4), (1.7, 1.8)], Verdict.OPEN),
        ([(1.7, 1.8)], Verdict.OPEN),
    ],
)
def test_a_verdict_is_what_the_intervals_allow(found: list[tuple[float, float]], verdict: Verdict) -> None:
    assert stated(AT_LEAST, *found).verdict is verdict
    mirrored = [(3.5 - high, 3.5 - low) for low, high in found]
    assert stated(Bound(1.75), *mirrored).verdict is verdict, "at most is at least, turned around"


def test_when_it_holds_is_said_by_the_factors_that_matter() -> None:
    statement = stated(AT_LEAST, (1.0, 1.1), (1.8, 1.9), (1.9, 2.0))
    assert statement.condition == "batch 16 or 24"
    grid = [({"batch": batch, "prompt": prompt}, batch * prompt >= 32) for batch in (16, 8) for prompt in (1, 2, 4)]
    findings = [Finding(factors, Interval(*(3 * [2.0 if holds else 1.0]))) for factors, holds in grid]
    statement = Statement(text="", source="abstract", quantity="", bound=AT_LEAST, findings=findings)
    assert statement.condition == "prompt 2 or 4 (3 of 4 such settings)", "prompt 4 is enough, and does not explain all"
    assert stated(AT_LEAST, (1.8, 1.9)).condition == "", "it holds everywhere"
    assert stated(AT_LEAST, (1.0, 1.1)).condition == "", "it holds nowhere"


def sampled(rates: Mapping[str, Sequence[float]], batch: int = 8) -> Sampled:
    """A setting in which policies have these request rates, one per seed."""
    every: dict[str, Sequence[Summary]] = {
        name: [{"request_throughput": rate, "saturated": False, "gpus": 1} for rate in rates.get(name, rates["others"])]
        for name in ORCAS | BATONS
    }
    case = Case(
        experiment="throughput by batch and prompt", factors={"batch": batch}, workload=workloads(1)["ShareGPT"],
        policies=ORCAS | BATONS,
    )  # fmt: skip
    return Sampled(case=case, summaries=every)


def speedups(*samples: Sampled) -> dict[str, Statement]:
    """The statement on throughput, by the kind of Orca."""
    found = [statement for statement in statements(samples) if statement.text.startswith("up to")]
    return dict(zip(ORCAS, found, strict=True))


def test_the_verdict_turns_when_the_data_are_turned() -> None:
    fast = {name: [20.0, 21.0, 19.0] for name in BATONS}
    slow = {"others": [10.0, 10.6, 9.4]}
    found = speedups(sampled(fast | slow))["orca"]
    assert found.verdict is Verdict.HOLDS
    assert found.highest.found.estimate == pytest.approx((20 * 21 * 19 / (10 * 10.6 * 9.4)) ** (1 / 3))
    turned = dict.fromkeys(BATONS, slow["others"]) | {"others": fast["baton"]}
    assert speedups(sampled(turned))["orca"].verdict is Verdict.FAILS
    noisy = {name: [10.0, 21.0, 25.0] for name in BATONS} | slow
    assert speedups(sampled(noisy))["orca"].verdict is Verdict.OPEN
    both = speedups(sampled(fast | slow, batch=8), sampled(turned, batch=64))["orca"]
    assert (both.verdict, both.condition) == (Verdict.SOMETIMES, "batch 8")


def test_like_is_compared_with_like() -> None:
    summaries: dict[str, Sequence[Summary]] = {
        "one": [{"request_throughput": 4.0, "saturated_request_throughput": 6.0, "saturated": True, "gpus": 2}],
        "two": [{"request_throughput": 3.0, "saturated_request_throughput": None, "saturated": False, "gpus": 1}],
    }
    mixed = Sampled(case=next(cases(TINY)), summaries=summaries)
    assert mixed.query_throughput("one", "two") == ([2.0], [3.0]), "whole runs, per GPU"
    assert mixed.query_throughput("one", "one") == ([3.0], [3.0]), "the saturated parts"


def test_means_do_not_depend_on_the_spread_that_is_varied() -> None:
    for spread in (0.0, 0.7):
        outputs = experiments.spread_lengths(40_000, 64, spread).build(0).output_tokens
        assert outputs.mean() == pytest.approx(experiments.OUTPUT, rel=0.02)
        assert np.log(outputs).std() == pytest.approx(spread, abs=0.01)


@pytest.fixture(scope="module")
def tiny() -> Claims:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "quick", TINY)
        return try_claims(read_setting())


def test_every_statement_is_tried_in_every_setting(tiny: Claims) -> None:
    settings = [len(statement.findings) for statement in tiny.statements]
    assert settings == [4 * 5] * 6 + [(4 + 4) * 5] * 3 + [4, 4]
    runs = tiny.runs()
    assert len(runs) == 2 * (4 * len(SCHOOLS) + 8 * 8 + 4 * 2)
    assert set(runs["policy"]) == set(SCHOOLS)
    assert (runs["completed"] == runs["completed"].where(runs["rejected"] == 0)).all()
    assert {row["verdict"] for row in tiny.table.to_dict("records")} <= {verdict.value for verdict in Verdict}


def test_runs_of_a_setting_share_their_random_numbers_and_seeds_do_not(tiny: Claims) -> None:
    runs = tiny.runs().query("experiment == 'schools' and workload == 'ShareGPT'")
    tokens = runs.groupby("run")["total_output_tokens"].unique()
    assert [len(values) for values in tokens] == [1, 1]
    assert tokens[0] != tokens[1]


def test_maps_show_the_ratios(tiny: Claims) -> None:
    figure = figures.throughput_map(tiny.samples, "prompt")
    shown = [float(text.get_text()) for axes in figure.axes for text in axes.texts]
    expected = [
        speedup(sampled, baton, orca).estimate
        for baton in BATONS
        for orca in ORCAS
        for sampled in tiny.samples
        if sampled.case.experiment == "throughput by batch and prompt"
    ]
    assert shown == pytest.approx(expected, abs=0.0051)


def test_the_command_leaves_every_number_and_figure(
    tiny: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "try_claims", lambda *given: tiny)
    assert run_here(main, "task=claims", "hydra.run.dir=out") == 0
    names = [f"claims_{name}" for name in (
        "idle_time", "throughput_prompt", "throughput_spread", "latency", "resources", "preemption"
    )]  # fmt: skip
    pictures = {f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")}
    assert files(tmp_path / "out") == {"claims.json", "runs.parquet"} | pictures
    found = json.loads((tmp_path / "out/claims.json").read_text())
    assert [row["verdict"] for row in found["statements"]] == tiny.table["verdict"].tolist()
    assert [row["measured"] for row in found["statements"]] == tiny.table["measured"].tolist()
    assert "on AMD EPYC" in found["notes"][1], "what the project holds was measured there"
    assert len(pd.read_parquet(tmp_path / "out/runs.parquet")) == len(tiny.runs())
    shown = " ".join(capsys.readouterr().out.split())
    assert "The paper's own models, GPUs, data and figures were not available" in shown


def test_without_pictures_no_figure_is_drawn_and_none_is_named(
    tiny: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "try_claims", lambda *given: tiny)
    assert run_here(main, "task=claims", "pictures=false", "hydra.run.dir=out") == 0
    assert files(tmp_path / "out") == {"claims.json", "runs.parquet"}
    assert "Figures" not in capsys.readouterr().out


def test_the_line_runs_between_ratios_below_and_above_the_claim() -> None:
    every = [
        Sampled(case=replace(one.case, factors={"batch": batch, "prompt": prompt}), summaries=one.summaries)
        for batch in (8, 16)
        for prompt in (64, 128)
        for one in [sampled(dict.fromkeys(BATONS, [2.0] if (batch, prompt) == (16, 64) else [1.7]) | {"others": [1.0]})]
    ]
    axes = figures.throughput_map(every, "prompt").axes[0]
    lines = {tuple(map(tuple, np.asarray(line.get_path().vertices).tolist())) for line in axes.lines}
    left, right, bottom, top = -0.5, 0.5, 0.5, 1.5  # of the cell of 64 tokens and 16 rows
    corners = ((left, bottom), (right, bottom)), ((left, top), (right, top))
    sides = ((left, bottom), (left, top)), ((right, bottom), (right, top))
    assert lines == {*corners, *sides}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("task=foo", "task=foo is unknown; choose from capacity, claims, explain, overlay, run"),
        ("task=claims claims.size=huge", "claims.size is 'huge': choose one of quick, full"),
        ("claims.size=full", "claims.size=full has no use in task=run"),
        ("task=explain request=1 claims.size=full", "claims.size=full has no use in task=explain"),
        ("task=claims policies=[orca]", "policies=[orca] has no use in task=claims"),
        ("task=claims +policy=orca", "policy=orca has no use in task=claims"),
        ("task=claims workload=azure_conv", "workload= has no use in task=claims"),
    ],
)
def test_what_claims_have_no_use_for_is_refused(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here(main, *arguments.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
