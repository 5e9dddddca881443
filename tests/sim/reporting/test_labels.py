"""One row of `sim.reporting.labels` is all that it takes to show a metric: its label, unit and scale."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sim.__main__ import main
from sim.cli.sweep import FINISHED, Gathered
from sim.cli.sweep_picture import draw_sweep
from sim.metrics.slo import SLO
from sim.reporting import labels
from sim.reporting.labels import EVERYWHERE, METRICS, Metric, metrics_at_rates, metrics_in
from tests.command_line import run_here, summary

ADDED = Metric("mfu", "FLOPs used", "use", "%", 100, title="share of FLOPs used", places=EVERYWHERE)
FEW = ("policies=[orca,baton]", "workload.num_requests=20", "max_batch=4", "report=true")
TASKS = {
    "comparison": (),
    "replications": ("replications=2",),
    "capacity": ("task=capacity", "replications=2", "precision=0.5", "slo.ttft_s=1", "slo.attainment=0.5"),
}
ROWS = {"comparison": "FLOPs used", "replications": "FLOPs used, %", "capacity": "FLOPs used, %, at the capacity"}
PICTURES = {"comparison": (), "replications": ("replications.png",), "capacity": ("capacity.png",)}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by the name of their file, as they are drawn; nothing is rendered."""
    drawn: dict[str, Figure] = {}

    def draw(path: Path, make: Callable[[], Figure]) -> Path:
        drawn[path.name] = make()
        return path

    for module in ("capacity", "replications"):
        monkeypatch.setattr(f"sim.tasks.{module}.picture.draw_figure", draw)
    monkeypatch.setattr("sim.tasks.comparison.comparison.write_plots", lambda folder, results: [])
    return drawn


def axes_of(figure: Figure) -> set[str]:
    return {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("added", [True, False], ids=["with the row", "without it"])
def test_a_row_shows_a_metric_in_every_table_picture_and_page(
    task: str, added: bool, tmp_path: Path, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if added:
        monkeypatch.setattr(labels, "METRICS", (*METRICS, ADDED))
    assert run_here(main, *FEW, *TASKS[task], f"hydra.run.dir={tmp_path}") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    page = (tmp_path / "report.html").read_text()
    assert any(line.startswith(ROWS[task]) for line in lines) is added
    assert (f"<th>{ROWS[task]}</th>" in page) is added
    assert set(figures) == set(PICTURES[task])
    assert all(any("FLOPs used" in label for label in axes_of(figure)) is added for figure in figures.values())
    if task != "comparison":
        assert ("hare of FLOPs used, %" in page) is added, "in a chart of the page"
    elif added:
        cells = next(line for line in lines if line.startswith(ROWS[task])).split()[2:]
        assert cells == [f"{each['mfu']:.1%}" for each in summary(tmp_path)["policies"].values()]


def test_a_row_shows_a_metric_in_the_picture_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"status": FINISHED, "policy": "orca", "saturated": False, "output_throughput": 5.0, "mfu": 0.25}
    rows = [{**row, "run": run, "seed": run} for run in range(2)]
    assert "share of FLOPs used, %" not in axes_of(draw_sweep(Gathered(rows, ("seed",)), rows))
    monkeypatch.setattr(labels, "METRICS", (*METRICS, ADDED))
    figure = draw_sweep(Gathered(rows, ("seed",)), rows)
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "share of FLOPs used, %")
    assert np.unique(axes.get_lines()[0].get_ydata()).tolist() == [25.0]


def test_every_place_shows_something_and_no_metric_twice() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert all(metric.places for metric in METRICS)
    assert all(metrics_in(place) for place in EVERYWHERE - {"capacity"})
    limited = [(metric.heading, limit) for metric, limit in metrics_at_rates(SLO(ttft_s=0.5, tpot_s=0.02))]
    assert limited == [("p99 TTFT, s", 0.5), ("p99 TPOT, s", 0.02)], "in seconds, as the limits"
