"""What is drawn inside one pair of axes: bars, distributions, series."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.occupancy import Series
from sim.reporting.labels import CAUSES, Latency, cause_name, throughput_window
from sim.reporting.series import (
    CAUSE_STYLES,
    Array,
    Outcomes,
    Thinning,
    Timed,
    distribution,
    is_wide,
    styles,
    thinned,
    time_unit,
    value,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Of the batch; finished rows have the colour of the idle time that they cause.
_ROW_COLOURS = {"live rows": "#0072B2", "finished rows": "#E69F00", "in prefill": "#000000"}

# Time bins in a panel a third of a page wide.
_POINTS = 256


def say_empty(axes: "Axes") -> None:
    """Say in the middle of empty axes that there is nothing to draw."""
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="0.4")


def name_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Label the rows of horizontal bars, the first on top; long names are broken, very long ones cut."""
    labels = ["\n".join(wrap(name.replace("_", "_ "), 18, max_lines=2, placeholder="…")) for name in names]
    axes.set_yticks(range(len(names)), [label.replace("_ ", "_") for label in labels])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def parts(*axes: "Axes") -> dict[str, Any]:
    """Return what was drawn in the axes by label, each label once."""
    handles = (zip(*each.get_legend_handles_labels(), strict=True) for each in axes)
    return {label: handle for pairs in handles for handle, label in pairs}


def name_parts(axes: "Axes", columns: int) -> None:
    """Put the legend above the axes, if there is something to name."""
    if named := parts(axes):
        style: dict[str, Any] = {"frameon": False, "handlelength": 1.6, "columnspacing": 1.2, "borderaxespad": 0.2}
        axes.legend(named.values(), named.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **style)


def draw_throughput(axes: "Axes", outcomes: Outcomes) -> None:
    """Output tokens/s of the saturated part and of the whole run, and the table's ratio to the first policy."""
    summaries = [outcome.summary for outcome in outcomes.values()]
    place = np.arange(len(summaries))
    saturated = np.array([value(s, "saturated_output_throughput") if s.get("saturated") else 0.0 for s in summaries])
    whole = np.array([value(s, "output_throughput") for s in summaries])
    half = saturated > 0
    edge: dict[str, Any] = {"edgecolor": "black", "lw": 0.6}
    if half.any():
        axes.barh(place[half] - 0.19, saturated[half], 0.38, color="#0072B2", label="while saturated", **edge)
    axes.barh(place + 0.19 * half, whole, 0.38, color="#B3D4E8", hatch="////", label="whole run", **edge)
    key = f"{throughput_window(summaries)}output_throughput"
    base = value(summaries[0], key)
    for row, (summary, length) in enumerate(zip(summaries, np.maximum(saturated, whole), strict=True)):
        rate = value(summary, key)
        ratio = f" ({rate / base:.2f}x)" if rate and base and row else ""
        note(axes, f"{rate or 0:,.0f}{ratio}", length, row)
    axes.set_xlim(0, 1.55 * max(*saturated, *whole, 1e-9))
    axes.set_xlabel("output tokens/s")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    name_rows(axes, list(outcomes))
    name_parts(axes, 2)


def note(axes: "Axes", text: str, x: float, y: float) -> None:
    """Write a value at the end of a horizontal bar."""
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8)


def draw_idle(axes: "Axes", outcomes: Outcomes) -> None:
    """Idle share of busy time, stacked by cause."""
    summaries = [outcome.summary for outcome in outcomes.values()]
    rows = range(len(summaries))
    left = np.zeros(len(summaries))
    for cause, (colour, hatch) in zip(CAUSES, CAUSE_STYLES, strict=True):
        share = np.array([100 * value(s, f"idle_time_fraction_{cause}") for s in summaries])
        if share.any():
            style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.6}
            axes.barh(rows, share, 0.6, left, label=cause_name(cause), **style)
            left += share
    for row, total in zip(rows, left, strict=True):
        note(axes, f"{total:.1f} %", total, row)
    axes.set_xlim(0, max(1.3 * left.max(initial=0), 1))
    axes.set_xlabel("idle share of GPU busy time, %")
    name_rows(axes, list(outcomes))
    name_parts(axes, 2)


def draw_cdf(axes: "Axes", outcomes: Mapping[str, Timed], latency: Latency) -> None:
    """Cumulative distribution of a latency over requests."""
    curves = {
        name: distribution(outcome.columns.get(latency.column, np.empty(0))) for name, outcome in outcomes.items()
    }
    drawn = np.concatenate([values for values, _ in curves.values()])
    for name, style in styles(outcomes).items():
        values, shares = curves[name]
        if len(values):
            axes.plot(values * latency.per_second, shares, **style, lw=1.4, drawstyle="steps-post")
    if not len(drawn):
        say_empty(axes)
    elif is_wide(drawn):
        axes.set_xscale("log")
        axes.xaxis.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(latency.axis)
    axes.set_ylabel("share of requests")
    axes.grid(alpha=0.3)


def stacked(axes: "Axes", series: Series, scale: float, points: int, base: float, height: float) -> None:
    """Rows and prompts in prefill over time, stacked from `base` up, each `height` high."""
    floor: Array | float = base
    counts = (series.live_rows, series.held_rows, series.prefill_rows)
    for (label, colour), count in zip(_ROW_COLOURS.items(), counts, strict=True):
        edges, means = thinned(series.edges_s / scale, count, points)
        top = floor + height * np.append(means, 0.0)
        if means.any():
            axes.fill_between(edges, floor, top, step="post", color=colour, lw=0, label=label)
        floor = top


def draw_bands(axes: "Axes", outcomes: Outcomes) -> None:
    """The batch over time: a band per policy, all of the same height."""
    scale, unit = time_unit(outcomes)
    tops = [series_top(outcome.occupancy) for outcome in outcomes.values()]
    for row, outcome in enumerate(outcomes.values()):
        stacked(axes, outcome.occupancy, scale, 2 * _POINTS, row + 0.4, -0.8 / max(*tops, 1))
    if not any(tops):
        say_empty(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"simulated time, {unit} (height of a band: {max(tops):,.0f} rows)")
    name_rows(axes, list(outcomes))
    name_parts(axes, 3)


def series_top(series: Series) -> float:
    """Return the most rows and prompts in prefill at once."""
    return float((series.live_rows + series.held_rows + series.prefill_rows).max(initial=0))


def draw_batch(axes: "Axes", series: Series, scale: float) -> None:
    """What is in the batch over time."""
    stacked(axes, series, scale, _POINTS, 0, 1)
    if not series_top(series):
        say_empty(axes)


def draw_line(axes: "Axes", edges: Array, values: Array, thin: Thinning = thinned) -> None:
    """Draw one series over time."""
    if len(values):
        edges, values = thin(edges, values, _POINTS)
        axes.plot(edges, np.append(values, 0.0), color="#0072B2", lw=1.1, drawstyle="steps-post")
    else:
        say_empty(axes)
