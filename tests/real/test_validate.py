"""task=validate: predictions come before measurements, rounds end for a reason, errors are traced to their parts."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from policies.baton import Baton
from policies.errors import InputError
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.attribution import attribute
from real.network import Network, random_network
from real.serving import Serving
from real.validate import ValidateOptions, Validation
from real.validation_report import plot_validation, print_validation
from sim.configuration import build
from sim.log import expand
from sim.profile import LayoutCost, Profile
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests, requests_of
from tests.sim.test_configuration import load
from tests.sim.test_profile import PROFILE, TERMS

POLICIES: dict[str, Policy] = {
    "static": RunToCompletion(max_batch=3),
    "orca": Orca(max_batch=3),
    "baton": Baton(max_batch=3),
    "overlapped": Baton(max_batch=3, prefill="overlapped"),
}
REQUESTS = random_requests(6, longest=12)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.set_num_threads(1)
    return random_network(build(load("model", "tiny_llama"), "model"))


def profile() -> Profile:
    return replace(PROFILE, model="tiny_llama")


def validation(network: Network, folder: Path, **options: Any) -> Validation:
    limits = ValidateOptions(**({"limit_s": 0.0, "rounds": 1} | options))
    return Validation(network, POLICIES, profile(), {"small": REQUESTS}, folder, kv_tokens=500, options=limits)


def test_both_loads_are_predicted_measured_and_compared(network: Network, tmp_path: Path) -> None:
    report = validation(network, tmp_path).run()
    assert json.loads((tmp_path / "validation.json").read_text()) == json.loads(json.dumps(report))
    assert report["complete"] and [entry["load"][:11] for entry in report["loads"]] == ["all at once", "0.7 of the "]
    for entry in report["loads"]:
        assert list(entry["policies"]) == list(POLICIES)
        for name, metrics in entry["policies"].items():
            assert ("mean_ttft_ms" in metrics) and ("mean_itl_ms" in metrics) == (name != "static")
            for figures in metrics.values():
                assert figures["error"] == pytest.approx(figures["predicted"] / figures["measured"] - 1)
        assert len(entry["ratios"]) == 6
        for time in entry["time"].values():
            parts = sum(part["error_s"] for part in time["parts"].values())
            rest = time["other_iterations"]["error_s"]
            assert parts + rest == pytest.approx(time["predicted_s"] - time["measured_s"])
        assert "time limit of 0 s ended it after 1 " in entry["ended_because"]
    out = StringIO()
    print_validation(Console(file=out, width=200), report)
    assert all(text in out.getvalue() for text in ("small: 6 requests, all at once", "overlapped", "worst errors"))
    assert plot_validation(tmp_path, report).read_bytes().startswith(b"\x89PNG")


def test_what_is_measured_was_predicted_in_a_file_before(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Serving.run
    loads: list[int] = []

    def spy(serving: Serving) -> None:
        told = json.loads((tmp_path / "prediction.json").read_text())["loads"]
        assert list(told[-1]["predicted"]) == list(POLICIES) and "policies" not in told[-1]
        loads.append(len(told))
        run(serving)

    monkeypatch.setattr(Serving, "run", spy)
    validation(network, tmp_path).run()
    assert loads == [1] * 4 + [2] * 4


def test_policies_take_turns_until_their_ratios_are_known(network: Network, tmp_path: Path) -> None:
    report = validation(network, tmp_path, limit_s=100.0, rounds=2, standard_error=1.0).run()
    assert [entry["rounds"] for entry in report["loads"]] == [2, 2]
    assert all(entry["accurate"] and "at most 100 %" in entry["ended_because"] for entry in report["loads"])


def test_interrupted_it_keeps_what_was_measured(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, served = Serving.run, []

    def interrupt(serving: Serving) -> None:
        served.append(1)
        if len(served) == 6:
            raise KeyboardInterrupt
        run(serving)

    monkeypatch.setattr(Serving, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        validation(network, tmp_path, rounds=5, limit_s=100.0).run()
    report = json.loads((tmp_path / "validation.json").read_text())
    assert not report["complete"] and report["loads"][0]["rounds"] == 1


@pytest.mark.parametrize("policy", [RunToCompletion(max_batch=3), Orca(max_batch=3), Baton(max_batch=3)])
def test_a_run_that_went_as_priced_has_no_error_in_any_part(policy: Policy) -> None:
    costs = PROFILE.cost_model(LLAMA3_8B, policy.traits)
    _, log = logged_run(random_requests(20, seed=2), policy, costs, 5000)
    records = expand(log)
    between = TERMS[-1].seconds[0]
    records["duration_s"] -= between
    parts = attribute(records, costs, idle_possible=False)
    assert {"decode", "insertion_and_copies", "between_iterations"} <= set(parts)
    for part in parts.values():
        assert part.priced_s == pytest.approx(part.measured_s, rel=1e-6)
    records["duration_s"][records["prefill_rows"] > 0] *= 2
    slow = attribute(records, costs, idle_possible=False)
    assert slow["decode"] == parts["decode"]
    prefill = "mixed" if "mixed" in slow else "prefill"
    assert slow[prefill].priced_s == pytest.approx(slow[prefill].measured_s / 2)


def test_memory_that_holds_no_request_is_refused_before_anything_is_served(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Serving, "run")
    smallest = int((REQUESTS.prompt_tokens + REQUESTS.max_new_tokens).min())
    workloads, few = {"small": REQUESTS}, ValidateOptions(limit_s=0.0)
    given: Any = (network, POLICIES, profile(), workloads, tmp_path)
    with pytest.raises(InputError, match=f"kv_tokens={smallest - 1} holds no request of small under policy static"):
        Validation(*given, kv_tokens=smallest - 1, options=few).run()
    assert not list(tmp_path.iterdir())


def test_requests_that_never_fit_are_rejected_in_prediction_and_measurement_alike(
    network: Network, tmp_path: Path
) -> None:
    requests = requests_of([(0.0, 5, 4), (0.0, 400, 4), (0.0, 6, 3)])
    policies: dict[str, Policy] = {"orca": Orca(max_batch=3), "static": RunToCompletion(max_batch=3)}
    options = ValidateOptions(limit_s=0.0, rounds=1)
    report = Validation(
        network, policies, profile(), {"small": requests}, tmp_path, kv_tokens=100, options=options
    ).run()
    for metrics in report["loads"][0]["policies"].values():
        for side in ("predicted", "measured"):
            served = metrics["request_throughput"][side] * metrics["duration_s"][side]
            assert served == pytest.approx(2)


def test_it_asks_for_a_profile_that_knows_the_policies(network: Network, tmp_path: Path) -> None:
    arguments: Any = ({"small": REQUESTS}, tmp_path)
    with pytest.raises(InputError, match="needs a profile: give hardware=FILE"):
        Validation(network, POLICIES, H100, *arguments, kv_tokens=500)  # type: ignore[arg-type]
    partial = replace(profile(), layouts=[LayoutCost(layout="static", terms=TERMS)])
    with pytest.raises(InputError, match="holds no costs for layout selective_fused"):
        Validation(network, POLICIES, partial, *arguments, kv_tokens=500)
