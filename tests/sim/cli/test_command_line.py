"""`python -m sim` as a person uses it: what it writes and shows, and how it answers what is wrong."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from policies.orca import Orca
from policies.plan import IDLE
from sim.simulation.simulation import Simulation
from sim.tasks.comparison import run
from sim.version import __version__
from tests.command_line import files, sim, summary

ROOT = Path(__file__).parents[3]
OF_A_POLICY = {"requests.parquet", "iterations.parquet", "summary.json"}
PICTURES = {"comparison.png", "latency_cdf.png", "throughput.png", "idle_time.png", "occupancy.png"}


pytestmark = pytest.mark.usefixtures("scratch")


def test_one_policy_leaves_its_files_in_the_folder(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("+policy=baton", "policy.max_batch=4", "workload.num_requests=20", "hydra.run.dir=out") == 0
    assert files(scratch / "out") == OF_A_POLICY
    found = summary(scratch / "out")
    assert list(found["policies"]) == ["baton"]
    assert found["policies"]["baton"]["completed"] == 20
    assert {key: found[key] for key in ("workload", "hardware", "model", "seed", "version")} == {
        "workload": "sharegpt", "hardware": "h100_sxm", "model": "llama3_8b", "seed": 0, "version": __version__,
    }  # fmt: skip
    assert found["options"]["baton"]["max_batch"] == 4
    assert "num_requests: 20" in (scratch / "out/.hydra/config.yaml").read_text()
    shown = capsys.readouterr()
    assert "baton" in shown.out
    assert "max (cap 2048)" in shown.out
    assert shown.err == ""


def test_without_a_policy_several_are_compared_on_the_same_requests(scratch: Path) -> None:
    assert sim("workload.num_requests=20", "workload.rate=5", "max_batch=3", "timeline=true", "hydra.run.dir=out") == 0
    names = ["run_to_completion", "orca", "baton"]
    each = {f"{name}/{file}" for name in names for file in OF_A_POLICY | {"timeline.json"}}
    assert files(scratch / "out") == each | {"summary.json"}
    found = summary(scratch / "out")
    assert list(found["policies"]) == names
    assert {policy["max_batch"] for policy in found["options"].values()} == {3}
    given = ["request_id", "arrival_s", "prompt_tokens", "output_tokens", "max_new_tokens"]
    tables = [pq.read_table(scratch / "out" / name / "requests.parquet", columns=given) for name in names]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    for name in names:
        assert summary(scratch / "out" / name)["policies"] == {name: found["policies"][name]}


def test_a_sweep_runs_every_combination(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept = ("+policy=orca,baton", "policy.max_batch=2,3")
    assert sim("-m", *swept, "workload.num_requests=5", "hydra.sweep.dir=sweep") == 0
    runs = [summary(scratch / "sweep" / str(place))["options"] for place in range(4)]
    assert [(name, options["max_batch"]) for each in runs for name, options in each.items()] == [
        ("orca", 2), ("orca", 3), ("baton", 2), ("baton", 3),
    ]  # fmt: skip
    assert "run 3: +policy=baton" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_results(scratch: Path) -> None:
    texts = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert sim("+policy=orca", "workload.num_requests=20", f"seed={seed}", f"hydra.run.dir={folder}") == 0
        texts.append((scratch / folder / "requests.parquet").read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_policies_of_ones_own_may_build_on_ours(scratch: Path) -> None:
    (scratch / "my/policy").mkdir(parents=True)
    (scratch / "my/policy/mine.yaml").write_text("defaults: [baton]\nmax_batch: 5\n")
    assert sim("policies=[mine,baton]", "--config-dir", "my", "workload.num_requests=5", "hydra.run.dir=out") == 0
    options = summary(scratch / "out")["options"]
    assert options["mine"] == options["baton"] | {"max_batch": 5}


def test_hardware_of_ones_own_is_given_by_its_path(scratch: Path) -> None:
    (scratch / "my").mkdir()
    text = (ROOT / "conf/hardware/h100_sxm_datasheet.yaml").read_text()
    for name in ("fast", "slow"):
        (scratch / f"my/{name}.yaml").write_text(text.replace("name: h100_sxm_datasheet", f"name: {name}"))
    few = ("+policy=orca", "workload.num_requests=5")
    for place, path in enumerate(("my/fast.yaml", "./my/fast.yaml", f"{scratch}/my/fast.yaml")):
        assert sim(*few, f"hardware={path}", "hardware.memory_bytes=4e10", f"hydra.run.dir=out{place}") == 0
        found = summary(scratch / f"out{place}")
        assert found["hardware"] == "fast"
        assert found["kv_tokens"] < 200_000, "an option given beside the file holds"
    assert sim("-m", *few, "hardware=my/fast.yaml,my/slow.yaml", "hydra.sweep.dir=sweep") == 0
    assert [summary(scratch / "sweep" / str(place))["hardware"] for place in range(2)] == ["fast", "slow"]


def test_a_model_on_disk_is_simulated_by_its_config(scratch: Path) -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    sizes |= {"intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192}
    (scratch / "my_llama").mkdir()
    (scratch / "my_llama/config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"} | sizes))
    few = ("+policy=orca", "workload.num_requests=5")
    assert sim(*few, "model=hf", "model.path=my_llama", "hydra.run.dir=mine") == 0
    assert sim(*few, "hydra.run.dir=ours") == 0
    mine, ours = summary(scratch / "mine"), summary(scratch / "ours")
    assert mine["model"] == "my_llama"
    assert mine["policies"] == ours["policies"]


def test_shared_prefixes_are_found_or_it_is_said_that_they_are_not(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{at},100,4,chat,64,0.2,1.5" for at in range(10)]
    trace = scratch / "runs.csv"
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens,prefix_id,prefix_tokens,ttft_s,e2e_s", *rows]))
    options = ["workload=trace", f"workload.path={trace}", "kv_tokens=2000", f"hydra.run.dir={scratch / 'out'}"]
    assert sim("+policy=chunked_prefill", "policy.token_budget=64", "policy.max_batch=8", *options) == 0
    assert "prefix sharing is not modelled" not in capsys.readouterr().out
    found = summary(scratch / "out")["policies"]["chunked_prefill"]
    assert (found["prefix_hit_tokens"], found["prefix_hit_rate"]) == (9 * 64, 0.576)
    assert sim("policies=[chunked_prefill,orca,prefill_first]", *options) == 0
    assert "orca, prefill_first: prefix sharing is not modelled" in capsys.readouterr().out
    assert "prefix_hit_rate" not in summary(scratch / "out")["policies"]["orca"]


def test_intervals_are_shown_and_kept(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DRAWS", 5)
    options = ("policies=[run_to_completion,orca]", "max_batch=4", "workload.num_requests=10")
    assert sim(*options, "interval=true", "hydra.run.dir=out") == 0
    found = summary(scratch / "out")["interval"]
    assert found["level"] == 0.9
    low, high = found["metrics"]["orca"]["mean_e2el_ms"]
    assert low < high
    assert list(found["ratios"]) == ["orca"]
    shown = capsys.readouterr().out
    assert f"{low / 1000:.2f} to {high / 1000:.2f}" in shown
    assert "90% intervals: errors of the calibration" in shown
    assert sim(*options, "hydra.run.dir=plain") == 0
    assert "interval" not in summary(scratch / "plain")
    assert summary(scratch / "plain")["policies"] == summary(scratch / "out")["policies"]


def test_constants_that_nobody_measured_are_named(scratch: Path) -> None:
    said = "engine=transformers_eager: not measured but assumed: host time per layer and per step"
    for folder, options, notes in (
        ("eager", ("engine=transformers_eager",), 1),
        ("vllm", ("engine=vllm",), 0),
        ("datasheet", ("engine=transformers_eager", "hardware=h100_sxm_datasheet"), 0),  # takes none of them
    ):
        assert sim("+policy=orca", "workload.num_requests=3", *options, f"hydra.run.dir={folder}") == 0
        assert sum(note.startswith(said) for note in summary(scratch / folder)["notes"]) == notes


def test_recorded_steps_are_told_of(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("policies=[baton,baton_concatenate]", "workload.num_requests=20", "hardware=h100_sxm", "engine=vllm")
    assert sim(*few, "hydra.run.dir=eager") == 0
    assert "bucket dummies" not in capsys.readouterr().out
    assert sim(*few, "execution=graphs", "hydra.run.dir=graphs") == 0
    shown = capsys.readouterr().out
    assert "bucket dummies" in shown
    eager, graphs = summary(scratch / "eager"), summary(scratch / "graphs")
    assert "execution" not in eager and graphs["execution"] == "graphs"
    for told in (
        "execution=graphs: recorded decode steps compute 1, 2, 4 or a multiple of 8 rows",
        "baton_concatenate: a batch that is made anew at every step cannot be recorded",
        "engine=vllm: its constants were fitted without counting what fills steps up",
    ):
        assert [told in note for note in graphs["notes"]].count(True) == 1 == shown.count(told)
        assert not any(told in note for note in eager["notes"])
    assert graphs["policies"]["baton_concatenate"] == eager["policies"]["baton_concatenate"]
    assert graphs["policies"]["baton"]["mean_tpot_ms"] > eager["policies"]["baton"]["mean_tpot_ms"]
    assert sim(*few, "execution=graphs", "replications=2", "warm_up=0", "hydra.run.dir=twice") == 0
    twice = summary(scratch / "twice")
    assert twice["execution"] == "graphs" and any("execution=graphs: recorded" in note for note in twice["notes"])
    assert twice["policies"]["baton"]["idle_time_fraction_bucket_dummies"] > 0


def test_shortest_first_by_an_oracle_serves_the_shortest_first(scratch: Path) -> None:
    rows = "".join(f"0,10,{output}\n" for output in (30, 10, 20))
    (scratch / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    trace = ("workload=trace", "workload.path=trace.csv", "+policy=orca", "policy.max_batch=1", "policy.order=sjf")
    for predictor, order in (("oracle", [1, 2, 0]), ("declared", [0, 1, 2])):
        assert sim(*trace, f"policy.predictor={predictor}", f"hydra.run.dir={predictor}") == 0
        ends = pq.read_table(scratch / predictor / "requests.parquet")["e2e_s"].to_numpy()
        assert ends.argsort().tolist() == order
    notes = "orca: all requests declare the same max_new_tokens: sjf orders them by prompt length alone"
    assert notes in summary(scratch / "declared")["notes"]
    assert notes not in summary(scratch / "oracle")["notes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("workload=foo", "workload=foo is unknown; choose from azure_code, "),
        ("+policy=foo", "policy=foo is unknown; choose from baton, "),
        ("-m workload=sharegpt,foo", "workload=foo is unknown; choose from "),
        ("workload=", "workload=: choose one by name, workload=NAME"),
        ("~workload", "~workload: choose one by name"),
        ("+hardware=a100_sxm", "+hardware=a100_sxm: write hardware=a100_sxm"),
        ("foo=1", "foo: there is no such option; choose from tensor_parallel, kv_tokens, "),
        ("+foo=1", "foo: there is no such option; choose from workload, "),
        ("workload.path=x", "workload.path: there is no such option; workload takes turns, "),
        ("+workload.path=x", "workload.path: there is no such option; ShareGPT takes "),
        ("policy=baton", "policy=baton: write +policy=baton"),
        ("policy.max_batch=3", "policy.max_batch needs +policy=NAME"),
        ("+policy=orca,baton", "+policy=orca,baton: give one name; compare with policies=[orca,baton], or run each"),
        ("+policy=orca policies=[orca,baton]", "policy= and policies= contradict each other"),
        ("+policy=orca policy.max_batch=3 max_batch=3", "max_batch= and policy.max_batch= contradict each other"),
        ("policies=orca", "policies=orca: give a list"),
        ("policies=[]", "policies=[]: give a list"),
        ("policies=[orca,orca]", "policies: orca is named twice"),
        ("policies=[orca,foo]", "policies: foo is unknown; choose from baton, "),
        ("seed=1 seed=2", "seed is given twice"),
        ("seed=", "seed is '': give a whole number"),
        ("seed", "'seed' is no option: give KEY=VALUE"),
        ("=3", "'=3' is no option: give KEY=VALUE"),
        ("seed=[1", "seed=[1: "),
        ("seed=1,2", "seed=1,2: give one value, or a list as [A,B]; or add -m, which runs each value"),
        ("hardware=/tmp", "hardware=/tmp: give a name, or the path of a YAML file that ends in .yaml"),
        ("model=mine.json", "model=mine.json: give a name, or the path of a YAML file that ends in .yaml"),
        ("-m seed=1,2 hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm needs another package: pip ins"),
        ("-m seed=1,2 hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: give a number of processes, or -1"),
        ("measured=run.json", "measured=run.json has no use in task=run: add task=overlay, workload=measured or task="),
        ("seed=${nowhere}", "seed: Interpolation key 'nowhere' not found"),
        ("--foo", "--foo: there is no such flag; see --help"),
        ("--cfg", "argument --cfg/-c: expected one argument"),
        ("--resolve", "The --resolve flag can only be used"),
        ("--config-dir=nowhere", "Additional config directory "),
        ("--config-name=foo", "Cannot find primary config 'foo'"),
        ("--experimental-rerun=x", "--experimental-rerun is refused"),
        ("hydra.job.chdir=foo", "Error merging override hydra.job.chdir=foo; Value 'foo' is not a valid bool"),
        ("hydra.run.dir=/dev/null/x", "/dev/null/x: Not a directory; choose another folder with hydra.run.dir="),
        (
            "-m hydra.sweep.dir=/dev/null/x seed=1,2",
            "/dev/null/x: cannot be written (Not a directory); choose a folder",
        ),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system is refused"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_=os.system is refused"),
        ("hardware._target_=os.system", "hardware._target_=os.system is refused"),
        ("hardware=rtx4090 model=qwen3_32b", "model=qwen3_32b does not fit on hardware=rtx4090"),
        ("+policy=baton policy.prefill=foo", "policy.prefill is 'foo': choose one of inline, "),
        (
            "+policy=baton_concatenate policy.attention=ragged",
            "policy.attention=ragged needs policy.embedding=in_place or direct",
        ),
        ("execution=graph", "execution=graph: unknown; choose one of eager, graphs"),
        ("execution=graphs task=claims", "execution=graphs has no use in task=claims"),
        (
            "execution=graphs engine=transformers_eager",
            "execution=graphs: engine=transformers_eager launches every kernel",
        ),
        ("hardware=nowhere.yaml", "hardware=nowhere.yaml: cannot be read (No such file or directory)"),
        ("model=hf", "model.path is missing: give model.path=FOLDER"),
        ("model=hf model.path=nowhere", "model.path=nowhere: there is no nowhere/config.json"),
        (
            "interval=true hardware=h100_sxm_datasheet",
            "interval=true: the errors of hardware=h100_sxm_datasheet are not",
        ),
        ("slo.ttft_s=-1", "slo.ttft_s=-1: must be a positive number"),
        ("workload=trace workload.path=nowhere.csv", "workload.path=nowhere.csv: there is no such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: str, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1
    assert not [path for path in files(scratch) if not path.endswith(("multirun.yaml", "sweep.json"))]


def test_an_engine_of_ones_own_is_given_by_its_path(scratch: Path) -> None:
    shipped = (ROOT / "conf/engine/vllm.yaml").read_text()
    (scratch / "slow.yaml").write_text(shipped.replace("step_overhead_s: 0.0005042", "step_overhead_s: 1.0"))
    few = ("+policy=orca", "workload.num_requests=1", "workload.arrival=all_at_once", "pictures=false")
    assert sim(*few, "engine=slow.yaml", "engine.frontend_latency_s=0", "hydra.run.dir=out") == 0
    slow = summary(scratch / "out")
    assert slow["engine"] == "slow"
    assert slow["policies"]["orca"]["mean_tpot_ms"] > 1000
    assert sim("-m", *few, f"engine={scratch}/slow.yaml,vllm", "hydra.sweep.dir=sweep") == 0
    assert [summary(scratch / f"sweep/{point}")["engine"] for point in (0, 1)] == ["slow", "vllm"]


def test_results_call_a_copied_gpu_by_the_name_of_its_file(scratch: Path) -> None:
    shipped = (Path(__file__).parents[3] / "conf/hardware/h100_sxm_datasheet.yaml").read_text()
    (scratch / "half.yaml").write_text(shipped)
    few = ("+policy=orca", "workload.num_requests=5", "pictures=false", "hardware=./half.yaml")
    assert sim(*few, "hydra.run.dir=out") == 0
    assert summary(scratch / "out")["hardware"] == "half"
    assert sim(*few, "hardware.name=mine", "hydra.run.dir=out") == 0
    assert summary(scratch / "out")["hardware"] == "mine"


def test_a_file_of_ones_own_is_named_where_it_is_wrong(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scratch / "empty.yaml").write_text("")
    assert sim("hardware=empty.yaml") == 2
    assert capsys.readouterr().err.startswith("error: hardware=empty.yaml: it holds no options; give a YAML file")
    (scratch / "my/policy").mkdir(parents=True)
    (scratch / "my/policy/evil.yaml").write_text("_target_: os.system")
    assert sim("--config-dir=my", "policies=[orca,evil]") == 2
    assert capsys.readouterr().err.startswith("error: policy evil: _target_=os.system is refused: give a class of")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: }{", "line 2: not valid YAML"),
        ("just text", "policy names no _target_"),
        ("_target_: policies.orca.Orca\nmax_batch: !!python/object/apply:os.mkdir [hurt]", "not valid YAML"),
        ("_target_: os.mkdir\npath: hurt", "policy._target_=os.mkdir is refused"),
        (
            "_target_: workloads.recorded.places.os.mkdir\npath: hurt",
            "policy._target_=workloads.recorded.places.os.mkdir: ",
        ),
        (
            "# @package _global_\nhydra: {callbacks: {x: {_target_: os.mkdir, path: hurt}}}",
            "hydra.callbacks.x._target_=os.mkdir is refused",
        ),
        (
            "# @package _global_\nhydra: {job_logging: {handlers: {x: {class: os.mkdir, path: hurt}}}}",
            "hydra.job_logging: only classes of Python's logging may be named",
        ),
        (
            "# @package _global_\nhydra: {hydra_logging: {formatters: {x: {(): os.mkdir, path: hurt}}}}",
            "hydra.hydra_logging: only classes of Python's logging may be named",
        ),
    ],
)
def test_a_file_of_ones_own_cannot_hurt(
    text: str, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scratch / "my/policy").mkdir(parents=True)
    (scratch / "my/policy/mine.yaml").write_text(text)
    assert sim("--config-dir=my", "+policy=mine") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert not (scratch / "hurt").exists()


def test_a_binary_file_is_no_configuration(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scratch / "my/policy").mkdir(parents=True)
    (scratch / "my/policy/mine.yaml").write_bytes(b"\xff\xfe\x00")
    assert sim("--config-dir=my", "+policy=mine") == 2
    assert capsys.readouterr().err == "error: a configuration file is not UTF-8 text: correct or remove it\n"


def test_an_interruption_saves_what_is_finished(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate = Simulation.run

    def interrupted(self: Simulation) -> Any:
        result = simulate(self)
        if result.policy.traits.memory == "rectangle":
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Simulation, "run", interrupted)
    assert sim("policies=[orca,baton]", "workload.num_requests=5", "timeline=true", "hydra.run.dir=out") == 130
    assert files(scratch / "out") == {f"orca/{file}" for file in OF_A_POLICY | {"timeline.json"}} | {"summary.json"}
    assert list(summary(scratch / "out")["policies"]) == ["orca"]
    assert capsys.readouterr().err == f"interrupted: saved what was finished (orca) in {scratch / 'out'}\n"
    assert sim("+policy=baton", "workload.num_requests=5", "timeline=true", "hydra.run.dir=other") == 130
    assert files(scratch / "other") == set()
    assert capsys.readouterr().err == "interrupted: no policy was finished, nothing was saved\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("policies=[orca,baton]",), "no request was served: every one was rejected, since the smallest of 5 needs "),
        (("+policy=chunked_prefill", "replications=2"), "replication 0: no request was served: every one was rejected"),
    ],
)
def test_a_run_that_serves_nobody_is_no_success(
    options: tuple[str, ...], said: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*options, "workload.num_requests=5", "kv_tokens=1000", "hydra.run.dir=out") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {said}") and shown.err.count("\n") == 1 and "there are 1,000; " in shown.err
    assert shown.out == ""
    if len(options) == 1:
        assert shown.err.endswith(f"saved what was finished (orca, baton) in {scratch / 'out'}\n")
        assert summary(scratch / "out")["policies"]["baton"]["rejected"] == 5


@pytest.mark.parametrize("memory", [47, 33])
def test_paged_memory_is_told_in_whole_blocks(memory: int, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scratch / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,20,14\n")
    options = ("workload=trace", "workload.path=trace.csv", "+policy=chunked_prefill", "pictures=false")
    assert sim(*options, "kv_tokens=48", "hydra.run.dir=out") == 0
    assert sim(*options, f"kv_tokens={memory}") == 2
    told = capsys.readouterr().err
    assert "needs 48 tokens of KV memory (prompt + declared max_new_tokens - 1, in whole blocks of 16)" in told
    assert f"there are {memory}; whole blocks are 32 of these; " in told


def test_a_policy_that_serves_nobody_beside_one_that_does_is_told(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prompt has room for its answer, but not for its prefill beside the batch."""
    (scratch / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,60,40\n")
    options = ("workload=trace", "workload.path=trace.csv", "workload.max_new_tokens=oracle", "kv_tokens=100")
    assert sim("policies=[orca,baton_dedicated]", *options, "hydra.run.dir=out") == 0
    shown = capsys.readouterr().out
    assert "- baton_dedicated: no request was served, so there is nothing to compare." in shown
    assert "baton_dedicated: not saturated" not in shown
    assert sim("+policy=baton_dedicated", *options) == 2
    assert "prompt + declared max_new_tokens, and room for its prefill beside that)" in capsys.readouterr().err


def test_a_policy_that_plans_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Orca, "plan", lambda policy, view, now, lane: IDLE)
    assert sim("+policy=orca", "workload.num_requests=5") == 2
    assert "no request was served: orca left 5 requests unfinished and planned nothing" in capsys.readouterr().err


def test_a_defect_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def defect(self: Simulation) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Simulation, "run", defect)
    assert sim("+policy=orca", "workload.num_requests=5") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ZeroDivisionError: ours" in shown


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("--version") == 0
    assert capsys.readouterr().out == f"baton-sim {__version__}\n"
    assert sim("--help") == 0
    shown = capsys.readouterr().out
    for told in ("python -m sim +policy=baton workload=sharegpt", "policy: baton, ", "kv_tokens=N", "hydra.run.dir="):
        assert told in shown


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_runs_from_any_folder_and_draws(scratch: Path) -> None:
    done = python(scratch, "-m", "sim", "+policy=baton", "workload.num_requests=5", "hydra.run.dir=out")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(scratch / "out") == OF_A_POLICY | PICTURES


@pytest.mark.parametrize("file", ["conf/config.yaml", "conf/__init__.py", "conf.py"])
def test_a_conf_of_ones_own_is_not_in_the_way(file: str, scratch: Path) -> None:
    (scratch / file).parent.mkdir(exist_ok=True)
    (scratch / file).write_text("")
    few = ("+policy=orca", "workload.num_requests=5", "pictures=false")
    for launcher in ((), ("-m", "hydra/launcher=joblib") if find_spec("hydra_plugins.hydra_joblib_launcher") else ()):
        done = python(scratch, "-m", "sim", *launcher, *few)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_is_slow_to_import_is_imported_when_needed(scratch: Path) -> None:
    slow = "{'pandas', 'matplotlib', 'scipy', 'http.client'}"
    code = f"import sys, sim.__main__; sim.__main__.main(); sys.exit(', '.join({slow} & set(sys.modules)) or None)"
    done = python(scratch, "-c", code, "+policy=baton", "workload.num_requests=5", "pictures=false")
    assert (done.returncode, done.stderr) == (0, "")
