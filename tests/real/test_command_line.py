"""`python -m real` as a person uses it: what it writes and shows, and how it answers what is wrong."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from policies.baton import Baton
from real import tasks
from real.__main__ import main
from real.model.network import Network
from real.model.streams import Streams
from real.serving import stage
from sim.__main__ import main as sim_main
from sim.output.progress import Progress
from sim.tasks.comparison import comparison
from tests.command_line import files, run_here, summary

ROOT = Path(__file__).parents[2]
OF_A_POLICY = {"requests.parquet", "iterations.parquet", "generated.parquet", "summary.json"}
SMALL = ("device=cpu", "threads=1", "workload.num_requests=6", "length_scale=0.03")
"""Six requests of a few tokens each."""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run in an empty folder; nothing is drawn, for that takes longest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def real(*arguments: str) -> int:
    """Run the command line here and return its exit code."""
    return run_here(main, *arguments)


def tokens(folder: Path) -> list[list[int]]:
    """Return the generated tokens of every request."""
    generated: list[list[int]] = pq.read_table(folder / "generated.parquet")["tokens"].to_pylist()
    return generated


def test_a_policy_that_goes_wrong_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(policy: Baton, view: Any, now: float, lane: int) -> Any:
        raise ZeroDivisionError("theirs")

    def silent(policy: Baton, view: Any, now: float, lane: int) -> Any:
        return None

    for plan, said in ((raises, "raised ZeroDivisionError: theirs"), (silent, "returned None, which is no policies")):
        monkeypatch.setattr(Baton, "plan", plan)
        assert real("+policy=baton", *SMALL) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: policy baton at ") and said in shown and shown.count("\n") == 1


def test_one_policy_leaves_the_files_of_a_simulation_and_the_tokens(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real("+policy=baton", *SMALL, "timeline=true", "hydra.run.dir=out") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "tiny_llama on " in shown.out
    assert files(scratch / "out") == OF_A_POLICY | {"timeline.json"}
    assert run_here(sim_main, "+policy=baton", "hydra.run.dir=sim") == 0
    assert pq.read_schema(scratch / "out/iterations.parquet").equals(pq.read_schema(scratch / "sim/iterations.parquet"))
    simulated = pq.read_schema(scratch / "sim/requests.parquet")
    split = [name for name in simulated.names if name.endswith("_part_s")]  # what only a simulation can price
    own = pa.schema([field for field in simulated if field.name not in split])
    assert len(split) == 8 and pq.read_schema(scratch / "out/requests.parquet").equals(own)
    measured, predicted = summary(scratch / "out"), summary(scratch / "sim")
    known = {key for key in predicted["policies"]["baton"] if "_split_" not in key}
    assert measured["policies"]["baton"].keys() == known
    assert measured["policies"]["baton"]["completed"] == 6
    assumed = {"engine", "tensor_parallel"}  # of a simulation; a real run is what it is
    assert predicted.keys() - assumed < measured.keys()
    assert not measured["partial"]
    assert {key: measured[key] for key in ("model", "device", "dtype", "attention", "threads")} == {
        "model": "tiny_llama", "device": "cpu", "dtype": "float32", "attention": "sdpa", "threads": 1,
    }  # fmt: skip
    assert measured["versions"]["torch"] == torch.__version__
    assert measured["machine"]
    requests = pq.read_table(scratch / "out/requests.parquet")
    assert [len(each) for each in tokens(scratch / "out")] == requests["output_tokens"].to_pylist()


def test_the_devices_time_of_each_iteration_is_a_column_where_it_is_measured(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = Streams.run
    times = itertools.count(1)
    monkeypatch.setattr(Streams, "run", lambda self, *given: (run(self, *given)[0], next(times) / 8))
    assert real("policies=[baton,orca]", *SMALL, "hydra.run.dir=out") == 0
    tables = [pq.read_table(scratch / "out" / name / "iterations.parquet") for name in ("baton", "orca")]
    assert [table.schema.names[-1] for table in tables] == ["device_s"] * 2
    measured = [each for table in tables for each in table["device_s"].to_pylist()]
    last = next(times) - 1  # what came before these iterations warmed the model up
    assert measured == [place / 8 for place in range(last + 1 - len(measured), last + 1)]


def test_without_a_policy_several_are_compared_and_say_the_same(scratch: Path) -> None:
    assert real(*SMALL, "policies=[run_to_completion,orca,orca_per_request,baton]", "hydra.run.dir=out") == 0
    names = ["run_to_completion", "orca", "orca_per_request", "baton"]
    assert files(scratch / "out") == {f"{name}/{file}" for name in names for file in OF_A_POLICY} | {"summary.json"}
    assert list(summary(scratch / "out")["policies"]) == names
    said = [tokens(scratch / "out" / name) for name in names]
    assert said[1:] == said[:-1]
    assert any(len(set(each)) > 2 for each in said[0])


def test_arrivals_keep_to_the_clock_as_it_is_scaled(scratch: Path) -> None:
    timed = ("+policy=orca", *SMALL, "workload.arrival=constant", "workload.rate=2")
    for scale in (0.1, 0):
        assert real(*timed, f"time_scale={scale}", "hydra.run.dir=out") == 0
        arrivals = pq.read_table(scratch / "out/requests.parquet")["arrival_s"].to_pylist()
        assert arrivals == pytest.approx([scale * place / 2 for place in range(6)])
        found = summary(scratch / "out")
        assert found["policies"]["orca"]["duration_s"] >= scale * 2.5
        assert (
            found["arrivals"]
            == {
                0: "all at once, not constant, 2 requests/s",
                0.1: "constant, 2 requests/s, times multiplied by 0.1",
            }[scale]
        )


def test_requests_that_are_too_long_are_refused_or_shortened(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("+policy=orca", "device=cpu", "threads=1", "workload.num_requests=4", "model.max_positions=64")
    assert real(*few) == 2
    assert capsys.readouterr().err.startswith(
        "error: 4 of 4 requests may outgrow model=tiny_llama, 64 tokens: request "
    )
    assert real(*few, "max_request_tokens=64", "hydra.run.dir=out") == 0
    requests = pq.read_table(scratch / "out/requests.parquet")
    total = requests["prompt_tokens"].to_numpy() + requests["output_tokens"].to_numpy()
    assert (total <= 64).all()
    assert "requests shortened to 64 tokens" in " ".join(summary(scratch / "out")["notes"])


def at(policy: str, tokens: int, monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Let something happen once a policy has generated so many tokens."""
    update = Progress.update

    def checked(self: Progress, finished: int, now_s: float, so_far: int | None = None, remark: str = "") -> None:
        update(self, finished, now_s, so_far, remark)
        if self._label == policy and so_far is not None and so_far >= tokens:
            happens()

    monkeypatch.setattr(Progress, "update", checked)


def test_an_interruption_keeps_what_was_done_and_says_that_it_is_part(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = ("policies=[orca,baton,run_to_completion]", *SMALL)
    assert real(*compared, "hydra.run.dir=whole") == 0

    def stop() -> None:
        raise KeyboardInterrupt

    at("baton", 20, monkeypatch, stop)
    capsys.readouterr()
    assert real(*compared, "timeline=true", "hydra.run.dir=out") == 130
    saved = f"saved what was finished (orca) and the part of baton that was run in {scratch / 'out'}"
    assert capsys.readouterr().err == f"interrupted: {saved}\n"
    each = {f"{name}/{file}" for name in ("orca", "baton") for file in OF_A_POLICY | {"timeline.json"}}
    assert files(scratch / "out") == each | {"summary.json"}
    found = summary(scratch / "out")
    assert found["partial"]
    assert "partial" not in found["policies"]["orca"]
    assert found["policies"]["baton"]["partial"]
    assert [summary(scratch / "out" / name)["partial"] for name in ("orca", "baton")] == [False, True]
    part, whole = tokens(scratch / "out/baton"), tokens(scratch / "whole/baton")
    assert [each == all_of_it[: len(each)] for each, all_of_it in zip(part, whole, strict=True)] == [True] * 6
    assert 20 <= sum(map(len, part)) < sum(map(len, whole))
    status = pq.read_table(scratch / "out/baton/requests.parquet")["status"].to_pylist()
    assert status.count("finished") == found["policies"]["baton"]["completed"] < 6
    rows = pq.read_table(scratch / "out/baton/iterations.parquet")
    assert rows.num_rows == found["policies"]["baton"]["iterations"] > 0


def test_an_interruption_before_anything_was_done_is_no_crash(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("real.serving.engine.Engine.run", stop)
    monkeypatch.setattr(stage, "warm_up", lambda network: 0.001)
    assert real("+policy=orca", *SMALL, "hydra.run.dir=out") == 130
    assert capsys.readouterr().err == f"interrupted: saved the part of orca that was run in {scratch / 'out'}\n"
    assert summary(scratch / "out")["policies"]["orca"]["completed"] == 0
    assert tokens(scratch / "out") == [[]] * 6


def test_large_weights_are_announced_before_they_are_made(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person who waits for minutes knows for what; small models say nothing, as the test above shows."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "random_network", stop)
    monkeypatch.setattr(stage, "memory_left", lambda device: 40e9)
    monkeypatch.setattr(stage, "memory_of", lambda device: 40e9)
    assert real("+policy=orca", "model=llama3_8b", "device=cpu", *SMALL[1:]) == 130
    said = "llama3_8b: making 8.03 billion random weights on cpu, 16.1 GB; this may take minutes"
    assert capsys.readouterr().err.splitlines()[0] == said


def test_logits_that_are_no_numbers_end_the_run_in_one_line(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    networks: list[Network] = []
    load = stage.load
    assert vars(tasks)["load"] is load, (
        "imported by now, so that the one put in its place below does not outlive this test"
    )

    def remembered(settings: Any) -> Network:
        networks.append(load(settings))
        return networks[0]

    monkeypatch.setattr(stage, "load", remembered)
    at("baton", 20, monkeypatch, lambda: networks[0].module.get_input_embeddings().weight.data.fill_(float("nan")))
    assert real("policies=[orca,baton]", *SMALL, "hydra.run.dir=out") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: model=tiny_llama gave non-finite logits for token ")
    assert shown.endswith(f"; saved what was finished (orca) and the part of baton that was run in {scratch / 'out'}\n")
    assert shown.count("\n") == 1
    assert sum(map(len, tokens(scratch / "out/baton"))) >= 20
    assert summary(scratch / "out/baton")["partial"]


@pytest.mark.parametrize("task", ["run", "profile"])
def test_a_gpu_whose_memory_is_full_is_one_line_at_any_time(
    task: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("real.serving.engine.Engine.run", full)
    assert real(f"task={task}", "+policy=orca", "device=cpu", "threads=1") == 2
    assert capsys.readouterr().err == (
        f"error: task={task}: the memory of device=cpu is full; give less, kv_tokens= or max_batch=, "
        "or choose a smaller model\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model=foo", "model=foo is unknown; choose from "),
        ("task=foo", "task=foo is unknown; choose from profile, run, validate"),
        ("device=foo", "device=foo: choose cpu, cuda or auto"),
        ("device=3", "device=3: give a name"),
        ("dtype=int8", "dtype is 'int8': choose one of auto, float32"),
        ("attention=foo", "attention is 'foo': choose one of sdpa, eager"),
        ("threads=0", "threads is 0: give a whole number from 1"),
        ("time_scale=-1", "time_scale is -1: give a number from 0"),
        ("length_scale=2", "length_scale is 2: give a number from 0.0001 to 1"),
        ("max_request_tokens=1", "max_request_tokens is 1: give a whole number from 2"),
        ("kv_tokens=0", "kv_tokens is 0: give a whole number from 1"),
        ("stretch=false", "stretch: there is no such option; choose from "),
        ("+policy=baton_dedicated", "policy baton_dedicated needs a second GPU"),
        ("+policy=chunked_prefill", "policy chunked_prefill has a prefix cache, and none is run here"),
        (
            "+policy=chunked_prefill policy.prefix_caching=false task=profile",
            "policy chunked_prefill prefills in chunks, which task=profile knows nothing of: leave it out",
        ),
        ("texts=prompts.txt", "texts=prompts.txt needs a model with a tokenizer: give model=hf"),
        ("model=hf", "model.path is missing: give model.path=FOLDER"),
        ("model=hf model.path=./nowhere", "model.path=./nowhere: there is no nowhere/config.json"),
        ("hardware=nowhere.yaml", "hardware=nowhere.yaml: cannot be read"),
        ("memory_bytes=1000", "model=tiny_llama does not fit"),
        ("memory_bytes=1000000000000000", "memory_bytes=1000000000000000: device=cpu has "),
        ("model.head_dim=7", "model.head_dim=7: llama rotates pairs, so it must be even"),
        ("model.hidden=63", "model=tiny_llama: transformers cannot build it ("),
        ("model.bytes_per_value=1", "model.bytes_per_value=1: weights are served with 2 or 4 bytes each"),
        ("task=profile model.name=a/b", "model.name: the profile's file is named a/b_cpu.yaml, which is no file name"),
        (f"task=profile model.name={'a' * 250}", "cannot be written (File name too long)"),
        (
            "time_scale=0.5 workload.arrival=closed_loop workload.concurrency=2",
            "time_scale=0.5 has no use in a closed loop",
        ),
        ("task=validate", "task=validate needs a profile: make one with task=profile"),
        ("task=validate hardware=h100_sxm", "task=validate needs a profile: make one with task=profile"),
        ("task=profile timeline=true", "timeline=true has no use in task=profile: leave it out"),
        *(
            (f"task=profile {option}", f"{option} has no use in task=profile: leave it out")
            for option in (
                "kv_tokens=5",
                "length_scale=0.5",
                "max_request_tokens=9",
                "slo.ttft_s=1",
                "hardware=h100_sxm",
            )
        ),
        ("task=validate slo.tpot_s=1", "slo.tpot_s=1 has no use in task=validate: leave it out"),
        ("profile.rounds=-5", "profile.rounds is -5: give a whole number from 1"),
        ("+validate.foo=1", "validate.foo: there is no such option; ValidateOptions takes "),
        ("task=profile memory_bytes=700000 policies=[orca]", "700,000 bytes hold no shape to measure decode of "),
        ("task=profile profile.foo=1", "profile.foo: there is no such option; profile takes quick, "),
        ("task=validate validate.workload.foo=1", "validate.workload.foo: there is no such option; "),
        pytest.param(
            "device=cuda",
            "device=cuda: torch finds no CUDA GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: str, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = () if "device=" in arguments else ("device=cpu",)
    assert real(*arguments.split(), *device) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not files(scratch)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert real("--help") == 0
    shown = capsys.readouterr().out
    for told in (
        "+policy=baton workload=sharegpt model=tiny_llama device=cpu",
        "dtype=NAME",
        "texts=FILE",
        "hydra.run.dir=",
    ):
        assert told in shown


def test_torch_is_imported_only_once_the_options_are_right(scratch: Path) -> None:
    code = "import sys, real.__main__; sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=scratch, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_profile_is_hardware_for_both_command_lines(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("profile.quick=true", "profile.longest=8", "device=cpu", "threads=1")
    assert real("task=profile", "+policy=orca", "policy.max_batch=2", *quick, "hydra.run.dir=out") == 0
    assert files(scratch / "out") == {"tiny_llama_cpu.yaml", "tiny_llama_cpu.parquet"}
    shown = capsys.readouterr()
    assert "selective_fused  decode" in shown.out
    assert "hardware=" in shown.out
    profile, orca = "hardware=out/tiny_llama_cpu.yaml", ("+policy=orca", "policy.max_batch=2")
    few = ("workload.num_requests=4", "model=tiny_llama")
    assert run_here(sim_main, profile, *orca, *few, "hydra.run.dir=sim") == 0
    assert real(profile, *orca, *SMALL, "hydra.run.dir=real") == 0
    for folder in ("sim", "real"):
        assert summary(scratch / folder)["hardware"] == "tiny_llama_cpu"
    assert not [note for note in summary(scratch / "real")["notes"] if "profile" in note]
    otherwise = [option.replace("threads=1", "threads=2") for option in SMALL]
    assert real(profile, *orca, *otherwise, "dtype=bfloat16", "hydra.run.dir=other") == 0
    said = "the profile tiny_llama_cpu was taken with dtype float32, not bfloat16; threads 1, not 2"
    assert said in " ".join(summary(scratch / "other")["notes"])
    assert run_here(sim_main, profile, "+policy=baton", *few) == 2
    assert "holds no costs for layout rectangle, only for selective_fused" in capsys.readouterr().err


def test_an_interrupted_profile_says_where_its_measurements_are(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: Progress, finished: int, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", stop)
    quick = ("profile.quick=true", "profile.longest=8", "device=cpu", "threads=1", "policy.max_batch=2")
    assert real("task=profile", "+policy=orca", *quick, "hydra.run.dir=out") == 130
    kept = scratch / "out/tiny_llama_cpu.partial.parquet"
    assert capsys.readouterr().err == f"interrupted: no profile was written, what was measured is in {kept}\n"
    assert files(scratch / "out") == {kept.name}


def test_a_validation_predicts_and_measures(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("policies=[orca,baton]", "max_batch=2", "device=cpu", "threads=1")
    assert real("task=profile", "profile.quick=true", "profile.longest=8", *common, "hydra.run.dir=prof") == 0
    few = ("workload.num_requests=4", "length_scale=0.03", "validate.rounds=1", "validate.limit_s=1")
    profile = "hardware=prof/tiny_llama_cpu.yaml"
    capsys.readouterr()
    assert real("task=validate", profile, *common, *few, "hydra.run.dir=out") == 0
    assert files(scratch / "out") == {"prediction.json", "validation.json", "validation.png"}
    found = json.loads((scratch / "out/validation.json").read_text())
    assert found["complete"]
    assert [load["workload"] for load in found["loads"]] == ["sharegpt", "sharegpt", "synthetic", "synthetic"]
    assert found["machine"]
    assert "worst errors: throughput " in capsys.readouterr().out
