"""The picture of a repeated comparison: every replication, means with error bars, paired ratios."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.interval import EQUAL
from sim.reporting.axes import name_rows, say_empty
from sim.reporting.figure import draw_figure, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.tasks.replications.results import Replicated

PANELS = (
    ("{window}output_throughput", "output tokens/s", 1.0),
    ("idle_time_fraction", "idle share of GPU busy time, %", 100.0),
    ("p99_ttft_ms", "p99 of time to first token, s", 1e-3),
    ("p99_e2el_ms", "p99 of end-to-end latency, s", 1e-3),
)
"""What is drawn of every policy: a metric, its label and the factor to the label's unit."""


def write_replication_plot(folder: Path, done: "Replicated") -> Path:
    """Draw `replications.png`; return its path.

    Raises:
        InputError: if the file cannot be written.
    """
    return draw_figure(folder / "replications.png", lambda: replications(done))


def replications(done: "Replicated") -> "Figure":
    """Four metrics of every policy, and the ratio of throughput of every pair."""
    names, pairs = list(done.summaries), done.pairs
    rows = 0.7 + 0.36 * len(names)
    ratios = 0.7 + 0.3 * len(pairs) if pairs else 0.0
    figure = new_figure(2 * rows + ratios + 0.5)
    figure.set_layout_engine("constrained", wspace=0.1)  # numbers at the ends of two axes shall not touch
    mosaic = [["0", "1"], ["2", "3"]] + ([["ratio", "ratio"]] if pairs else [])
    heights = [rows, rows] + ([ratios] if pairs else [])
    axes: dict[str, Any] = figure.subplot_mosaic(mosaic, height_ratios=heights)  # type: ignore[arg-type]
    for place, (key, label, scale) in enumerate(PANELS):
        draw_metric(axes[str(place)], done, key.format(window=done.window), label, scale)
        if place % 2:
            axes[str(place)].set_yticklabels([])
    if pairs:
        draw_ratios(axes["ratio"], done)
    return figure


def draw_metric(axes: "Axes", done: "Replicated", key: str, label: str, scale: float) -> None:
    """A row per policy: its replications as dots, their mean with its interval as an error bar."""
    names, drawn = list(done.summaries), False
    for row, name in enumerate(names):
        values, found = done.values(name, key), done.interval(name, key)
        if values is None or found is None:
            continue
        drawn = True
        offsets = row + np.linspace(-0.22, 0.22, len(values))
        axes.plot(np.array(values) * scale, offsets, ".", color="#56B4E9", ms=3, zorder=1)
        _error_bar(axes, found.estimate * scale, row, found.half_width * scale)
    if not drawn:
        say_empty(axes)
    axes.set_xlabel(label)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,g}")
    name_rows(axes, names)


def draw_ratios(axes: "Axes", done: "Replicated") -> None:
    """A row per pair: the ratio of throughput and its interval; the band is what counts as equal."""
    pairs = done.pairs
    key = f"{done.window}output_throughput"
    axes.axvspan(1 - EQUAL, 1 + EQUAL, color="0.88", zorder=0)
    axes.axvline(1, color="0.4", lw=0.8, zorder=0)
    for row, (later, earlier) in enumerate(pairs):
        found = done.ratio(later, earlier, key)
        if found is not None:
            _error_bar(axes, found.estimate, row, [[found.estimate - found.low], [found.high - found.estimate]])
    axes.set_xlabel(f"ratio of output tokens/s, 95 % CI (grey: within {100 * EQUAL:.0f} %)")
    axes.margins(x=0.08)
    name_rows(axes, [f"{later} / {earlier}" for later, earlier in pairs])


def _error_bar(axes: "Axes", value: float, row: int, error: Any) -> None:
    axes.errorbar(value, row, xerr=error, fmt="o", ms=4, color="black", capsize=3, lw=1.2, zorder=2)
