"""task=overlay: the measured requests are simulated, and both sides are compared by the same definitions."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.checks import InputError
from sim.reporting.figure import draw_figure
from sim.tasks.comparison.pictures import latency_cdf
from sim.tasks.options import OverlayOptions, OverlayTask
from sim.tasks.overlay import Times, predictions, typical_error
from tests.command_line import sim, summary
from tests.sim.tasks.comparison.test_page import PageParser, lines_of
from workloads.recorded.measured import Measured

QUICK = ("+policy=chunked_prefill", "hardware=h100_sxm_datasheet", "pictures=false")
OUT = "hydra.run.dir=out"
TWO = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,9,2,1,2\n1,9,2,1,2\n"


pytestmark = pytest.mark.usefixtures("scratch")


def predicted_run(folder: Path) -> Path:
    """Simulate, and write what was predicted as if it had been measured by vLLM's benchmark."""
    assert sim(*QUICK, "workload.num_requests=30", "workload.rate=4", "hydra.run.dir=first") == 0
    columns = pq.read_table(folder / "first/requests.parquet").to_pydict()
    later = [max(output - 1, 0) for output in columns["output_tokens"]]
    content = {
        "request_rate": 4,
        "max_concurrency": None,
        "input_lens": columns["prompt_tokens"],
        "output_lens": columns["output_tokens"],
        "ttfts": columns["ttft_s"],
        "itls": [[tpot or 0] * gaps for tpot, gaps in zip(columns["tpot_s"], later, strict=True)],
        "start_times": columns["arrival_s"],
        "errors": [""] * 30,
    }
    path = folder / "measured.json"
    path.write_text(json.dumps(content))
    return path


def test_a_prediction_laid_over_itself_differs_in_nothing(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = predicted_run(scratch)
    assert sim("task=overlay", f"measured={path}", *QUICK[:2], OUT) == 0
    again = pq.read_table(scratch / "out/requests.parquet")
    first = pq.read_table(scratch / "first/requests.parquet")
    for column in ("prompt_tokens", "output_tokens"):
        assert again[column].equals(first[column])
    np.testing.assert_allclose(again["ttft_s"].to_numpy(), first["ttft_s"].to_numpy(), rtol=1e-9)
    report = json.loads((scratch / "out/overlay.json").read_text())
    names = [each["name"] for each in report["differences"]]
    assert names[0] == "output tokens/s"
    assert {"TTFT p99, ms", "TPOT mean, ms", "E2E median, ms", "ITL mean, ms"} <= set(names)
    for each in report["differences"]:
        if not each["name"].startswith("ITL"):
            assert each["error"]["chunked_prefill"] == pytest.approx(0, abs=1e-6)
    assert report["median_error_of_a_request"]["chunked_prefill"] == pytest.approx(0, abs=1e-6)
    assert (scratch / "out/overlay.png").read_bytes().startswith(b"\x89PNG")
    assert "measured, and what is predicted of it" in capsys.readouterr().out


def test_a_slower_measurement_shows_by_how_much(scratch: Path) -> None:
    path = predicted_run(scratch)
    content = json.loads(path.read_text())
    content["ttfts"] = [2 * time for time in content["ttfts"]]
    path.write_text(json.dumps(content))
    assert sim("task=overlay", f"measured={path}", *QUICK, "overlay.warmup=1", OUT, "report=true") == 0
    report = json.loads((scratch / "out/overlay.json").read_text())
    errors = {each["name"]: each["error"]["chunked_prefill"] for each in report["differences"]}
    assert errors["TTFT median, ms"] == pytest.approx(-0.5)
    assert errors["TPOT mean, ms"] == pytest.approx(0, abs=1e-6)
    assert report["left_out_as_warmup"] == 1
    assert "ITL mean, ms" not in errors, "the gaps of the request that is left out cannot be told apart"
    page = (scratch / "out/report.html").read_text()
    (median,) = (each for each in report["differences"] if each["name"] == "TTFT median, ms")
    row = re.search(r"<th>TTFT median, ms</th><td>(.*?)</td><td>(.*?)</td>", page)
    assert row is not None
    assert float(row[1]) == pytest.approx(median["measured"], rel=0.01)
    assert row[2].endswith(" (-50.0%)"), "the page says how far the prediction is off"
    assert "1 request at the start left out of the comparison" in page
    assert page.count(", measured and predicted</h3>") == 3
    assert all("measured" in lines_of(plot) for plot in PageParser(page).plots()[:3])


def test_figures_by_hand() -> None:
    measured = Times({"ttft_s": np.array([1.0, 3.0]), "tpot_s": np.full(2, np.nan), "e2e_s": np.array([2.0, 6.0])})
    guess = Times({"ttft_s": np.array([2.0, 3.0]), "tpot_s": np.full(2, np.nan), "e2e_s": np.array([3.0, np.nan])})
    found = {each.name: each for each in predictions(measured, {"p": guess}, np.array([10, 30]), np.array([0.0, 2.0]))}
    assert found["output tokens/s"].measured == 40 / 8
    assert found["output tokens/s"].predicted == {"p": 10 / 3}
    assert (found["TTFT mean, ms"].measured, found["TTFT mean, ms"].predicted["p"]) == (2000, 2500)
    assert found["TTFT mean, ms"].error("p") == pytest.approx(0.25)
    assert not any(name.startswith("TPOT") for name in found)
    assert typical_error(measured, guess) == pytest.approx(0.5), "of the one request that both finished"


def test_the_summary_is_written_as_vllm_would(scratch: Path) -> None:
    options = (
        "policies=[orca,run_to_completion]",
        "hardware=h100_sxm_datasheet",
        "pictures=false",
        "vllm_bench=true",
        "hydra.run.dir=out",
    )
    assert sim(*options, "workload.num_requests=20", "workload.rate=5", "slo.ttft_s=1") == 0
    ours = summary(scratch / "out")["policies"]["orca"]
    saved = json.loads((scratch / "out/orca/vllm_bench.json").read_text())
    assert (saved["duration"], saved["completed"], saved["failed"]) == (ours["duration_s"], 20, 0)
    for name in ("request_throughput", "request_goodput", "p99_ttft_ms", "mean_itl_ms", "median_e2el_ms"):
        assert saved[name] == ours[name] is not None
    columns = pq.read_table(scratch / "out/orca/requests.parquet").to_pydict()
    assert saved["std_ttft_ms"] == pytest.approx(1e3 * np.std(columns["ttft_s"]))
    spans = [(start, start + e2e) for start, e2e in zip(columns["arrival_s"], columns["e2e_s"], strict=True)]
    first = min(start for start, _ in spans)
    seconds = range(int(max(end for _, end in spans) - first) + 1)
    busiest = max(sum(int(a - first) <= second <= int(b - first) for a, b in spans) for second in seconds)
    assert saved["max_concurrent_requests"] == busiest > 1
    classic = json.loads((scratch / "out/run_to_completion/vllm_bench.json").read_text())
    assert classic["mean_tpot_ms"] is classic["std_tpot_ms"] is None


def notes_of(folder: Path) -> list[str]:
    return list(json.loads((folder / "overlay.json").read_text())["notes"])


def test_facts_of_the_file_are_held_against_what_was_simulated(scratch: Path) -> None:
    content = {
        "model_id": "org/other-70b", "tensor_parallel_size": 4, "request_rate": "inf", "max_concurrency": None,
        "input_lens": [64, 64], "output_lens": [9, 5], "ttfts": [0.02, 0.02], "itls": [[0.02, 0.02], [0.01] * 4],
    }  # fmt: skip
    (scratch / "run.json").write_text(json.dumps(content))
    assert sim("task=overlay", "measured=run.json", *QUICK, OUT) == 0
    notes = " | ".join(notes_of(scratch / "out"))
    assert "its model is org/other-70b, and llama3_8b is simulated" in notes
    assert "4 GPUs, and 1 is simulated" in notes
    assert "1 answer of 2 came in other pieces than tokens (2 gaps for 9 tokens)" in notes
    assert "measured times are" not in notes
    content |= {"ttfts": [20, 20], "itls": [[20, 20], [10] * 4]}
    (scratch / "run.json").write_text(json.dumps(content))
    assert sim("task=overlay", "measured=run.json", *QUICK, OUT) == 0
    assert any("are they in milliseconds?" in note for note in notes_of(scratch / "out"))
    assert summary(scratch / "out")["notes"] == notes_of(scratch / "out") + summary(scratch / "out")["notes"][-1:]


def test_times_of_a_server_know_no_frontend(scratch: Path) -> None:
    (scratch / "run.csv").write_text("arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,90,3,1,2\n9,90,3,1,2\n")
    predicted, options = {}, ("task=overlay", "measured=run.csv", *QUICK, "engine.frontend_latency_s=0.25")
    for times in ("client", "server"):
        assert sim(*options, f"overlay.times={times}", OUT) == 0
        predicted[times] = pq.read_table(scratch / "out/requests.parquet")["ttft_s"].to_numpy()
        assert json.loads((scratch / "out/overlay.json").read_text())["times"] == times
    np.testing.assert_allclose(predicted["client"] - predicted["server"], 0.25)
    assert any("no frontend latency is added" in note for note in notes_of(scratch / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("task=overlay", "measured is missing: give measured=FILE"),
        ("task=overlay workload=sharegpt measured=run.csv", "task=overlay replays the measured run: leave workload= "),
        ("task=overlay measured=run.csv overlay.warmup=2", "overlay.warmup=2 leaves nothing of 2 requests"),
        ("task=overlay measured=run.csv overlay.times=mine", "overlay.times is 'mine': choose one of client, server"),
        ("measured=run.csv", "measured=run.csv has no use in task=run: add task=overlay"),
        ("task=overlay measured=run.csv overlay.warmup=-1", "overlay.warmup is -1: give a whole number"),
        ("overlay.times=server", "overlay.times=server has no use in task=run: leave it out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: str, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scratch / "run.csv").write_text(TWO)
    assert sim(*arguments.split(), "hardware=h100_sxm_datasheet", OUT) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("options", [{"arrival": "poisson", "rate": 3}, {"arrival": "trace", "rate_multiplier": 2}])
def test_measured_arrivals_are_kept(options: dict[str, Any]) -> None:
    task = OverlayTask(name="overlay", study="", overlay=OverlayOptions(), measured="run.csv")
    with pytest.raises(InputError, match=r"^task=overlay keeps the measured arrivals"):
        task.check(Measured(path="run.csv", **options))


def test_a_measured_run_is_a_workload_too(scratch: Path) -> None:
    (scratch / "run.csv").write_text(TWO)
    assert sim("workload=measured", "measured=run.csv", *QUICK, OUT) == 0
    assert summary(scratch / "out")["num_requests"] == 2
    assert not (scratch / "out/overlay.json").exists()


@pytest.mark.parametrize("task", ["overlay", "explain request=0"])
def test_no_task_draws_what_is_not_wanted(scratch: Path, task: str) -> None:
    (scratch / "run.csv").write_text(TWO)
    assert sim(*f"task={task}".split(), "workload=measured", "measured=run.csv", *QUICK, OUT) == 0
    assert not list((scratch / "out").glob("*.png"))


def test_the_picture_needs_no_tpot(scratch: Path) -> None:
    nothing: dict[str, Any] = {"ttft_s": np.array([1.0]), "tpot_s": np.array([np.nan]), "e2e_s": np.array([2.0])}
    times = {"measured": Times(nothing), "orca": Times(nothing)}
    path = draw_figure(scratch / "overlay.png", lambda: latency_cdf(times))
    assert path.read_bytes().startswith(b"\x89PNG")
