"""The charts of the page, drawn by bokeh: values under the pointer, zoom, and a click on a name hides what it names."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sim.metrics.interval import Interval
from sim.metrics.metrics import Summary
from sim.reporting.labels import CAUSES, TIMED, Latency, cause_name, throughput_window
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
    thinned_peaks,
    time_unit,
    value,
)
from sim.simulation.prediction_interval import ENDS, LEVEL

POINTS = 200
"""Most places of a curve over time."""

_ROW, _AXIS, _HEIGHT = 34, 60, 270
_DASHES = {"-": "solid", "--": "dashed", "-.": "dashdot", ":": "dotted"}
_TIP = '<div style="white-space:pre">@tip</div>'

Mode = Literal["mouse", "hline", "vline"]
Span = tuple[float, float]
Curves = Mapping[str, tuple[Array, Array]]


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: What it shows.
        plot: A figure of bokeh; None if there is nothing to draw.
    """

    title: str
    plot: Any = None


@dataclass(frozen=True)
class Level:
    """A value that a chart marks by a horizontal line, and what it is called."""

    value: float
    name: str


@dataclass(frozen=True)
class Part:
    """A part of a bar: its name, its size, its colour and matplotlib's hatching."""

    name: str
    size: float
    colour: str
    hatch: str = ""


@dataclass(frozen=True)
class Spread:
    """What one row of a chart shows.

    Attributes:
        mean: An estimate and its interval.
        tip: What stands under the pointer.
        values: What it was made of; empty: not shown.
    """

    mean: Interval
    tip: str
    values: Sequence[float] = ()


@dataclass(frozen=True)
class Place:
    """One point of a curve.

    Attributes:
        rate: Requests/s.
        value: What is drawn.
        tip: What stands under the pointer.
        ends: The ends of its interval; None: not shown.
    """

    rate: float
    value: float
    tip: str
    ends: Span | None = None


@dataclass(frozen=True)
class RateCurve:
    """A policy against the rate: its places, ascending, and where its capacity lies, None if it has none."""

    places: Sequence[Place]
    knee: Place | None = None


def charts(outcomes: Outcomes, kv_tokens: int) -> list[Chart]:
    """Return the charts of a comparison.

    Args:
        outcomes: Runs of the same workload by policy name, at least one.
        kv_tokens: KV memory of a GPU, in tokens.
    """
    window = throughput_window(outcome.summary for outcome in outcomes.values())
    part, key = "while saturated" if window else "whole run", f"{window}output_throughput"
    throughput = {name: [Part(part, value(each.summary, key), "#0072B2")] for name, each in outcomes.items()}
    idle = {
        name: [
            Part(cause_name(cause), 100 * value(each.summary, f"idle_time_fraction_{cause}"), *look)
            for cause, look in zip(CAUSES, CAUSE_STYLES, strict=True)
        ]
        for name, each in outcomes.items()
    }
    spans = {name: _span(outcome.summary, key) for name, outcome in outcomes.items()}
    capacity = Level(float(kv_tokens), f"capacity: {kv_tokens:,}")
    return [
        bars(f"Output tokens/s, {part}", throughput, "tokens/s", spans),
        bars("Idle share of GPU busy time, %", idle, "%"),
        *latency_charts(outcomes),
        _over_time("Live rows of the batch", outcomes, "live_rows", "rows"),
        _over_time("Waiting requests", outcomes, "waiting", "requests"),
        _over_time("Most KV memory taken, tokens", outcomes, "kv_peak_tokens", "tokens", thinned_peaks, capacity),
    ]


def _span(summary: Summary, key: str) -> Span | None:
    """Return the ends of a prediction interval, where they are known."""
    low, high = (summary.get(f"{key}_{end}") for end in ENDS)
    return None if low is None or high is None else (float(low), float(high))


def latency_charts(outcomes: Mapping[str, Timed], what: str = "") -> list[Chart]:
    """Return the distributions of TTFT, TPOT and end-to-end latency; `what` ends their titles."""
    return [_distributions(latency, outcomes, what) for latency in TIMED]


def _distributions(latency: Latency, outcomes: Mapping[str, Timed], what: str) -> Chart:
    curves = {}
    for name, outcome in outcomes.items():
        times, shares = distribution(outcome.columns.get(latency.column, np.empty(0)))
        curves[name] = (times * latency.per_second, shares)
    title = f"{capital(latency.title)}{what}"
    return curve_chart(title, curves, f"{latency.unit}; share of requests at most that", latency.unit, by="y")


def _over_time(
    title: str, outcomes: Outcomes, series: str, unit: str, thin: Thinning = thinned, level: Level | None = None
) -> Chart:
    scale, name_of_unit = time_unit(outcomes)
    curves = {}
    for name, outcome in outcomes.items():
        edges, held = thin(outcome.occupancy.edges_s / scale, getattr(outcome.occupancy, series), POINTS)
        curves[name] = (edges, np.append(held, 0.0)) if len(held) else (np.empty(0), np.empty(0))
    return curve_chart(title, curves, f"simulated time, {name_of_unit}", unit, by="x", level=level)


def bars(
    title: str, rows: Mapping[str, Sequence[Part]], unit: str, spans: Mapping[str, Span | None] | None = None
) -> Chart:
    """Return horizontal bars, stacked from parts.

    Args:
        title: What is shown.
        rows: The parts of each bar.
        unit: Of their sizes.
        spans: Of each bar the range in which its end is expected, where that is known.
    """
    plot = _rows_plot(list(rows), unit)
    ranges = {name: span for name, span in (spans or {}).items() if span}
    left = dict.fromkeys(rows, 0.0)
    for place in range(max(map(len, rows.values()))):
        parts = {name: parts[place] for name, parts in rows.items() if parts[place].size > 0}
        columns = [
            (y, left[name], left[name] + parts[name].size, _bar_tip(name, parts[name], unit, ranges.get(name)))
            for y, name in enumerate(rows)
            if name in parts
        ]
        if parts:
            look = next(iter(parts.values()))
            data = dict(zip(("y", "left", "right", "tip"), map(list, zip(*columns, strict=True)), strict=True))
            hatch = {"hatch_pattern": look.hatch[0], "hatch_scale": 6, "hatch_weight": 0.8} if look.hatch else {}
            _hover(plot, plot.hbar(
                y="y", left="left", right="right", height=0.5, source=data, fill_color=look.colour, line_color="black",
                line_width=0.6, legend_label=look.name, **hatch,
            ))  # fmt: skip
            left |= {name: left[name] + part.size for name, part in parts.items()}
    _whiskers(plot, {y: ranges[name] for y, name in enumerate(rows) if name in ranges})
    plot.x_range.start = 0
    return Chart(title, _with_legend(plot))


def _bar_tip(name: str, part: Part, unit: str, span: Span | None) -> str:
    within = f"\n{LEVEL:.0%} interval: {' to '.join(map(short, span))}" if span else ""
    return f"{name}\n{part.name}: {short(part.size)} {unit}{within}"


def curve_chart(title: str, curves: Curves, label: str, unit: str, by: str, level: Level | None = None) -> Chart:
    """Return step curves.

    Args:
        title: What is shown.
        curves: Of each name its ascending x and its y.
        label: Of the x axis.
        unit: Unit of what is shown under the pointer.
        by: `x`: the values at the pointer's x; `y`: those at its share of requests.
        level: A horizontal line with a name.
    """
    ends = [x for x, _ in curves.values() if len(x)]
    high = max([level.value if level else 0.0, *(float(y.max()) for _, y in curves.values() if len(y))])
    if not high or not ends or not (right := max(float(x[-1]) for x in ends)):
        return Chart(title)
    wide = by == "y" and is_wide(np.concatenate(ends))
    plot = _plot(_HEIGHT, label, x_axis_type="log" if wide else "linear")
    plot.y_range.start, plot.y_range.end = 0, 1.02 * high
    tips = f"$name: @y{{0,0.[0]}} {unit}" if by == "x" else f"$name: @x{{0,0.[000]}} {unit}"
    for (name, (x, y)), width in zip(curves.items(), widths(len(curves)), strict=True):
        look = {"name": name, "legend_label": name, "line_width": width, **_look(name, curves)}
        line = plot.step(_rounded(x), _rounded(y), mode="after", **look)
        _hover(plot, line, tips, mode="vline" if by == "x" else "hline")
    if level:
        plot.line([0, right], [level.value] * 2, color="black", line_dash="dotted", legend_label=level.name)
    return Chart(title, _with_legend(plot))


def spread_chart(title: str, rows: Mapping[str, Spread], label: str, band: Span | None = None) -> Chart:
    """Return a row per name: dots, and their mean with an error bar, on an axis that need not begin at 0.

    Args:
        title: What is shown.
        rows: What each shows.
        label: Of the axis.
        band: A range to be shaded, with a line at its middle.
    """
    if not rows:
        return Chart(title)
    from bokeh.models.annotations import BoxAnnotation
    from bokeh.models.annotations import Span as Line

    plot = _rows_plot(list(rows), label)
    if band:
        look: dict[str, Any] = {"fill_color": "#e4e7ea", "line_width": 0, "level": "underlay"}
        plot.add_layout(BoxAnnotation(left=band[0], right=band[1], **look))
        plot.add_layout(Line(location=sum(band) / 2, dimension="height", line_color="#d8dde2"))
    for y, row in enumerate(rows.values()):
        offsets = [y + 0.3 * (place + 0.5) / len(row.values) - 0.15 for place in range(len(row.values))]
        plot.scatter(list(row.values), offsets, size=4, color="#56b4e9", name="replications")
    _whiskers(plot, {y: (row.mean.low, row.mean.high) for y, row in enumerate(rows.values())})
    data = {
        "x": [row.mean.estimate for row in rows.values()],
        "y": list(range(len(rows))),
        "tip": [f"{name}\n{row.tip}" for name, row in rows.items()],
    }
    _hover(plot, plot.scatter("x", "y", source=data, size=7, color="black", name="means"))
    return Chart(title, plot)


def rate_chart(title: str, curves: Mapping[str, RateCurve], bounds: Span, asked: float | None) -> Chart:
    """Return curves against the arrival rate, each with its capacity marked; what is outside is cut.

    Args:
        title: What is shown.
        curves: By policy.
        bounds: Lowest and highest value that is shown.
        asked: What the SLO asks for: a dotted line; None: nothing.
    """
    from bokeh.models.annotations import Span as Line

    plot = _plot(_HEIGHT, "arrival rate, requests/s")
    plot.y_range.start, plot.y_range.end = bounds
    plot.x_range.start = 0
    if asked is not None:
        plot.add_layout(Line(location=asked, dimension="width", line_dash="dotted"))
    for name, curve in curves.items():
        look = _look(name, curves)
        colour = look["line_color"]
        data: dict[str, list[Any]] = {
            "x": [place.rate for place in curve.places],
            "y": [place.value for place in curve.places],
            "tip": [f"{name}\n{place.tip}" for place in curve.places],
        }
        plot.line("x", "y", source=data, legend_label=name, line_width=1.8, **look)
        held = [(place.rate, *place.ends) for place in curve.places if place.ends]
        rates, low, high = zip(*held, strict=True) if held else ((), (), ())
        plot.segment(list(rates), list(low), list(rates), list(high), color=colour, legend_label=name)
        _hover(plot, plot.scatter("x", "y", source=data, size=6, color=colour, legend_label=name))
        if curve.knee:
            plot.add_layout(Line(location=curve.knee.rate, dimension="height", line_color=colour, line_alpha=0.5))
            knee = {"x": [curve.knee.rate], "y": [curve.knee.value]}
            plot.scatter("x", "y", source=knee, size=12, line_color=colour, fill_color=None, name="capacity")
    return Chart(title, _with_legend(plot))


def _plot(height: int, label: str, **options: Any) -> Any:
    """Return an empty figure of bokeh."""
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure

    plot: Any = figure(
        height=height, sizing_mode="stretch_width", tools="pan,box_zoom,wheel_zoom,reset,save", active_drag=None,
        toolbar_location="above", x_axis_label=label, **options,
    )  # fmt: skip
    plot.toolbar.logo, plot.toolbar.autohide = None, True
    plot.xgrid.grid_line_color = None
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.formatter = NumeralTickFormatter(format="0,0.[0000]")
    return plot


def _rows_plot(names: Sequence[str], label: str) -> Any:
    """Return an empty figure with a row per name, the first on top."""
    plot = _plot(_AXIS + _ROW * (1 + len(names)), label, y_range=(len(names) - 0.4, -0.6))
    plot.yaxis.ticker = list(range(len(names)))
    plot.yaxis.major_label_overrides = dict(enumerate(names))
    return plot


def _look(name: str, names: Iterable[str]) -> dict[str, Any]:
    style = styles(names)[name]
    return {"line_color": style["color"], "line_dash": dashes(style["linestyle"])}


def dashes(style: Any) -> Any:
    """Return a line style of matplotlib as bokeh says it."""
    return _DASHES[style] if isinstance(style, str) else [2 * length for length in style[1]]


def _hover(plot: Any, glyph: Any, tips: str = _TIP, mode: Mode = "mouse") -> None:
    """Let something stand under the pointer."""
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(renderers=[glyph], tooltips=tips, mode=mode, point_policy="follow_mouse", visible=False))


def _whiskers(plot: Any, ends: Mapping[int, Span]) -> None:
    """Draw error bars from one x to another at each y, as far as they are finite."""
    finite = {y: span for y, span in ends.items() if all(map(math.isfinite, span))}
    low, high = [list(each) for each in zip(*finite.values(), strict=True)] if finite else ([], [])
    rows = list(finite)
    plot.segment(low, rows, high, rows, color="black", line_width=1.4, name="whisker")
    plot.scatter([*low, *high], rows * 2, marker="dash", angle=math.pi / 2, size=8, color="black", line_width=1.4)


def _with_legend(plot: Any) -> Any:
    """Move the names below the figure; a click on one hides what it names."""
    if plot.legend:
        plot.add_layout(plot.legend[0], "below")
        plot.legend.click_policy = "hide"
        plot.legend.ncols = 2
        plot.height += 22 * -(-len(plot.legend[0].items) // 2)
        plot.legend.border_line_color = None
    return plot


def widths(count: int) -> list[float]:
    """Return the widths of lines in drawing order: what lies below is wider, so that equal lines are all seen."""
    return [1.4 + 1.6 * place / max(count - 1, 1) for place in reversed(range(count))]


def _rounded(values: Array) -> list[float]:
    return [float(f"{each:.4g}") for each in values.tolist()]


def capital(text: str) -> str:
    """Return a text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def short(number: float) -> str:
    """Return a number as short as it can be read."""
    return f"{number:,.0f}" if number == 0 or abs(number) >= 100 else f"{number:.3g}"
