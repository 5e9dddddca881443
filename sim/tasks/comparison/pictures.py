"""The pictures of a run or of a comparison, as PNG files."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.reporting import axes as draw
from sim.reporting.figure import draw_figure, name_policies, new_figure
from sim.reporting.labels import E2E, TIMED, TTFT
from sim.reporting.series import Outcomes, Timed, thinned_peaks, time_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plots(folder: Path, outcomes: Outcomes) -> list[Path]:
    """Draw every picture; return their paths, the overview first.

    Args:
        folder: Where to.
        outcomes: Runs of the same workload by policy name, at least one.

    Raises:
        InputError: if a file cannot be written.
    """
    pictures: dict[str, Callable[[Outcomes], Figure]] = {
        "comparison": comparison,
        "latency_cdf": latency_cdf,
        "throughput": throughput,
        "idle_time": idle_time,
        "occupancy": occupancy,
    }
    return [draw_figure(folder / f"{name}.png", partial(make, outcomes)) for name, make in pictures.items()]


def comparison(outcomes: Outcomes) -> "Figure":
    """Throughput, idle time by cause, the batch over time and latencies in one picture."""
    bars = 0.5 + 0.3 * len(outcomes)
    figure = new_figure(4.6 + 2 * bars)
    mosaic = [["throughput", "idle"], ["batch", "batch"], ["ttft", "e2e"]]
    axes: dict[str, Any] = figure.subplot_mosaic(mosaic, height_ratios=[bars, bars, 2.2])  # type: ignore[arg-type]
    draw.draw_throughput(axes["throughput"], outcomes)
    draw.draw_idle(axes["idle"], outcomes)
    axes["idle"].set_yticklabels([])
    draw.draw_bands(axes["batch"], outcomes)
    draw.draw_cdf(axes["ttft"], outcomes, TTFT)
    draw.draw_cdf(axes["e2e"], outcomes, E2E)
    axes["e2e"].set_ylabel("")
    name_policies(figure, outcomes)
    return figure


def latency_cdf(outcomes: Mapping[str, Timed]) -> "Figure":
    """Distributions of TTFT, TPOT and end-to-end latency."""
    figure = new_figure(2.9 + 0.1 * len(outcomes))
    panels = figure.subplots(1, len(TIMED), sharey=True)
    for axes, latency in zip(panels, TIMED, strict=True):
        draw.draw_cdf(axes, outcomes, latency)
    for axes in panels[1:]:
        axes.set_ylabel("")
    name_policies(figure, outcomes)
    return figure


def throughput(outcomes: Outcomes) -> "Figure":
    """Throughput bars."""
    figure = new_figure(1.3 + 0.38 * len(outcomes))
    draw.draw_throughput(figure.subplots(), outcomes)
    return figure


def idle_time(outcomes: Outcomes) -> "Figure":
    """Idle time by cause."""
    figure = new_figure(1.4 + 0.34 * len(outcomes))
    draw.draw_idle(figure.subplots(), outcomes)
    return figure


def occupancy(outcomes: Outcomes) -> "Figure":
    """Batch, queue and KV memory over time: a row per policy, the same axes for all."""
    figure = new_figure(0.9 + 1.35 * len(outcomes))
    grid = figure.subplots(len(outcomes), 3, sharex=True, sharey="col", squeeze=False, width_ratios=[1.6, 1, 1])
    scale, unit = time_unit(outcomes)
    for row, (name, outcome) in zip(grid, outcomes.items(), strict=True):
        series = outcome.occupancy
        draw.draw_batch(row[0], series, scale)
        draw.draw_line(row[1], series.edges_s / scale, series.waiting)
        draw.draw_line(row[2], series.edges_s / scale, series.kv_peak_tokens / 1000, thinned_peaks)
        row[0].set_title(name, loc="left", fontweight="bold")
    for axes, title in zip(grid[0, 1:], ("waiting requests", "most KV taken, 1000 tokens"), strict=True):
        axes.set_title(title, loc="right")
    for axes in grid.ravel():
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel(f"simulated time, {unit}")
    named = draw.parts(*grid[:, 0])
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=3, frameon=False)
    return figure
