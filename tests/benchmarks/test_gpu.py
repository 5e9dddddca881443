"""The two plans of `make gpu`: their parts, what is made of what they find, and all of it rehearsed on a CPU."""

import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import bench as benches
from benchmarks.gpu import cells, exactness, newcomers, profiles
from benchmarks.gpu.bench import Bench, NoRoom, kv_tokens_for, policy_named, with_device_times
from benchmarks.gpu.cells import at_rate, first_of
from benchmarks.gpu.findings import Findings, Part
from benchmarks.gpu.plan import FULL, LEAST, START_S, Step, cells_of, full_plan, quick_plan, run
from benchmarks.gpu.steps import CLAIMED, fits_of, steady_steps, weights_read
from benchmarks.transformers_peers import Peers
from real.model.attention import Attention
from real.model.graphs import Recording
from real.serving.engine import Engine
from real.serving.memory import USABLE
from real.serving.prompts import random_prompts
from sim.claims.measurement import read_file
from sim.engine.execution import EAGER, GRAPHS
from sim.engine.iteration_log import DTYPE, IterationLog


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is tested elsewhere; here it only takes time."""
    monkeypatch.setattr(Recording, "_traced", lambda self: self._run)


def bench_of(**changes: Any) -> Bench:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    return Bench(device=device, dtype="float32", model="tiny_llama", sizes=LEAST, bandwidth=1e10, **changes)


def part_in(folder: Path) -> Part:
    return Findings(folder, {"model": "tiny_llama", "date": "now"}).part("part")


# the plans


@pytest.mark.parametrize(("plan", "budget"), [(quick_plan(), 200.0), (full_plan(FULL), 430.0)])
def test_the_shares_of_all_parts_fit_the_budget(plan: Sequence[Step], budget: float) -> None:
    assert START_S + sum(step.budget_s for step in plan) <= budget


def test_what_is_most_telling_comes_first_and_predictions_before_what_they_predict() -> None:
    assert [step.name for step in quick_plan()] == ["kernels", "tokens", "ladder", "mixed steps", "insertion"]
    names = [step.name for step in full_plan(FULL)]
    assert names[:4] == ["profile", "eager profile", "predictions", "decisive"]
    assert names[4:] == ["decisive eager", "few rows", "many rows", "launches", "unscaled", "loaded", "peers"]


def test_cells_are_saturated_and_of_equal_execution() -> None:
    every = [cell for group in cells_of(FULL).values() for cell in group]
    assert all(6 <= cell.per_row <= 10 for cell in every)
    assert [(c.batch, c.execution, c.rounds, c.scale, c.longest, c.load) for c in every] == [
        (32, GRAPHS, 3, 0.25, 256, None),
        (32, EAGER, 1, 0.25, 256, None),
        (8, GRAPHS, 2, 0.25, 256, None),
        (8, EAGER, 1, 0.25, 256, None),
        (64, GRAPHS, 2, 0.25, 256, None),
        (32, GRAPHS, 1, 1.0, 1024, None),
        (32, GRAPHS, 1, 0.25, 256, 0.7),
    ]
    assert len({cell.name for cell in every}) == len(every)


def noting(given: list[float]) -> Any:
    return lambda bench, part, until: given.append(until - time.perf_counter())


def test_a_part_has_its_share_of_what_is_left_and_leaves_what_it_does_not_use(tmp_path: Path) -> None:
    given: list[float] = []
    plan = [Step(name, share, noting(given)) for name, share in (("a", 1), ("b", 3), ("c", 6))]
    run(bench_of(), Findings(tmp_path, {}), plan, time.perf_counter() + 1000)
    assert given == pytest.approx([100, 1000 * 3 / 9, 1000], abs=15)


def test_a_part_that_never_ends_does_not_starve_those_behind_it(tmp_path: Path) -> None:
    """A server that is still serving when its share is spent is stopped, and the next part has its own share."""
    given: list[float] = []

    def endless(bench: Bench, part: Part, until: float) -> None:
        network, policy = bench.network(), policy_named("orca", 2)
        while True:
            bench.serve(network, policy, requests := bench.sharegpt(4, 24), kv_tokens_for(network, [policy], requests))

    findings = Findings(tmp_path, {})
    bench_of().network()
    start = time.perf_counter()
    run(bench_of(), findings, [Step("endless", 3, endless), Step("next", 3, noting(given))], start + 6)
    assert "OutOfTime" in findings.found["parts"]["endless"]["reason"]
    assert given[0] > 0  # a busy machine stops it late; without a stop there would be no time at all


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    def fails(bench: Bench, part: Part, until: float) -> None:
        part.add(value=1)
        raise ValueError("the first line\nand more")

    findings = Findings(tmp_path, {})
    plan = [Step("bad", 1, fails), Step("good", 1, lambda bench, part, until: part.add(value=2))]
    run(bench_of(), findings, plan, time.perf_counter() + 9)
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert parts["bad"]["reason"] == "ValueError: the first line" and not parts["bad"]["complete"]
    assert parts["bad"]["rows"] == [{"value": 1}] and "in fails" in "".join(parts["bad"]["traceback"])
    assert parts["good"]["rows"] == [{"value": 2}] and parts["good"]["complete"]


@pytest.mark.parametrize("step", [*quick_plan()[1:], *full_plan(LEAST)[2:]], ids=lambda step: step.name)
def test_without_time_everything_is_left_out_and_said(tmp_path: Path, step: Step) -> None:
    part = part_in(tmp_path)
    step.measure(bench_of(until=0.0), part, -math.inf)
    written = json.loads((tmp_path / "results.json").read_text())["parts"]["part"]
    assert not written["rows"] and written["left_out"]


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


def test_the_floor_counts_all_weights_but_an_embedding_that_is_no_head() -> None:
    network = bench_of().network()
    model = network.dimensions
    layer = (
        model.hidden * (model.heads + 2 * model.kv_heads) * model.head_dim + model.heads * model.head_dim * model.hidden
    )
    layer += 3 * model.hidden * model.intermediate + 2 * model.hidden
    assert weights_read(network) == 4 * (model.layers * layer + model.hidden + model.hidden * model.vocabulary)


def step_rows(policy: str, start: float, slope: float) -> list[dict[str, Any]]:
    return [{"policy": policy, "batch": batch, "median_step_s": start + slope * batch} for batch in (8, 32, 64)]


def test_a_line_through_steps_tells_what_a_launch_takes_and_where_the_claim_is_crossed() -> None:
    rows = step_rows("orca_per_request", 5e-3, 640e-6) + step_rows("baton_ragged", 6e-3, 32e-6)
    fits = fits_of(rows, layers=32)
    assert fits["orca_per_request"] == pytest.approx({"t0_s": 5e-3, "t_launch_s": 20e-6})
    assert fits["crossing"] == pytest.approx((CLAIMED * 6e-3 - 5e-3) / (640e-6 - CLAIMED * 32e-6))
    never = step_rows("orca_per_request", 5e-3, 50e-6) + step_rows("baton_ragged", 6e-3, 32e-6)
    assert fits_of(never, layers=32)["crossing"] is None
    assert "crossing" not in fits_of(rows[:3], layers=32)


def test_the_device_is_told_apart_from_the_clock_once_the_log_has_it() -> None:
    records = np.zeros(3, dtype=DTYPE)
    records["duration_s"], records["prefill_rows"] = [1, 2, 4], [1, 0, 1]
    wider = with_device_times(records, [0.5, 1, 3])
    assert with_device_times(records, []) is records
    assert newcomers.lanes_of(wider)["prefill"] == {"iterations": 2, "wall_s": 5, "device_s": 3.5}
    assert newcomers.times_of(wider)["device_s"] == 3
    plain = np.zeros(2, dtype=DTYPE)
    plain["prefill_rows"], plain["duration_s"] = 1, 2
    assert newcomers.lanes_of(plain)["prefill"] == {"iterations": 2, "wall_s": 4}
    assert newcomers.times_of(plain)["device_s"] is None


# exactness


def test_attention_of_rows_and_of_a_table_is_near_float64_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = exactness.attention_errors(torch.device("cpu"))
    assert errors.keys() == {"rows", "table"} and all(1e-5 < error < 1e-2 for error in errors.values())
    wrong = Attention.rows
    monkeypatch.setattr(  # a kernel that reads one token too few, where there is a table
        Attention, "rows",
        lambda self, q, k, v, scale, lengths, table=None: wrong(
            self, q, k, v, scale, lengths - (table is not None) * (lengths > 0).long(), table
        ),
    )  # fmt: skip
    assert exactness.attention_errors(torch.device("cpu"))["table"] > 1e-2


def test_a_tie_of_logits_is_told_from_an_error() -> None:
    logits = {0: [torch.tensor([1.0, 4.0, 3.999996]), torch.tensor([8.0, 4.0, 2.0])]}
    served = benches.Served(1.0, {}, np.zeros(0, dtype=DTYPE), {0: [1, 0]}, logits)
    assert exactness.gap_of(served, [2, 0], 0) == pytest.approx(1e-6, rel=0.1)
    assert exactness.gap_of(served, [1, 2], 0) == 0.75
    assert exactness.gap_of(served, [1, 0], 0) == 0.0


def test_tokens_that_differ_are_counted_and_their_gap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Bench.serve

    def wrong(self: Bench, network: Any, *given: Any, **named: Any) -> benches.Served:
        served = right(self, network, *given, **named)
        if network.execution.captured:
            served.generated[0][-1] ^= 1
        return served

    monkeypatch.setattr(Bench, "serve", wrong)
    part = part_in(tmp_path)
    exactness.measure_tokens(bench_of(), part, math.inf)
    for row in part.found["rows"]:
        assert row["same_as_eager"] == row["requests"] - 1 and row["same_as_first"] == row["requests"]
        assert row["gaps"].keys() == {0} and row["gaps"][0] > 1e-4


def test_kernel_tests_run_apart_and_what_fails_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exactness.kernel_tests(60.0, ["-k", "no_such_test"])
    assert found["passed"] is False and "deselected" in found["said"] and found["failures"]
    assert exactness.kernel_tests(0.1)["passed"] is None


# memory


def test_what_memory_lacks_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, part = bench_of(), part_in(tmp_path)
    cell = cells_of(LEAST)["decisive"][0]
    weights = bench.network().weight_bytes
    monkeypatch.setattr(benches, "memory_left", lambda device: int(1.02 * weights / USABLE))
    cells.measure(bench, part, time.perf_counter() + 60, [cell])
    left = part.found["left_out"]
    assert [each["what"] for each in left] == [cell.name] and "a full batch of 2 rows needs" in left[0]["why"]
    with pytest.raises(NoRoom, match="tiny_llama needs"):
        monkeypatch.setattr(benches, "memory_left", lambda device: weights)
        bench_of().network()


def test_a_profile_is_of_as_many_rows_and_tokens_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = replace(LEAST, profiled_rows=32, profiled_tokens=(256, 64))
    bench = bench_of()
    bench.sizes = sizes
    network = bench.network(GRAPHS)

    def found_within(budget: int) -> tuple[int, int, int]:
        monkeypatch.setattr(profiles, "budget_of", lambda network: budget)
        profiler, rows, longest = profiles.fitting(bench, network)
        return rows, longest, profiler.left_out

    assert found_within(1 << 40) == (32, 256, 0)
    needs = [
        max(profiler._need(job) for job in profiler._jobs)
        for profiler in [profiles.fitting(bench, network)[0]]
    ]  # fmt: skip
    rows, longest, left_out = found_within(needs[0] - 1)
    assert (rows, longest) == (32, 64) and left_out == 0
    assert found_within(needs[0] // 12)[0] < 32


@pytest.mark.parametrize("execution", [EAGER, GRAPHS])
def test_a_run_leaves_no_kv_memory_behind(monkeypatch: pytest.MonkeyPatch, execution: Any) -> None:
    monkeypatch.undo()
    bench = bench_of()
    requests, network, policy = bench.sharegpt(2, 12), bench.network(execution), policy_named("orca", 2)
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


# cells


def test_every_contender_passes_untimed_first_then_all_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, int, int]] = []
    right = Bench.serve

    def noted(self: Bench, network: Any, policy: Any, requests: Any, kv_tokens: int) -> benches.Served:
        served.append((type(policy).__name__, len(requests), kv_tokens))
        return right(self, network, policy, requests, kv_tokens)

    monkeypatch.setattr(Bench, "serve", noted)
    part = part_in(tmp_path)
    cells.measure(bench_of(), part, time.perf_counter() + 60, cells_of(LEAST)["decisive"])
    assert [name for name, *_ in served] == ["Baton", "Orca", "Baton", "Orca", "Orca", "Baton"]
    assert [count for _, count, _ in served] == [4, 4, 12, 12, 12, 12]
    assert len({kv_tokens for *_, kv_tokens in served}) == 1, "not the same KV memory"
    rows = part.found["rows"]
    assert [(row["policy"], row["round"]) for row in rows] == [
        ("baton_ragged", 0), ("orca", 0), ("orca", 1), ("baton_ragged", 1),
    ]  # fmt: skip
    assert all(row["saturated"] and row["waiting_share"] >= 0.9 for row in rows)


def test_three_requests_a_row_are_too_few_and_the_row_says_so(tmp_path: Path) -> None:
    part = part_in(tmp_path)
    cell = replace(cells_of(LEAST)["decisive"][0], per_row=1, rounds=1)
    cells.measure(bench_of(), part, time.perf_counter() + 60, [cell])
    assert part.found["rows"] and not any(row["saturated"] for row in part.found["rows"])


def test_a_workload_is_cut_short_and_slowed_down() -> None:
    requests = bench_of().sharegpt(9, 24)
    few = first_of(requests, 4)
    assert len(few) == 4 and (few.prompt_tokens == requests.prompt_tokens[:4]).all()
    arrivals = at_rate(replace_many(requests, 400), 5.0, seed=0).arrival_s
    assert arrivals[0] == 0 and (np.diff(arrivals) > 0).all() and arrivals[-1] == pytest.approx(80, rel=0.2)


def replace_many(requests: Any, count: int) -> Any:
    return bench_of().sharegpt(count, 24)


def test_a_load_without_a_prediction_is_left_out(tmp_path: Path) -> None:
    part = part_in(tmp_path)
    cells.measure(bench_of(), part, time.perf_counter() + 60, cells_of(LEAST)["loaded"])
    assert not part.found["rows"] and "prediction" in part.found["left_out"][0]["why"]


def test_two_models_are_not_resident_at_once_where_memory_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, part = bench_of(), part_in(tmp_path)
    room = [1 << 40]
    monkeypatch.setattr(cells, "memory_left", lambda device: room[0])
    loaded: list[bool] = []
    right = Peers._loaded

    def noted(self: Peers) -> Any:
        loaded.append(bench._loaded is not None)
        return right(self)

    monkeypatch.setattr(Peers, "_loaded", noted)
    cells.measure_peers(bench, part, time.perf_counter() + 60)
    assert part.found["together"] and loaded == [True, True]
    alone = bench.network().dimensions.weight_bytes + 2 * 2 * 256 * bench.network().dimensions.kv_bytes_per_token
    room[0] = int(1.4 * alone)
    part = part_in(tmp_path)
    cells.measure_peers(bench, part, time.perf_counter() + 60)
    assert not part.found["together"] and loaded[2:] == [False, False]
    assert [row["name"] for row in part.found["rows"]] == [
        "baton_ragged graphs", "baton graphs", "generate_batch", "generate",
    ]  # fmt: skip
    room[0] = 1000
    with pytest.raises(NoRoom):
        cells.measure_peers(bench, part, time.perf_counter() + 60)


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
    assert gpu.main(["--device", "cpu", "--models", "gpt5", "--folder", str(tmp_path / "made")]) == 2
    assert "model=gpt5 is unknown" in capsys.readouterr().err and not (tmp_path / "made").exists()


@pytest.mark.parametrize("budget", ["0", "-5", "nan", "inf"])
def test_a_budget_is_some_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str) -> None:
    given = ["--device", "cpu", "--models", "tiny_llama", "--budget", budget, "--folder", str(tmp_path / "made")]
    assert gpu.main(given) == 2 and not (tmp_path / "made").exists()
    assert capsys.readouterr().err == f"error: --budget {float(budget):g}: give seconds, more than 0\n"


def test_importing_counts_as_time() -> None:
    source = "import time; time.sleep(0.5)\nfrom benchmarks.gpu.__main__ import process_age_s\nprint(process_age_s())"
    start = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout)
    assert 0.5 < age < time.monotonic() - start + 0.1


def test_a_profile_is_named_after_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = replace(bench_of(), device=torch.device("cuda", 0))
    for gpu_name, execution, name in (
        ("NVIDIA H100 80GB HBM3", GRAPHS, "h100_measured"),
        ("NVIDIA H200", GRAPHS, "h200_measured"),
        ("NVIDIA A100-SXM4-80GB", EAGER, "a100_sxm4_measured_eager"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", {0: gpu_name}.__getitem__)
        assert profiles.name_of(bench, execution) == name


BLOCKED = ("hydra", "omegaconf", "antlr4", "hydra_plugins")
BLOCKING = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"


def test_hydra_is_not_needed() -> None:
    wanted = BLOCKING + "import benchmarks.gpu.__main__, benchmarks.gpu.plan"
    assert subprocess.run([sys.executable, "-c", wanted], capture_output=True).returncode == 0
    control = subprocess.run([sys.executable, "-c", BLOCKING + "import sim.cli.command_line"], capture_output=True)
    assert control.returncode == 1 and b"hydra" in control.stderr


REHEARSED = ["--device", "cpu", "--models", "tiny_llama", "--rehearse"]


@pytest.mark.parametrize("quick", [True, False])
def test_everything_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: bool
) -> None:
    if quick:  # is run apart, see above
        monkeypatch.setattr(exactness, "kernel_tests", lambda *given: {"passed": True, "said": "1 passed"})
    options = [*REHEARSED, "--folder", str(tmp_path), *(["--quick"] if quick else [])]
    assert gpu.main(options) == 0
    table = (tmp_path / "table.txt").read_text()
    assert capsys.readouterr().out.endswith(table) and "not measured" not in table, table
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["complete"] and found["copy_bandwidth"] > 0 and found["versions"]["torch"] and found["log"]
    for name in found["plan"]:
        part = found["parts"][name]
        assert part["complete"] and part["rows"] and part["seconds"] > 0, (name, part.get("traceback"))
    runs = set(pq.read_table(tmp_path / "iterations.parquet")["run"].to_pylist())
    names = sorted(path.name for path in tmp_path.iterdir())
    if quick:
        assert names == ["claims_tokens.json", "iterations.parquet", "results.json", "table.txt"]
        assert "ladder: baton_ragged graphs, batch 2" in runs
    else:
        assert names == [
            "claims_eager.json", "claims_graphs.json", "cpu_measured.yaml", "iterations.parquet", "results.json",
            "table.txt",
        ]  # fmt: skip
        assert len(runs) > 60 and any(run.startswith("profile: ") for run in runs)
        decisive = read_file(tmp_path / "claims_graphs.json").results[0]
        assert decisive.count == 2 and decisive.standard_error is not None and decisive.predicted is not None
    assert len(names) <= 6
    for path in tmp_path.glob("claims_*.json"):
        assert read_file(path).results


def stopped(folder: Path, number: int, line: str, delay: float = 0.0) -> tuple[int, str]:
    """Rehearse the full plan until it says something, then send a signal, twice as `timeout` does."""
    command = [sys.executable, "-m", "benchmarks.gpu", *REHEARSED, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = ""
        while line not in said:
            said += (new := process.stdout.readline())
            assert new, said
        time.sleep(delay)
        process.send_signal(number)
        process.send_signal(number)
        said += process.stdout.read()
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "line", "delay", "least"),
    [
        (signal.SIGTERM, "", 1.0, {}),  # among the imports
        (signal.SIGINT, "profile: graphs", 0.5, {}),  # a recording, or between two
        (signal.SIGTERM, "decisive: ", 0.02, {"profile": 1, "predictions": 14, "decisive": 1}),  # a write, or after it
    ],
)
def test_whoever_stops_a_rehearsal_loses_nothing(
    tmp_path: Path, number: int, line: str, delay: float, least: dict[str, int]
) -> None:
    code, said = stopped(tmp_path, number, line, delay)
    assert code == 130, said
    found = json.loads((tmp_path / "results.json").read_text())
    assert "interrupted" in found and not found["complete"]
    for name, rows in least.items():
        assert len(found["parts"][name]["rows"]) >= rows
    table = (tmp_path / "table.txt").read_text()
    assert said.endswith(table) and "Interrupted: " in table
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")], "a draft was left"
    if least:
        assert "not measured: not reached" in table and (tmp_path / "cpu_measured.yaml").exists()
        assert pq.read_table(tmp_path / "iterations.parquet").num_rows > 100
