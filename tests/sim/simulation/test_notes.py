"""What a reader must know is said twice, in the same words: on the terminal and in summary.json."""

from pathlib import Path

import pytest

from sim.__main__ import main
from sim.tasks.comparison import comparison, run
from tests.command_line import run_here, summary

FEW = ("workload.num_requests=40", "max_batch=4")

CASES = {
    "run": (
        ("policies=[baton,prefill_first,baton_dedicated]", "workload=synthetic_fixed", "workload.output.tokens=9000"),
        ("prefill_first: KV memory is taken as answers grow", "Requests longer than the 8,192", "numbers of GPUs"),
    ),
    "rejected": (
        ("policies=[orca,baton]", "kv_tokens=700", "workload.max_new_tokens=oracle", "workload.rate=0.3"),
        ("Requests rejected because the KV memory", "not saturated, so the throughput is that of the arrivals"),
    ),
    "engine": (
        ("+policy=orca", "hardware=rtx4090", "model=llama2_7b", "interval=true"),
        ("90% intervals: errors of the calibration",),
    ),
    "replications": (
        ("policies=[orca,baton,chunked_prefill]", "replications=2", "workload.rate=1"),
        ("warm-up: the first 4 requests", "not every run was saturated", "each interval holds by itself"),
    ),
    "explain": (
        ("+policy=orca", "task=explain", "request=3", "workload.rate=1"),
        ("not saturated",),
    ),
    "capacity": (
        ("+policy=orca", "task=capacity", "slo.ttft_s=1000", "slo.attainment=0.9", "replications=8", "precision=0.5"),
        ("every rate: up to 8 replications", "orca: the SLO is met at every rate that can be served"),
    ),
    "undecided": (
        ("+policy=orca", "task=capacity", "slo.ttft_s=1000", "slo.attainment=0.9", "replications=2", "precision=0.5"),
        ("orca: at its throughput the SLO is met on average, but not surely",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_summary_keeps_every_warning_that_is_printed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, expected = CASES[case]
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    monkeypatch.setattr(run, "DRAWS", 3)
    assert run_here(main, *FEW, *options, "pictures=false", f"hydra.run.dir={tmp_path}") == 0
    printed = [line.removeprefix("- ") for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert summary(tmp_path)["notes"] == printed
    assert not list(tmp_path.rglob("*.png")), "pictures=false draws nothing, whatever the task"
    for words in expected:
        assert any(words in note for note in printed), printed


@pytest.mark.parametrize(
    "task",
    [("replications=2",), ("task=capacity", "slo.ttft_s=1", "slo.attainment=0.9", "replications=2", "precision=0.5")],
)
def test_what_results_were_achieved_on_is_said_alike(task: tuple[str, ...], tmp_path: Path) -> None:
    options = (*FEW, "+policy=orca", "pictures=false", "seed=3", "hardware=h100_sxm_datasheet")
    assert run_here(main, *options, f"hydra.run.dir={tmp_path}/one") == 0
    assert run_here(main, *options, *task, f"hydra.run.dir={tmp_path}/many") == 0
    one, many = summary(tmp_path / "one"), summary(tmp_path / "many")
    facts = set(one) - {"partial", "policies", "notes", "arrivals"}
    assert facts >= {"workload", "hardware", "model", "seed", "version", "kv_tokens", "engine", "options"}
    assert {name: many[name] for name in facts} == {name: one[name] for name in facts}


def test_what_was_not_measured_is_said_once_and_alike_of_one_run_and_of_many(tmp_path: Path) -> None:
    options = (*FEW, "policies=[orca,baton]", "pictures=false", "hardware=l40s")
    assert run_here(main, *options, f"hydra.run.dir={tmp_path}/one") == 0
    assert run_here(main, *options, "replications=2", f"hydra.run.dir={tmp_path}/many") == 0
    for folder in ("one", "many"):
        said = [note for note in summary(tmp_path / folder)["notes"] if "not measured but extrapolated" in note]
        assert said == [
            "hardware=l40s: not measured but extrapolated: element-wise work (H100's share of the bandwidth)"
        ]
