"""From the folders of `python -m real` to measured results: what is taken together, named, predicted and refused."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from policies.checks import InputError
from policies.policy import Policy
from sim.claims.__main__ import main as claims_main
from sim.claims.__main__ import merged
from sim.claims.beside import set_beside
from sim.claims.collect import collect, left_in, predict
from sim.claims.experiments import BATONS, SCHOOLS
from sim.claims.measurement import read_file
from sim.config.named import named, names, options
from sim.cost.profile import settings_of
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.output.parquet import write_requests
from sim.simulation.simulation import simulate
from tests.runs import LLAMA3_8B, random_requests
from tests.sim.claims.test_measured_claims import FASTER, MACHINE, STATEMENTS, measured
from tests.sim.cost.test_profile import PROFILE

POLICIES = ("run_to_completion", "orca", "baton")
FACTS = {**asdict(MACHINE), "model": LLAMA3_8B.name}


def told(folder: Path, **changes: Any) -> None:
    """Leave what Hydra keeps of a command."""
    (folder / ".hydra").mkdir(parents=True)
    config = {"max_batch": 4, "length_scale": 0.1, "model": dict(options("model", "llama3_8b")), **changes}
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(["threads=2", "policies=[orca,baton]"]))


def ran(
    folder: Path,
    seed: int,
    pace: float = 1.0,
    hardware: bool = True,
    execution: Execution = EAGER,
    clients: int | None = None,
    kv_tokens: int = 4000,
    dtype: str = "float32",
) -> None:
    """Leave what a run on a real model would have left that went as its profile says, but for its pace."""
    requests = replace(
        random_requests(10, seed=seed),
        concurrency=clients,
        arrivals="all at once" if clients is None else f"closed loop, {clients} clients",
    )
    policies = {name: named("policy", name, Policy, max_batch=4) for name in POLICIES}  # type: ignore[type-abstract]
    model = replace(LLAMA3_8B, bytes_per_value={"float32": 4, "bfloat16": 2}[dtype])
    summaries = {}
    for place, (name, policy) in enumerate(policies.items()):
        result = simulate(requests, policy, PROFILE.at_pace(pace), model, kv_tokens=kv_tokens, execution=execution)
        summaries[name] = result.summary
        (folder / name).mkdir(parents=True)
        write_requests(folder / name / "requests.parquet", result.columns)
        tokens = [[request, place if request == 0 and name == "orca" else 0] for request in range(len(requests))]
        pq.write_table(
            pa.table({"request_id": range(len(requests)), "tokens": tokens}), folder / name / "generated.parquet"
        )
    found = {
        "partial": False, "policies": summaries, "workload": "sharegpt", "seed": seed, "num_requests": len(requests),
        "arrivals": requests.arrivals, "kv_tokens": kv_tokens,
        "options": {name: asdict(policy) for name, policy in policies.items()}, **FACTS,
        "execution": execution.name, "dtype": dtype,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(found))
    profile = json.loads(json.dumps(settings_of(PROFILE))) if hardware else None
    told(folder, hardware=profile, workload={} if clients is None else {"concurrency": clients})


def test_runs_that_went_as_predicted_are_measured_as_predicted(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        ran(tmp_path / str(seed), seed)
    (found,) = collect([tmp_path])
    assert found.commands == ["python -m real threads=2 'policies=[orca,baton]'"]
    assert len(found.results) == 3 * 3 + 2 * 3
    for result in found.results:
        assert (result.count, result.repeats, result.workload) == (
            3,
            "3 runs, seeds 0, 1, 2",
            "sharegpt, lengths x 0.1",
        )
        if result.metric != "same_tokens":
            assert result.measured == pytest.approx(result.predicted)
            assert result.standard_error is not None and result.found.low <= result.measured <= result.found.high
    runs = [json.loads((tmp_path / f"{seed}/summary.json").read_text())["policies"] for seed in (0, 1, 2)]
    speedups = [run["baton"]["request_throughput"] / run["orca"]["request_throughput"] for run in runs]
    (speedup,) = (
        one for one in found.results if (one.metric, one.policy, one.to) == ("request_throughput", "baton", "orca")
    )
    assert speedup.measured == pytest.approx(math.prod(speedups) ** (1 / 3))
    assert speedup.standard_error == pytest.approx(np.std(np.log(speedups), ddof=1) / 3**0.5)
    same = {(one.policy, one.to): one.measured for one in found.results if one.metric == "same_tokens"}
    assert same == {("orca", "run_to_completion"): 0.9, ("baton", "run_to_completion"): 1.0, ("baton", "orca"): 0.9}


def test_a_slower_machine_loses_no_share_of_its_ratios(tmp_path: Path) -> None:
    ran(tmp_path / "a", 0, pace=2.0)
    (found,) = collect([tmp_path / "a"])
    for result in found.results:
        if result.metric == "request_throughput":
            assert result.measured == pytest.approx(result.predicted)
            assert math.isinf(result.found.high), "one run tells no interval"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kv_tokens", [300, 4000])
def test_a_run_that_went_as_its_profile_says_is_predicted_in_every_metric(
    kv_tokens: int, dtype: str, tmp_path: Path
) -> None:
    ran(tmp_path, 0, kv_tokens=kv_tokens, dtype=dtype)
    left = left_in(tmp_path / "summary.json")
    assert left is not None
    assert predict(left) == left.found["policies"]


def test_eager_and_recorded_runs_are_each_predicted_as_they_ran_and_told_apart(tmp_path: Path) -> None:
    for execution in (EAGER, GRAPHS):
        for seed in (0, 1):
            ran(tmp_path / execution.name / str(seed), seed, execution=execution)
    every = collect([tmp_path])
    assert [one.machine.execution for one in every] == ["eager", "graphs"]
    for one in every:
        for result in one.results:
            if result.metric != "same_tokens":
                assert result.count == 2
                assert result.measured == pytest.approx(result.predicted)
    eager, graphs = ([result.predicted for result in one.results] for one in every)
    assert eager != graphs
    (idle,) = (one.measured for one in set_beside(STATEMENTS, every).statements if one.metric == "idle_time_fraction")
    assert idle is not None
    assert [one.factors["model"] for one in idle.findings] == [
        "llama3_8b (float32, sdpa)", "llama3_8b (float32, sdpa, graphs)",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"\(float32, sdpa, graphs\) on .* did not run as .*: write a file for each"):
        merged(every)


def test_clients_of_a_closed_loop_wait_for_the_answers_that_are_predicted(tmp_path: Path) -> None:
    for clients in (2, 4):
        ran(tmp_path / str(clients), 0, clients=clients)
        sent = [pq.read_table(tmp_path / f"{clients}/{name}/requests.parquet")["arrival_s"] for name in POLICIES]
        assert sent[0] != sent[1] != sent[2], "when a client sends its next request is its policy's doing"
    (found,) = collect([tmp_path])
    assert {result.load for result in found.results} == {"closed loop, 2 clients", "closed loop, 4 clients"}
    for result in found.results:
        if result.metric != "same_tokens":
            assert result.measured == pytest.approx(result.predicted)


def test_an_answer_that_differed_in_one_run_is_not_forgotten_for_the_runs_in_which_none_did(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        ran(tmp_path / str(seed), seed)
        if seed:  # Orca's first answer differs, which `ran` makes so
            answers = tmp_path / f"{seed}/orca/generated.parquet"
            answers.write_bytes((tmp_path / f"{seed}/baton/generated.parquet").read_bytes())
    every = collect([tmp_path])
    (same,) = (one for one in every[0].results if (one.metric, one.policy, one.to) == ("same_tokens", "baton", "orca"))
    assert (same.count, same.measured, same.found.low, same.found.high) == (3, 0.9, 0.9, 0.9)
    correct = set_beside(STATEMENTS, every).correct
    assert correct is not None
    assert [(one.factors["other"], one.found.high) for one in correct.findings] == [
        ("run_to_completion", 1.0), ("orca", 0.9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_prefill": 2}, "baton (max_prefill=2)"),
        ({"max_prefill": 1}, "baton_single"),
        ({"prefill": "overlapped"}, "baton_overlapped"),
        ({"max_batch": 5}, "baton"),
    ],
)
def test_a_policy_with_other_options_is_not_taken_for_the_one_of_its_name(
    changes: dict[str, Any], name: str, tmp_path: Path
) -> None:
    ran(tmp_path, 0, hardware=False)
    path = tmp_path / "summary.json"
    found = json.loads(path.read_text())
    found["options"]["baton"] |= changes
    path.write_text(json.dumps(found))
    every = collect([tmp_path])
    assert {one.policy for one in every[0].results} == {"run_to_completion", "orca", name}
    assert (set_beside(STATEMENTS, every).correct is None) == (name not in BATONS)


def test_runs_that_were_told_otherwise_are_not_taken_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        ran(tmp_path / str(seed), seed)
    told_so = tmp_path / "1/.hydra/config.yaml"
    told_so.write_text(told_so.read_text().replace("max_batch: 4", "max_batch: 4\nkv_tokens: 4000"))
    assert {(one.count, one.repeats) for one in collect([tmp_path])[0].results} == {
        (1, "1 run, seed 0"),
        (1, "1 run, seed 1"),
    }


def test_the_names_that_statements_go_by_mean_the_same_policies_on_the_command_line() -> None:
    for name in set(SCHOOLS) & set(names("policy")):
        found = named("policy", name, Policy, max_batch=SCHOOLS[name].max_batch)  # type: ignore[type-abstract]
        assert found == SCHOOLS[name]


def test_without_a_profile_nothing_was_predicted(tmp_path: Path) -> None:
    ran(tmp_path / "a", 0, hardware=False)
    assert {result.predicted for result in collect([tmp_path])[0].results} == {None}


def validated(folder: Path, **ratio: Any) -> None:
    rate = {name: {"output_throughput": {"measured": 20.0 * speed}, "request_throughput": {"measured": speed}}
            for name, speed in (("orca", 2.0), ("baton", 3.0))}  # fmt: skip
    given = {"policy": "baton", "to": "orca", "predicted": 1.4, "measured": 1.5, "standard_error": 0.01, **ratio}
    loads = [
        {"workload": "sharegpt", "load": load, "num_requests": 6, "rounds": 3, "policies": rate, "ratios": [given]}
        for load in ("all at once", "0.7 of the lowest capacity, 2 requests/s")
    ]
    told(folder)
    (folder / "validation.json").write_text(
        json.dumps({"seed": 5, "loads": [*loads, {"workload": "not yet"}], **FACTS})
    )


def test_a_validation_gives_its_ratios_with_their_errors(tmp_path: Path) -> None:
    validated(tmp_path)
    (found,) = collect([tmp_path])
    assert [(one.load, one.measured, one.predicted, one.standard_error, one.count, one.max_batch, one.repeats)
            for one in found.results] == [
        (load, 1.5, 1.4, 0.01, 3, 4, "3 rounds of the same requests, seed 5")
        for load in ("all at once", "0.7 of the lowest capacity, 2 requests/s")
    ]  # fmt: skip


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    validated(tmp_path / "a")
    path = tmp_path / "a/validation.json"
    found = json.loads(path.read_text())
    found["loads"][0]["policies"]["orca"]["output_throughput"]["measured"] *= 1.01
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="baton and orca did not serve the same requests; give more KV memory"):
        collect([tmp_path])
    ran(tmp_path / "b", 0)
    path = tmp_path / "b/summary.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"partial": True}))
    with pytest.raises(InputError, match=r"summary.json: the run was stopped before its end; run it again"):
        collect([tmp_path / "b"])
    whole["policies"]["orca"]["completed"] = 9
    path.write_text(json.dumps(whole))
    with pytest.raises(InputError, match="orca completed 9 of 10 requests"):
        collect([tmp_path / "b"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("validation.json", "{", "validation.json, line 1: not valid JSON"),
        ("validation.json", json.dumps(FACTS | {"seed": 0}), "validation.json: loads is missing; run it again"),
        ("validation.json", json.dumps(FACTS | {"loads": 3}), "validation.json: is not as python -m real leaves it"),
        ("validation.json", json.dumps(FACTS | {"loads": []}), "validation.json: not one round was finished"),
        ("validation.json", json.dumps(FACTS | {"threads": 0}), "validation.json: threads is 0: give a whole number"),
        ("validation.json", json.dumps(FACTS | {"execution": "x"}), "validation.json: execution is 'x': choose one of"),
        (".hydra/config.yaml", "a: [", "config.yaml: not valid YAML"),
        (".hydra/config.yaml", "3", "config.yaml: is not what python -m real was told"),
        (".hydra/config.yaml", "model: {_target_: os.system}", "model._target_=os.system is refused"),
    ],
)
def test_what_was_left_and_spoilt_is_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    validated(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        collect([tmp_path])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_command_writes_a_file_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validated(tmp_path / "a")
    ran(tmp_path / "b", 0)
    monkeypatch.setattr(
        "sys.argv", ["claims", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.json")]
    )
    claims_main()
    assert f"17 results of {LLAMA3_8B.name} on a computer" in capsys.readouterr().out
    assert list(read_file(tmp_path / "c.json").results) == list(
        merged(collect([tmp_path / "a", tmp_path / "b"])).results
    )
    with pytest.raises(
        InputError, match=r"\) on another, 2 threads did not run as .*\) on a computer, 2 threads: write a"
    ):
        merged([measured(FASTER), measured(FASTER, machine=replace(MACHINE, machine="another"))])
