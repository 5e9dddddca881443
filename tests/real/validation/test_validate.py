"""task=validate: predictions come before measurements, rounds end for a reason, errors are traced to their parts."""

import json
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from policies.baton import Baton
from policies.checks import InputError
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.configuration import ValidateOptions
from real.model.network import Network, random_network
from real.serving.machine import machine_of
from real.serving.serving import Serving
from real.validation import report as validation_report
from real.validation import validation as validate
from real.validation.attribution import attribute
from real.validation.limits import judged
from real.validation.pace import _serve, pace
from real.validation.report import plot_validation, print_validation, subject
from real.validation.validation import Validation
from sim.config.settings import build
from sim.cost.profile import LayoutCost, Profile
from sim.engine.iteration_log import expand
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests, requests_of
from tests.sim.config.test_settings import load
from tests.sim.cost.test_profile import PROFILE, TERMS

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
    workloads, machine = {"small": REQUESTS}, machine_of(network, "sdpa")
    return Validation(network, POLICIES, profile(), workloads, folder, kv_tokens=500, options=limits, machine=machine)


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
        assert entry["ended_because"].startswith("its share of validate.limit_s=0 was spent; one round tells no ")
    out = StringIO()
    print_validation(Console(file=out, width=200), report)
    assert all(
        text in out.getvalue()
        for text in ("small: 6 requests, all at once", "overlapped", "worst errors", "within the stated")
    )
    assert report["limits"] == judged(report)
    rows = [line.split()[:2] for line in out.getvalue().splitlines()]
    for ratio in report["loads"][0]["ratios"]:
        assert rows.count([ratio["policy"], ratio["to"]]) == 2, "every pair that is judged, at both loads"
    machine = machine_of(network, "sdpa").machine
    assert f"tiny_llama on {machine}, float32, KV memory 500 tokens; predicted by the profile " in out.getvalue()
    assert "\n1 round; its share" in out.getvalue()
    assert plot_validation(tmp_path, report).read_bytes().startswith(b"\x89PNG")


def test_progress_counts_loads_not_seconds(network: Network, tmp_path: Path) -> None:
    """Each load has a round even if there is no time at all, so half is done after the first of two."""
    heard: list[float] = []
    arguments: Any = (network, POLICIES, profile(), {"small": REQUESTS}, tmp_path)
    options, machine = ValidateOptions(limit_s=0.0, rounds=1), machine_of(network, "sdpa")
    Validation(*arguments, kv_tokens=500, options=options, machine=machine, on_round=heard.append).run()
    assert heard == [0.5, 1.0]


def test_the_picture_names_its_subject_and_no_part_that_does_not_occur(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda canvas, part: figures.append(canvas.figure))
    monkeypatch.setattr(validation_report, "Draft", lambda path: nullcontext(path))
    report = validation(network, tmp_path).run()
    plot_validation(tmp_path, report)
    (figure,) = figures
    assert figure.get_suptitle() == subject(report)
    occurring = {
        name.replace("_", " ") for entry in report["loads"] for time in entry["time"].values() for name in time["parts"]
    }
    drawn = {text.get_text() for text in figure.legends[0].get_texts()}
    assert drawn == occurring | {"other iterations", "predicted", "measured, with the noise of one run"}
    assert "mixed" in drawn
    for time in (time for entry in report["loads"] for time in entry["time"].values()):
        time["parts"].pop("mixed", None)
    plot_validation(tmp_path, report)
    assert "mixed" not in {text.get_text() for text in figures[1].legends[0].get_texts()}


def test_predictions_are_brought_to_the_pace_of_the_machine(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durations = []
    for drift in (1.0, 2.0):
        monkeypatch.setattr(validate, "pace", lambda *_, drift=drift: drift)
        (entry, _) = validation(network, tmp_path).run()["loads"]
        assert entry["drift"] == drift
        durations.append([each["duration_s"] for each in entry["predicted"].values()])
    assert durations[1] == pytest.approx([2 * seconds for seconds in durations[0]])


def test_pace_is_what_iterations_take_to_what_the_profile_says_of_them(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    def serve(*given: Any) -> Any:
        served.append(_serve(*given))
        return served[-1]

    monkeypatch.setattr("real.validation.pace._serve", serve)
    fast = pace(network, POLICIES, profile(), 0)
    assert len(served) == 2 * len(POLICIES)
    again = iter(served)
    monkeypatch.setattr("real.validation.pace._serve", lambda *_: next(again))
    assert pace(network, POLICIES, profile().at_pace(2), 0) == pytest.approx(fast / 2)


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
    assert all(entry["accurate"] and "goal 100 %" in entry["ended_because"] for entry in report["loads"])


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
        Validation(*given, kv_tokens=smallest - 1, options=few, machine=machine_of(network, "sdpa")).run()
    assert not list(tmp_path.iterdir())


def test_requests_that_never_fit_are_rejected_in_prediction_and_measurement_alike(
    network: Network, tmp_path: Path
) -> None:
    requests = requests_of([(0.0, 5, 4), (0.0, 400, 4), (0.0, 6, 3)])
    policies: dict[str, Policy] = {"orca": Orca(max_batch=3), "static": RunToCompletion(max_batch=3)}
    options = ValidateOptions(limit_s=0.0, rounds=1)
    given: Any = (network, policies, profile(), {"small": requests}, tmp_path)
    report = Validation(*given, kv_tokens=100, options=options, machine=machine_of(network, "sdpa")).run()
    for metrics in report["loads"][0]["policies"].values():
        for side in ("predicted", "measured"):
            served = metrics["request_throughput"][side] * metrics["duration_s"][side]
            assert served == pytest.approx(2)


def test_it_asks_for_a_profile_that_knows_the_policies(network: Network, tmp_path: Path) -> None:
    arguments: Any = ({"small": REQUESTS}, tmp_path)
    machine = machine_of(network, "sdpa")
    with pytest.raises(InputError, match="needs a profile: give hardware=FILE"):
        Validation(network, POLICIES, H100, *arguments, kv_tokens=500, machine=machine)  # type: ignore[arg-type]
    partial = replace(profile(), layouts=[LayoutCost(layout="static", terms=TERMS)])
    with pytest.raises(InputError, match="holds no costs for layout selective_fused"):
        Validation(network, POLICIES, partial, *arguments, kv_tokens=500, machine=machine)
