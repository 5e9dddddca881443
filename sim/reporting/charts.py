"""The charts of the report: SVG text with the values for its script to show where the pointer is."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.metrics.metrics import Summary
from sim.reporting.labels import CAUSES, TIMED, Latency, cause_name, throughput_window
from sim.reporting.series import (
    CAUSE_STYLES,
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

Array = npt.NDArray[np.float64]

WIDTH, LEFT, RIGHT = 360, 46, 12
TOP, PLOT, BOTTOM = 10, 180, 42
SPAN = WIDTH - LEFT - RIGHT
POINTS = 200
"""Most places of a curve over time."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Level:
    """A value that a chart marks by a horizontal line, and what stands at it."""

    value: float
    said: str


@dataclass(frozen=True)
class Scale:
    """Where values are along x: linear from 0 to `high`, or logarithmic from `low`, which is then positive."""

    low: float
    high: float
    log: bool

    def x(self, values: Array) -> Array:
        """Return places in the picture."""
        if self.log:
            return LEFT + SPAN * np.log(values / self.low) / math.log(self.high / self.low)
        return LEFT + SPAN * values / self.high

    def ticks(self) -> Iterable[float]:
        """Yield round numbers; powers of ten, at most six of them, if it is logarithmic."""
        if not self.log:
            yield from ticks(self.high)
            return
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        yield from (10.0**power for power in range(first, last + 1, 1 + (last - first) // 6))


Curves = Mapping[str, tuple[Array, Array]]


def charts(outcomes: Outcomes, kv_tokens: int) -> list[str]:
    """Return the charts of a comparison as HTML.

    Args:
        outcomes: Runs of the same workload by policy name, at least one.
        kv_tokens: KV memory of a GPU, in tokens.
    """
    window = throughput_window(outcome.summary for outcome in outcomes.values())
    counted = "while saturated" if window else "whole run"
    key = f"{window}output_throughput"
    throughput = {name: [(counted, value(outcome.summary, key), "#0072B2")] for name, outcome in outcomes.items()}
    idle = {
        name: [
            (cause_name(cause), 100 * value(outcome.summary, f"idle_time_fraction_{cause}"), f"url(#{cause})")
            for cause in CAUSES
        ]
        for name, outcome in outcomes.items()
    }
    spans = {name: _span(outcome.summary, key) for name, outcome in outcomes.items()}
    return [
        bars(f"Output tokens/s, {counted}", throughput, "tokens/s", named=False, spans=spans),
        bars("Idle share of GPU busy time, %", idle, "%", named=True, fills=_hatchings()),
        *latency_charts(outcomes),
        _over_time("Live rows of the batch", outcomes, "live_rows", "rows"),
        _over_time("Waiting requests", outcomes, "waiting", "requests"),
        _over_time(
            "Most KV memory taken, tokens",
            outcomes,
            "kv_peak_tokens",
            "tokens",
            thinned_peaks,
            Level(float(kv_tokens), f"capacity: {kv_tokens:,}"),
        ),
    ]


def _span(summary: Summary, key: str) -> Span | None:
    """Return the ends of a prediction interval, where they are known."""
    low, high = (summary.get(f"{key}_{end}") for end in ENDS)
    return None if low is None or high is None else (float(low), float(high))


def bars(
    title: str,
    rows: Mapping[str, Sequence[tuple[str, float, str]]],
    unit: str,
    named: bool,
    spans: Mapping[str, Span | None] | None = None,
    fills: str = "",
) -> str:
    """Return horizontal bars, stacked from parts.

    Args:
        title: What is shown.
        rows: Of each bar its parts: name, value, colour or `url(#ID)` of one of the `fills`.
        unit: Of the values.
        named: Whether to name the parts below.
        spans: Of each bar the range in which its end is expected, where that is known.
        fills: What areas may be filled with, as SVG.
    """
    totals = {name: sum(size for _, size, _ in parts) for name, parts in rows.items()}
    known = {name: span for name, span in (spans or {}).items() if span}
    scale = (WIDTH - 80) / max(*totals.values(), *(high for _, high in known.values()), 1e-12)
    drawn = []
    for place, (name, parts) in enumerate(rows.items()):
        top = 44 * place
        drawn.append(f'<text x="0" y="{top + 14}">{escape(name)}</text>')
        left = 0.0
        for part, size, colour in parts:
            if size <= 0:
                continue
            within = f"\n{LEVEL:.0%} interval: {' to '.join(map(figure, known[name]))}" if name in known else ""
            said = escape(f"{name}\n{part}: {figure(size)} {unit}{within}", quote=True)
            drawn.append(
                f'<rect class="bar" x="{left:.1f}" y="{top + 20}" width="{max(size * scale, 0.5):.1f}" height="16" '
                f'fill="{colour}" data-tip="{said}"><title>{said}</title></rect>'
            )
            left += size * scale
        if name in known:
            low, high = (scale * end for end in known[name])
            drawn.append(whisker(low, high, top + 28))
            left = max(left, high)
        drawn.append(f'<text x="{left + 5:.1f}" y="{top + 33}">{figure(totals[name])}</text>')
    label = escape(f"{title}: " + ", ".join(f"{name} {figure(total)}" for name, total in totals.items()), quote=True)
    picture = (
        f'<svg viewBox="0 0 {WIDTH} {44 * len(rows)}" role="img" aria-label="{label}">{fills}{"".join(drawn)}</svg>'
    )
    shown = {part: colour for parts in rows.values() for part, size, colour in parts if size > 0} if named else {}
    return framed(title, picture, [(part, colour, "") for part, colour in shown.items()], block=True)


_HATCHES = {
    "": "",
    "/": "M-1 1L1 -1M0 6L6 0M5 7L7 5",
    "\\": "M-1 5L1 7M0 0L6 6M5 -1L7 1",
    "x": "M0 6L6 0M0 0L6 6",
    "+": "M3 0V6M0 3H6",
    ".": "M2 3H4M3 2V4",
}
"""Strokes of a square of 6 by 6 that is repeated, by the first letter of matplotlib's hatching."""


def _hatchings() -> str:
    """Return the fills of the causes of idle time as SVG patterns, hatched as in the pictures."""
    return "".join(
        f'<pattern id="{cause}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{colour}"/><path d="{_HATCHES[hatch[:1]]}" stroke="#000" stroke-width=".8"/>'
        "</pattern>"
        for cause, (colour, hatch) in zip(CAUSES, CAUSE_STYLES, strict=True)
    )


def whisker(low: float, high: float, y: float) -> str:
    """Return an error bar from one x to another."""
    ends = "".join(f"M{x:.1f} {y - 4:.1f}v8" for x in (low, high))
    return f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}{ends}"/>'


def latency_charts(outcomes: Mapping[str, Timed], what: str = "") -> list[str]:
    """Return the distributions of TTFT, TPOT and end-to-end latency, as HTML; `what` ends their titles."""
    return [_cdf(latency, outcomes, what) for latency in TIMED]


def _cdf(latency: Latency, outcomes: Mapping[str, Timed], what: str) -> str:
    curves = {}
    for name, outcome in outcomes.items():
        times, shares = distribution(outcome.columns.get(latency.column, np.empty(0)))
        curves[name] = (times * latency.per_second, shares)
    label = f"{latency.unit}; share of requests at most that"
    return curve_chart(f"{capital(latency.title)}{what}", curves, label, "", latency.unit, by="y")


def capital(text: str) -> str:
    """Return a text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def _over_time(
    title: str, outcomes: Outcomes, series: str, unit: str, thin: Thinning = thinned, level: Level | None = None
) -> str:
    scale, name_of_unit = time_unit(outcomes)
    curves = {}
    for name, outcome in outcomes.items():
        edges, held = thin(outcome.occupancy.edges_s / scale, getattr(outcome.occupancy, series), POINTS)
        curves[name] = (edges, np.append(held, 0.0)) if len(held) else (np.empty(0), np.empty(0))
    return curve_chart(title, curves, f"simulated time, {name_of_unit}", name_of_unit, unit, by="x", level=level)


def curve_chart(
    title: str, curves: Curves, label: str, axis: str, unit: str, by: str, level: Level | None = None
) -> str:
    """Return step curves.

    Args:
        title: What is shown.
        curves: Of each name its ascending x and its y.
        label: Of the x axis.
        axis: Unit of x.
        unit: Unit of what is shown where the pointer is.
        by: `x`: the values at the pointer's x; `y`: those at its share of requests.
        level: A horizontal line with a name.
    """
    ends = [x for x, _ in curves.values() if len(x)]
    high = 1.0 if by == "y" else max((float(y.max()) for _, y in curves.values() if len(y)), default=0.0)
    if level:
        high = max(high, level.value)
    if not high or not ends or not (right := max(float(x[-1]) for x in ends)):
        return framed(title, '<p class="soft">no data</p>')
    scale = Scale(min(float(x[0]) for x in ends), right, log=by == "y" and is_wide(np.concatenate(ends)))
    looks = styles(curves)
    drawn = [*_ground(scale, high, label), *_marked(level, high)]
    for (name, (across, up)), width in zip(curves.items(), widths(len(curves)), strict=True):
        if len(across):
            path = _steps(scale.x(across), TOP + PLOT * (1 - up / high))
            colour, dash = looks[name]["color"], dashes(looks[name]["linestyle"])
            drawn.append(
                f'<path class="curve" d="{path}" stroke="{colour}" stroke-dasharray="{dash}" '
                f'stroke-width="{width:.1f}"><title>{escape(name)}</title></path>'
            )
    facts = {
        "by": by,
        "axis": axis,
        "unit": unit,
        "left": LEFT,
        "top": TOP,
        "width": SPAN,
        "height": PLOT,
        "end": right if by == "x" else high,
        "series": [{"name": name, "x": _rounded(x), "y": _rounded(y)} for name, (x, y) in curves.items()],
    }
    chart = escape(json.dumps(facts, separators=(",", ":")), quote=True)
    picture = (
        f'<svg viewBox="0 0 {WIDTH} {TOP + PLOT + BOTTOM}" role="img" aria-label="{escape(title, quote=True)}" '
        f'data-chart="{chart}">{"".join(drawn)}<line class="cross"/></svg>'
    )
    return framed(title, picture, key_of_lines(looks))


def widths(count: int) -> list[float]:
    """Return the widths of lines in drawing order: what lies below is wider, so that equal lines are all seen."""
    return [1.4 + 1.6 * place / max(count - 1, 1) for place in reversed(range(count))]


def _ground(scale: Scale, high: float, label: str) -> Iterator[str]:
    """Yield the grid, its numbers and the label of the x axis."""
    right = WIDTH - RIGHT
    for tick in ticks(high):
        y = TOP + PLOT * (1 - tick / high)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>'
    for tick in scale.ticks():
        x = float(scale.x(np.array(tick)))
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP + PLOT}" y2="{TOP + PLOT + 4}"/>'
        yield f'<text x="{x:.1f}" y="{TOP + PLOT + 16}" text-anchor="middle">{tick_label(tick)}</text>'
    yield f'<text x="{LEFT + SPAN / 2}" y="{TOP + PLOT + 34}" text-anchor="middle">{escape(label)}</text>'
    yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{TOP + PLOT}" y2="{TOP + PLOT}"/>'


def _marked(level: Level | None, high: float) -> Iterator[str]:
    """Yield a horizontal line and its name."""
    if level:
        y, right = TOP + PLOT * (1 - level.value / high), WIDTH - RIGHT
        yield f'<line class="asked" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{right}" y="{y + 14:.1f}" text-anchor="end">{escape(level.said)}</text>'


def key_of_lines(looks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, colour and dashes of lines, as `framed` takes them."""
    return [(name, look["color"], dashes(look["linestyle"])) for name, look in looks.items()]


def framed(title: str, body: str, key: Iterable[tuple[str, str, str]] = (), block: bool = False) -> str:
    """Return a chart with its title.

    Args:
        title: What it shows.
        body: It, as HTML.
        key: What stands below it: name, colour and dashes of lines, or of filled areas if `block`.
        block: Whether it names areas.
    """
    named = "".join(
        '<li><svg viewBox="0 0 26 10" aria-hidden="true">'
        + (
            f'<rect width="14" height="10" x="6" fill="{colour}"/>'
            if block
            else f'<line x1="0" x2="26" y1="5" y2="5" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{dash}"/>'
        )
        + f"</svg>{escape(name)}</li>"
        for name, colour, dash in key
    )
    return f"<figure><h3>{escape(title)}</h3>{body}{f'<ul class=key>{named}</ul>' if named else ''}</figure>"


def _steps(x: Array, y: Array) -> str:
    moves = [f"H{across:.1f}V{up:.1f}" for across, up in zip(x[1:], y[1:], strict=True)]
    return f"M{x[0]:.1f} {y[0]:.1f}{''.join(moves)}"


def _rounded(values: Array) -> list[float]:
    return [float(f"{each:.4g}") for each in values.tolist()]


def dashes(style: Any) -> str:
    """Return a line style of matplotlib as SVG says it."""
    named = {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
    return named[style] if isinstance(style, str) else " ".join(str(2 * length) for length in style[1])


def ticks(end: float) -> Iterable[float]:
    """Yield round numbers from 0 to `end`, three to six of them."""
    step = 10 ** math.floor(math.log10(end))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if end / (step * part) <= 5.5)
    count = math.floor(end / step + 1e-9)
    yield from (place * step for place in range(count + 1))


def tick_label(number: float) -> str:
    """Return a number of an axis; thousands are told by k, millions by M."""
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 10 * scale or (number >= scale and unit == "M"):
            return f"{number / scale:g}{unit}"
    return figure(number)


def figure(number: float) -> str:
    """Return a number as short as it can be read."""
    if number == 0 or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"
