"""Charts of the reports on repeated runs: replications and their means, ratios, curves against the arrival rate."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from sim.metrics.interval import Interval
from sim.reporting.charts import LEFT, PLOT, RIGHT, TOP, WIDTH, dashes, framed, key_of_lines, tick_label, whisker
from sim.reporting.series import styles

_EDGE = 14
_ROW = 44
_AXIS = 40

Spot = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """What one row of a chart shows.

    Attributes:
        found: An estimate and its interval.
        values: What it was made of; empty: not shown.
        said: What stands under the pointer.
    """

    found: Interval
    said: str
    values: Sequence[float] = ()


@dataclass(frozen=True)
class Place:
    """One point of a curve.

    Attributes:
        rate: Requests/s.
        value: What is drawn.
        said: What stands under the pointer.
        ends: The ends of its interval; None: not shown.
    """

    rate: float
    value: float
    said: str
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """A policy against the rate: its places, ascending, and where its capacity lies, None if it has none."""

    places: Sequence[Place]
    knee: Place | None = None


def spread_chart(title: str, rows: Mapping[str, Spread], label: str, band: tuple[float, float] | None = None) -> str:
    """Return a row per name: dots, and their mean with an error bar, on an axis that need not begin at 0.

    Args:
        title: What is shown.
        rows: What each shows.
        label: Of the axis.
        band: A range to be shaded, with a line at its middle.
    """
    if not rows:
        return framed(title, '<p class="soft">no data</p>')
    low, high = _bounds(rows.values(), band)

    def x(value: float) -> float:
        return _EDGE + (WIDTH - 2 * _EDGE) * (value - low) / (high - low)

    bottom = _ROW * len(rows)
    drawn = list(_ground(low, high, bottom, band))
    for place, (name, row) in enumerate(rows.items()):
        top = _ROW * place
        drawn.append(f'<text class="name" x="0" y="{top + 14}">{escape(name)}</text>')
        for number, value in enumerate(row.values):
            y = top + 22 + 14 * (number + 0.5) / len(row.values)
            drawn.append(f'<circle class="run" cx="{x(value):.1f}" cy="{y:.1f}" r="2"/>')
        drawn.append(whisker(x(max(row.found.low, low)), x(min(row.found.high, high)), top + 29))
        drawn.append(_dot(x(row.found.estimate), top + 29, "var(--ink)", f"{name}\n{row.said}"))
    drawn.append(f'<text x="{WIDTH / 2}" y="{bottom + 34}" text-anchor="middle">{escape(label)}</text>')
    spoken = escape(f"{title}: " + ", ".join(f"{name} {row.said}" for name, row in rows.items()), quote=True)
    size = f'viewBox="0 0 {WIDTH} {bottom + _AXIS}"'
    return framed(title, f'<svg {size} role="img" aria-label="{spoken}">{"".join(drawn)}</svg>')


def _bounds(rows: Iterable[Spread], band: tuple[float, float] | None) -> tuple[float, float]:
    every = [each for row in rows for each in (*row.values, row.found.low, row.found.high, row.found.estimate)]
    known = [each for each in [*every, *(band or ())] if math.isfinite(each)]
    low, high = min(known), max(known)
    margin = 0.04 * (high - low) or abs(high) * 0.02 or 1.0
    return low - margin, high + margin


def _ground(low: float, high: float, bottom: int, band: tuple[float, float] | None) -> Iterator[str]:
    """Yield the shaded band, the grid and the numbers of a horizontal axis."""
    scale = (WIDTH - 2 * _EDGE) / (high - low)
    if band:
        left, right = (_EDGE + scale * (end - low) for end in band)
        yield f'<rect class="band" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{bottom}"/>'
        middle = (left + right) / 2
        yield f'<line class="grid" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{bottom}"/>'
    yield f'<line class="grid" x1="0" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>'
    for tick, name in ticks_between(low, high):
        at = _EDGE + scale * (tick - low)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{name}</text>'


def ticks_between(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Yield round numbers in a range, two to six of them, and how they are written: all with the same decimals."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if (high - low) / (step * part) <= 5.5)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield place * step, tick_label(place * step) if step >= 1 else f"{place * step:,.{decimals}f}"


def _dot(x: float, y: float, colour: str, said: str) -> str:
    told = escape(said, quote=True)
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}" data-tip="{told}"/>'


@dataclass(frozen=True)
class _Axes:
    """Where rates from 0 to `right` and values from `low` to `high` are drawn."""

    right: float
    low: float
    high: float

    def x(self, rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / self.right

    def y(self, value: float) -> float:
        return TOP + PLOT * (self.high - value) / (self.high - self.low)

    def holds(self, place: Place) -> bool:
        return self.low <= place.value <= self.high

    def inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ground(self) -> Iterator[str]:
        """Yield grid, numbers and label."""
        end, bottom = WIDTH - RIGHT, TOP + PLOT
        for tick, name in ticks_between(self.low, self.high):
            y = self.y(tick)
            yield f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        for tick, name in ticks_between(0, self.right):
            yield f'<text x="{self.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{name}</text>'
        yield f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{bottom}" y2="{bottom}"/>'
        middle = (LEFT + end) / 2
        yield f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">arrival rate, requests/s</text>'


def rate_chart(title: str, curves: Mapping[str, Curve], bounds: Spot, asked: float | None) -> str:
    """Return curves against the arrival rate, each with its capacity marked; what is outside is cut.

    Args:
        title: What is shown.
        curves: By policy.
        bounds: Lowest and highest value that is shown.
        asked: What the SLO asks for: a dotted line; None: nothing.
    """
    axes = _Axes(1.03 * max(place.rate for curve in curves.values() for place in curve.places), *bounds)
    looks, drawn = styles(curves), list(axes.ground())
    if asked is not None:
        y = f"{axes.y(asked):.1f}"
        drawn.append(f'<line class="asked" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for name, curve in curves.items():
        colour, dash = looks[name]["color"], dashes(looks[name]["linestyle"])
        drawn += _drawn(axes, name, curve, colour, dash)
    size = f'viewBox="0 0 {WIDTH} {TOP + PLOT + 42}"'
    picture = f'<svg {size} role="img" aria-label="{escape(title, quote=True)}">{"".join(drawn)}</svg>'
    return framed(title, picture, key_of_lines(looks))


def _drawn(axes: _Axes, name: str, curve: Curve, colour: str, dash: str) -> Iterator[str]:
    """Yield a curve, its points with their intervals as far as they are inside, and its capacity."""
    segments = _cut(curve.places, axes.low, axes.high)
    ends = ([f"{axes.x(rate):.1f} {axes.y(value):.1f}" for rate, value in segment] for segment in segments)
    path = "".join(f"M{start}L{end}" for start, end in ends)
    yield f'<path class="curve" d="{path}" stroke="{colour}" stroke-dasharray="{dash}" stroke-width="1.8"/>'
    if knee := curve.knee:
        at = f"{axes.x(knee.rate):.1f}"
        yield f'<line class="knee" stroke="{colour}" x1="{at}" x2="{at}" y1="{TOP}" y2="{TOP + PLOT}"/>'
        if axes.holds(knee):
            y = f"{axes.y(knee.value):.1f}"
            yield f'<circle cx="{at}" cy="{y}" r="6" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    for place in filter(axes.holds, curve.places):
        x = axes.x(place.rate)
        if place.ends:
            bottom, top = (axes.y(axes.inside(end)) for end in place.ends)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}"/>'
        yield _dot(x, axes.y(place.value), colour, f"{name}\n{place.said}")


def _cut(places: Sequence[Place], low: float, high: float) -> Iterator[tuple[Spot, Spot]]:
    """Yield the segments between neighbours as far as they lie between `low` and `high`."""
    for start, end in pairwise(places):
        rise, run = end.value - start.value, end.rate - start.rate
        shares = sorted((bound - start.value) / rise for bound in (low, high)) if rise else [0.0, 1.0]
        first, last = max(shares[0], 0.0), min(shares[1], 1.0)
        if first <= last and (rise or low <= start.value <= high):
            cuts = [(start.rate + share * run, start.value + share * rise) for share in (first, last)]
            yield cuts[0], cuts[1]
