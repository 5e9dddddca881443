"""The picture of a repeated comparison: every replication, means with error bars, paired ratios."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.interval import EQUAL
from sim.reporting.axes import name_rows, say_empty
from sim.reporting.figure import draw_figure, new_figure
from sim.reporting.labels import Metric, metrics_in
from sim.tasks.replications.results import Replicated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_replication_plot(folder: Path, results: Replicated) -> Path:
    """Draw `replications.png`; return its path.

    Raises:
        InputError: if the file cannot be written.
    """
    return draw_figure(folder / "replications.png", lambda: replications(results))


def replications(results: Replicated) -> "Figure":
    """The most telling metrics of every policy, and the ratio of throughput of every pair."""
    names, pairs, metrics = list(results.summaries), results.pairs, metrics_in("picture")
    rows = 0.7 + 0.36 * len(names)
    ratios = 0.7 + 0.3 * len(pairs)
    mosaic: list[list[Any]] = [[place, place + 1] for place in range(0, len(metrics), 2)]
    if len(metrics) % 2:
        mosaic[-1][1] = "."
    heights = [rows] * len(mosaic)
    if pairs:
        mosaic, heights = [*mosaic, ["ratio", "ratio"]], [*heights, ratios]
    figure = new_figure(sum(heights) + 0.5)
    figure.set_layout_engine("constrained", wspace=0.1)  # numbers at the ends of two axes shall not touch
    axes: dict[Any, Any] = figure.subplot_mosaic(mosaic, height_ratios=heights)
    for place, metric in enumerate(metrics):
        draw_metric(axes[place], results, metric)
        if place % 2:
            axes[place].set_yticklabels([])
    if pairs:
        draw_ratios(axes["ratio"], results)
    return figure


def draw_metric(axes: "Axes", results: Replicated, metric: Metric) -> None:
    """A row per policy: its replications as dots, their mean with its interval as an error bar."""
    names, key, empty = list(results.summaries), metric.name(results.window), True
    for row, name in enumerate(names):
        values, mean = results.values(name, key), results.interval(name, key)
        if values is None or mean is None:
            continue
        empty = False
        offsets = row + np.linspace(-0.22, 0.22, len(values))
        axes.plot(np.array(values) * metric.scale, offsets, ".", color="#56B4E9", ms=3, zorder=1)
        _error_bar(axes, mean.estimate * metric.scale, row, mean.half_width * metric.scale)
    if empty:
        say_empty(axes)
    axes.set_xlabel(metric.axis)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,g}")
    name_rows(axes, names)


def draw_ratios(axes: "Axes", results: Replicated) -> None:
    """A row per pair: the ratio of throughput and its interval; the band is what counts as equal."""
    pairs = results.pairs
    key = f"{results.window}output_throughput"
    axes.axvspan(1 - EQUAL, 1 + EQUAL, color="0.88", zorder=0)
    axes.axvline(1, color="0.4", lw=0.8, zorder=0)
    for row, (later, earlier) in enumerate(pairs):
        ratio = results.ratio(later, earlier, key)
        if ratio is not None:
            _error_bar(axes, ratio.estimate, row, [[ratio.estimate - ratio.low], [ratio.high - ratio.estimate]])
    axes.set_xlabel(f"ratio of output tokens/s, 95 % CI (grey: within {100 * EQUAL:.0f} %)")
    axes.margins(x=0.08)
    name_rows(axes, [f"{later} / {earlier}" for later, earlier in pairs])


def _error_bar(axes: "Axes", value: float, row: int, error: Any) -> None:
    axes.errorbar(value, row, xerr=error, fmt="o", ms=4, color="black", capsize=3, lw=1.2, zorder=2)
