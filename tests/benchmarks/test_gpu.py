"""What `make gpu` makes of what it measures, and that nothing of it is lost; all of it rehearsed once, on a CPU."""

import gc
import json
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import decode_steps, exactness, insertion, profiles, ratios, throughput
from benchmarks.gpu.bench import Bench, kv_tokens_for, policies_of
from benchmarks.gpu.claims import write_claims
from benchmarks.gpu.decode_steps import TARGETED, Cell, cells_of, steady_steps, weights_read
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import QUICK
from benchmarks.gpu.targets import Line, lines
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.claims.measurement import read_file
from sim.engine.execution import EAGER, GRAPHS
from sim.engine.iteration_log import DTYPE, IterationLog

LEAST = replace(
    QUICK,
    exact_rows=1,
    exact_requests=1,
    exact_tokens=8,
    step_batches=(1,),
    newcomers=(8,),
    insertions=1,
    batch=1,
    requests_per_row=1,
    longest=24,
    compared=("orca",),
    compared_batches=(1,),
)


def bench_in(folder: Path) -> Bench:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    return Bench(device=device, dtype="float32", models=("tiny_llama",), sizes=LEAST, folder=folder, bandwidth=1e10)


def record_in(folder: Path) -> Record:
    return Record(folder / "section.json", {})


# steps


def test_a_step_lasts_until_the_next_and_only_full_batches_that_just_decode_count() -> None:
    #  place     0: prefill   1: joins   2     3     4: copies   5     6     7: a row less
    records = np.zeros(8, dtype=DTYPE)
    records["rows"] = [0, 2, 2, 2, 2, 2, 2, 1]
    records["prefill_rows"][0], records["inserted_rows"][1], records["kv_copied"][4] = 2, 2, 7
    records["start_s"] = [0, 10, 20, 31, 42, 60, 73, 99]
    records["duration_s"] = [9, 9, 8, 7, 6, 5, 4, 3]
    records["kv_read"] = [0, 10, 12, 14, 16, 18, 20, 11]
    steps = steady_steps(records, 2)
    assert steps.period_s == [11, 13] and steps.duration_s == [8, 5] and steps.kv_read == [12, 18]


def test_what_has_a_target_is_timed_first_then_the_others_batch_by_batch() -> None:
    cells = cells_of("m", (64, 1))
    assert [(cell.policy, cell.execution) for cell in cells[:4]] == [TARGETED] * 4
    assert not any((cell.policy, cell.execution) == TARGETED for cell in cells[4:])
    assert [cell.batch for cell in cells[4:]] == [64] * 14 + [1] * 14
    assert len(set(cells)) == len(cells) == 2 * 2 * 8


def test_the_floor_counts_all_weights_but_an_embedding_that_is_no_head(tmp_path: Path) -> None:
    network = bench_in(tmp_path).network("tiny_llama", EAGER)
    model = network.dimensions
    layer = (
        model.hidden * (model.heads + 2 * model.kv_heads) * model.head_dim + model.heads * model.head_dim * model.hidden
    )
    layer += 3 * model.hidden * model.intermediate + 2 * model.hidden
    assert weights_read(network) == 4 * (model.layers * layer + model.hidden + model.hidden * model.vocabulary)


# policies and memory


def test_every_policy_that_one_device_can_run_is_run() -> None:
    policies = policies_of(3)
    assert {"baton", "baton_ragged", "orca", "orca_per_request", "chunked_prefill"} <= policies.keys()
    assert "baton_dedicated" not in policies
    assert all(policy.max_batch == 3 and not policy.traits.finds_prefixes for policy in policies.values())


@pytest.mark.parametrize("execution", [EAGER, GRAPHS])
def test_a_run_leaves_no_kv_memory_behind(tmp_path: Path, execution: Any) -> None:
    bench = bench_in(tmp_path)
    requests, network, policy = bench.sharegpt(2, 12), bench.network("tiny_llama", execution), policies_of(2)["orca"]
    prompts = random_prompts(requests, network.dimensions.vocabulary, seed=0)
    gc.disable()
    try:
        engine = Engine(requests, policy, network, prompts, IterationLog(), kv_tokens_for(network, [policy], requests))
        engine.run()
        executor = weakref.ref(engine.executor)
        del engine
        assert executor() is None
    finally:
        gc.enable()


# sections


SECTIONS: list[tuple[Callable[[Bench, Record, float], None], list[str]]] = [
    (exactness.measure, ["baton eager", "orca graphs"]),
    (insertion.measure, ["8 tokens"]),
    (decode_steps.measure, [str(Cell("tiny_llama", "baton_ragged", GRAPHS, "equal", 1))]),
    (profiles.measure, ["the profile of graphs", "the profile of eager"]),
    (ratios.measure, ["graphs, batch 1", "eager, batch 1"]),
    (throughput.measure, ["generate", "generate_batch", "generate, static cache", "baton graphs"]),
]


@pytest.mark.parametrize(("measure", "among"), SECTIONS, ids=lambda value: getattr(value, "__module__", ""))
def test_without_time_everything_is_left_out_and_said(
    tmp_path: Path, measure: Callable[[Bench, Record, float], None], among: list[str]
) -> None:
    record = record_in(tmp_path)
    measure(bench_in(tmp_path), record, -math.inf)
    written = json.loads((tmp_path / "section.json").read_text())
    assert not written["rows"] and set(among) <= set(written["left_out"])


def patched(monkeypatch: pytest.MonkeyPatch, *sections: gpu.Section) -> None:
    monkeypatch.setattr(gpu, "SECTIONS", sections)


def test_a_section_that_fails_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(bench: Bench, record: Record, until: float) -> None:
        record.add(value=1)
        raise ValueError("the first line\nand more")

    def works(bench: Bench, record: Record, until: float) -> None:
        record.add(value=2)
        assert json.loads((tmp_path / "good.json").read_text())["rows"] == [{"value": 2}], "not on disk at once"

    patched(monkeypatch, gpu.Section("bad", 1, fails), gpu.Section("good", 1, works))
    found: dict[str, Any] = {}
    gpu.run(bench_in(tmp_path), {"machine": "here"}, time.perf_counter(), found)
    bad, good = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("bad", "good"))
    assert bad["reason"] == "ValueError: the first line" and not bad["complete"] and bad["rows"] == [{"value": 1}]
    assert "in fails" in "".join(bad["traceback"])
    assert good["complete"] and good["rows"] == [{"value": 2}] and good["machine"] == "here"
    assert found["good"]["rows"] == good["rows"]


def test_an_interruption_keeps_what_was_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(bench: Bench, record: Record, until: float) -> None:
        record.add(value=1)
        raise KeyboardInterrupt

    patched(monkeypatch, gpu.Section("stopped", 1, stopped), gpu.Section("later", 1, stopped))
    with pytest.raises(KeyboardInterrupt):
        gpu.run(bench_in(tmp_path), {}, time.perf_counter(), {})
    left = json.loads((tmp_path / "stopped.json").read_text())
    assert left["reason"] == "interrupted" and left["rows"] == [{"value": 1}] and not left["complete"]
    assert not (tmp_path / "later.json").exists()


def test_an_interrupted_command_still_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(bench: Bench, record: Record, until: float) -> None:
        raise KeyboardInterrupt

    patched(monkeypatch, gpu.Section("insertion", 1, stopped))
    assert gpu.main(["--device", "cpu", "--models", "tiny_llama", "--quick", "--folder", str(tmp_path)]) == 130
    out = capsys.readouterr().out
    assert "insertion  " in out and "not measured: interrupted" in out and "not measured: not reached" in out


def test_sections_share_what_time_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def notes(bench: Bench, record: Record, until: float) -> None:
        given.append(until - time.perf_counter())

    patched(monkeypatch, *(gpu.Section(name, share, notes) for name, share in (("a", 1), ("b", 3), ("c", 6))))
    gpu.run(bench_in(tmp_path), {}, time.perf_counter() + 1000, {})
    # None takes any of its time, so it is there for those after it.
    assert given == pytest.approx([100, 1000 * 3 / 9, 1000], abs=1)


# the table


def row(policy: str, execution: str, batch: int, seconds: float, predicted: float | None) -> dict[str, Any]:
    return {
        "policy": policy, "execution": execution, "batch": batch, "seconds": seconds, "predicted_seconds": predicted,
    }  # fmt: skip


def step(batch: int, ratio: float, policy: str = "baton_ragged", execution: str = "graphs") -> dict[str, Any]:
    return {
        "model": "m", "lengths": "equal", "policy": policy, "execution": execution, "batch": batch, "ratio": ratio,
    }  # fmt: skip


def test_the_table_says_what_was_wanted_and_what_was_found() -> None:
    found: dict[str, Any] = {
        "decode_steps": {"rows": [step(1, 1.2), step(64, 1.4), step(1, 9.0, "baton"), step(1, 9.0, execution="eager")]},
        "exactness": {
            "rows": [{"execution": "graphs", "requests": 4, "same_as_eager": 4, "same_as_first": 3, "policy": "orca"}]
        },
        "throughput": {
            "rows": [
                {"name": "baton graphs", "seconds": [2.0, None, 2.0], "median_tokens_per_s": 50.0},
                {"name": "baton_ragged eager", "seconds": [1.0, 4.0, 1.0], "median_tokens_per_s": 100.0},
                {"name": "orca graphs", "seconds": [0.1, 0.1, 0.1], "median_tokens_per_s": 1000.0},
                {"name": "generate_batch", "seconds": [2.5, 4.0, 3.5], "median_tokens_per_s": 33.0},
                {"name": "generate_batch, CUDA graphs", "reason": "RuntimeError: no"},
                {"name": "generate, static cache", "seconds": [2.0, None, 3.0], "median_tokens_per_s": 40.0},
                {"name": "generate", "seconds": [9.0, 9.0, 9.0], "median_tokens_per_s": 11.0},
            ]
        },
        "ratios": {
            "rows": [
                row("baton", "graphs", 32, 1.0, 1.0), row("orca_per_request", "graphs", 32, 2.0, 1.5),
                row("baton", "graphs", 4, 4.0, None), row("orca_per_request", "graphs", 4, 3.0, 3.0),
                row("baton", "eager", 4, 1.0, None),
            ]
        },
        "insertion": {"rows": [{"tokens": 1024, "bound_s": 400e-6, "median_s": 401e-6}], "reason": "interrupted"},
        "validation": {
            "rows": [{}],
            "worst": {"throughput": -0.049, "mean E2E": -0.081, "ratios of throughput": 0.031},
        },
    }  # fmt: skip
    assert lines(found) == [
        Line(
            "decode step over its floor, m, equal", "at most 1.35",
            "1.40 at batch 64, the worst of batches 1, 64", False,
        ),
        Line("tokens identical, eager and graphs", "all", "4 of 4 answers", True),
        Line("tokens identical, all policies", "all", "3 of 4 answers", False),
        Line(
            "throughput of BATON to generate_batch", "at least 2",
            "2.50, baton_ragged eager 100 and generate_batch 33 tokens/s", True,
        ),
        Line(
            "throughput of BATON to generate", "at least 3",
            "2.50, baton_ragged eager 100 and generate, static cache 40 tokens/s", False,
        ),
        Line(
            "baton to orca_per_request, graphs, by batch (predicted)", "measured",
            "4: 0.75, 32: 2.00 (1.50); 1.75 at batch 32",
        ),
        Line("insertion of 1,024 tokens", "at most 400 us", "401 us", False),
        Line("insertion, the rest", "", "not measured: interrupted"),
        Line("error of the simulator, throughput", "within 5%", "-4.9% at worst", True),
        Line("error of the simulator, mean E2E", "within 8%", "-8.1% at worst", False),
        Line("error of the simulator, ratios of throughput", "within 3%", "+3.1% at worst", False),
    ]  # fmt: skip


def test_what_was_left_out_is_not_vouched_for() -> None:
    whole = {"execution": "graphs", "requests": 4, "same_as_eager": 4, "same_as_first": 4, "policy": "orca"}
    found: dict[str, Any] = {
        "decode_steps": {"rows": [step(1, 1.2)], "left_out": [str(Cell("m", *TARGETED, "equal", 64))]},
        "exactness": {"rows": [whole], "left_out": ["baton graphs"]},
    }
    told = lines(found)
    assert told[0].measured == "1.20 at batch 1, the worst of batches 1; left out: 1" and told[0].met is None
    assert told[1].measured == "4 of 4 answers; left out: 1" and told[1].met is None
    found["decode_steps"]["left_out"] = [str(Cell("m", "orca", GRAPHS, "equal", 64))]
    assert lines(found)[0].met is True


def test_of_what_was_not_measured_only_the_reason_is_said() -> None:
    told = lines({"decode_steps": {"rows": [], "reason": "RuntimeError: no"}, "exactness": {"rows": []}})
    reasons = ["RuntimeError: no", "no time was left", *["not reached"] * 4]
    assert [line.measured for line in told] == [f"not measured: {reason}" for reason in reasons]
    assert not any(line.met for line in told)


# the files for task=claims


def test_what_was_measured_is_a_measurement_of_the_claims(tmp_path: Path) -> None:
    facts = {
        "device": "cuda", "machine": "NVIDIA H200", "model": "m", "dtype": "bfloat16", "threads": 8,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "triton": "3"}, "date": "2026-11-24T10:00:00+00:00",
        "command": "python -m benchmarks.gpu", "longest": 1024, "max_batch": 32,
    }  # fmt: skip
    whole = {"execution": "eager", "requests": 4, "same_as_eager": 4, "same_as_first": 3}
    ratio = {"policy": "baton", "to": "orca", "measured": 1.5, "predicted": 1.4, "standard_error": 0.1}
    load = {"workload": "synthetic", "load": "all at once", "num_requests": 9, "rounds": 3, "ratios": [ratio]}
    (tmp_path / "validation.json").write_text(json.dumps({"seed": 0, "loads": [load]}))
    compared = [
        row("baton", "graphs", 8, 1.0, 1.0) | {"num_requests": 24}, row("orca", "graphs", 8, 2.0, 1.5),
        row("orca", "eager", 8, 2.0, 1.5),
    ]  # fmt: skip
    found: dict[str, Any] = {
        "exactness": facts | {"rows": [whole | {"policy": "baton"}, whole | {"policy": "orca"}]},
        "validation": facts | {"rows": [{}], "report": "validation.json"},
        "ratios": facts | {"rows": compared, "length_scale": 0.25},
    }
    paths = write_claims(tmp_path, found)
    assert [path.name for path in paths] == ["claims_graphs.json", "claims_tokens.json"], "eager has one side only"
    graphs, tokens = map(read_file, paths)
    assert graphs.machine.execution == "graphs" and "triton" not in graphs.machine.versions
    batch, rounds = graphs.results
    assert (batch.measured, batch.predicted, batch.standard_error, batch.max_batch) == (2.0, 1.5, None, 8)
    assert (rounds.measured, rounds.predicted, rounds.standard_error, rounds.count) == (1.5, 1.4, 0.1, 3)
    assert [(each.policy, each.to, each.measured) for each in tokens.results] == [("orca", "baton", 0.75)]


# the command


def test_without_a_gpu_one_line_says_how_to_rehearse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--folder", str(tmp_path / "made")]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and "--device cpu" in error
    assert not (tmp_path / "made").exists()


def test_an_unknown_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--models", "tiny_llama,gpt5", "--folder", str(tmp_path)]) == 2
    assert "model=gpt5 is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "-5", "nan"])
def test_a_budget_is_some_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str) -> None:
    given = ["--device", "cpu", "--models", "tiny_llama", "--budget", budget, "--folder", str(tmp_path / "made")]
    assert gpu.main(given) == 2 and not (tmp_path / "made").exists()
    assert capsys.readouterr().err == f"error: --budget {float(budget):g}: give seconds, more than 0\n"


def test_a_profile_is_named_after_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = replace(bench_in(tmp_path), device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", {0: "NVIDIA H200"}.__getitem__)
    assert profiles.name_of(bench, GRAPHS) == "h200_measured"
    monkeypatch.setattr(torch.cuda, "get_device_name", {0: "NVIDIA A100-SXM4-80GB"}.__getitem__)
    assert profiles.name_of(bench, EAGER) == "a100_sxm4_80gb_measured_eager"


def test_everything_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(gpu, "QUICK", LEAST)
    told = ["--device", "cpu", "--models", "tiny_llama", "--quick", "--budget", "12", "--folder", str(tmp_path)]
    assert gpu.main(told) == 0
    table = (tmp_path / "table.txt").read_text()
    assert capsys.readouterr().out.rstrip().endswith(table.splitlines()[-1].rstrip())
    for name in ("machine", *(section.name for section in gpu.SECTIONS)):
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert "reason" not in written, written.get("traceback")
        assert written["complete"] and written["copy_bandwidth"] > 0 and written["versions"]["torch"]
        assert name == "machine" or written["rows"] or written["left_out"]
    assert (tmp_path / "cpu_measured.yaml").exists() and (tmp_path / "validate/prediction.json").exists()
