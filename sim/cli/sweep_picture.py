"""The picture of a sweep: the most telling metrics over what was swept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from sim.cli.sweep import FINISHED, Gathered, Row
from sim.reporting.figure import draw_figure, new_figure
from sim.reporting.labels import Metric, metrics_in, throughput_window
from sim.reporting.series import is_wide, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 20
"""How many times the least latency of a panel the largest must be for a logarithmic axis."""

MOST_CURVES = 8
"""More than can be told apart: then each policy's median over the rest is drawn, and the range."""


def write_sweep_plot(path: Path, sweep: Gathered) -> Path | None:
    """Draw finished points: a curve per policy, and per value of what else was swept, over the swept numbers.

    Args:
        path: Where to.
        sweep: The points.

    Returns:
        The path; None if no policy finished, then nothing is drawn.

    Raises:
        InputError: if the file cannot be written.
    """
    finished = [row for row in sweep.rows if row["status"] == FINISHED and row.get("policy")]
    if not finished:
        return None
    return draw_figure(path, lambda: draw_sweep(sweep, finished))


def draw_sweep(sweep: Gathered, finished: Sequence[Row]) -> "Figure":
    """Draw the finished rows of a sweep: a panel per metric, throughput first."""
    across, others = axis_of(swept_options(sweep), finished)
    metrics = metrics_in("sweep")
    rows = -(-len(metrics) // 2)
    figure = new_figure(2.9 * rows)
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    curves = _curves(finished, across, others)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(panels, metrics, strict=False):
        _draw(axes, curves, across, metric)
        axes.set_ylabel(metric.axis)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    if _mark_saturated(panels[0], curves, headlines(finished)):
        panels[0].set_ylabel("output tokens/s, whole run\n(open: while saturated)")
    else:
        panels[0].set_ylabel("output tokens/s, whole run")
    for axes in panels[len(metrics) - 2 : len(metrics)]:
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel(across or "point of the sweep")
    handles, labels = panels[0].get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = max(1, min(len(labels), 100 // (longest + 9)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def swept_options(sweep: Gathered) -> list[str]:
    """Return the options that have several values, the choice of policies left out."""
    values = {name: {_text(row.get(name)) for row in sweep.rows} for name in sweep.options}
    return [name for name, found in values.items() if len(found) > 1 and name not in ("policy", "policies")]


def axis_of(swept: Sequence[str], rows: Sequence[Row]) -> tuple[str | None, list[str]]:
    """Return the swept number with the most values, to be drawn along x, and the other swept options.

    Seeds are neither: several of them are repetitions of one setting.
    """
    swept = [name for name in swept if name != "seed"]
    numeric = [name for name in swept if all(_is_number(row.get(name)) for row in rows)]
    if not numeric:
        return None, swept
    across = max(numeric, key=lambda name: len({row[name] for row in rows}))
    return across, [name for name in swept if name != across]


def _curves(
    rows: Sequence[Row], across: str | None, others: Sequence[str]
) -> Mapping[str, list[tuple[float, list[Row]]]]:
    """Return the rows of each curve at each place along x, by the curve's name."""
    if across is None:
        named = {str(row["policy"]): None for row in rows}
        return {name: [(row["run"], [row]) for row in rows if row["policy"] == name] for name in named}

    def name_of(row: Row, options: Sequence[str]) -> str:
        told = [f"{option.rpartition('.')[2]}={_text(row.get(option))}" for option in options]
        return " ".join([str(row["policy"]), *told])

    if len({name_of(row, others) for row in rows}) > MOST_CURVES:
        others = []
    curves: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        curves.setdefault(name_of(row, others), {}).setdefault(float(row[across]), []).append(row)
    return {name: sorted(places.items()) for name, places in curves.items()}


def _draw(
    axes: "Axes",
    curves: Mapping[str, list[tuple[float, list[Row]]]],
    across: str | None,
    metric: Metric,
) -> None:
    """One panel: a line through the medians, a band from the least to the most where a place has several values."""
    import numpy as np

    key, scale = metric.name(), metric.scale
    for name, style in styles(curves).items():
        places = [(x, [row[key] * scale for row in rows if row.get(key) is not None]) for x, rows in curves[name]]
        places = [(x, values) for x, values in places if values]
        several = any(len(values) > 1 for _, values in places)
        label = f"{name} (median and range)" if several else name
        x = [x for x, _ in places]
        middle = [float(np.median(values)) for _, values in places]
        line: dict[str, Any] = {**style, "marker": "o", "ms": 3.5, "lw": 1.4 if across else 0}
        axes.plot(x, middle, label=label, **line)
        if several:
            low, high = [min(values) for _, values in places], [max(values) for _, values in places]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    if metric.group == "latency" and len(drawn) and is_wide(drawn, WIDE):
        axes.set_yscale("log")
        axes.yaxis.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,g}")


def headlines(rows: Sequence[Row]) -> dict[tuple[Any, Any], float]:
    """Return the throughput of the saturated part by run and policy, of those runs whose table shows it."""
    runs: dict[Any, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    return {
        (run, row["policy"]): row["saturated_output_throughput"]
        for run, found in runs.items()
        if throughput_window(found)
        for row in found
    }


def _mark_saturated(
    axes: "Axes", curves: Mapping[str, list[tuple[float, list[Row]]]], known: Mapping[tuple[Any, Any], float]
) -> bool:
    """Mark the throughput while saturated, the median where a place has several; return whether there is any."""
    for name, style in styles(curves).items():
        for x, rows in curves[name]:
            if found := [known[key] for row in rows if (key := (row["run"], row["policy"])) in known]:
                axes.plot([x], [median(found)], "D", ms=6, mfc="none", mec=style["color"], mew=1.1)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    return bool(known)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    return "null" if value is None else str(value)
