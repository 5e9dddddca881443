"""The report of a search for capacity: the rates, and attainment and latency against the rate with the knee."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.reporting.interval_charts import Curve, Place, rate_chart
from sim.reporting.page import Row, table, write_page
from sim.reporting.table import heading
from sim.simulation.context import Context
from sim.tasks.capacity.results import Capacities, near
from sim.tasks.capacity.search import Found, Point
from sim.tasks.capacity.table import capacity_lines, rate_shown


def write_capacity_report(path: Path, found: Capacities, context: Context, facts: Mapping[str, Any]) -> Path:
    """Write the page; return its path.

    Args:
        path: Where to.
        found: What was found, its notes included.
        context: What it was found on.
        facts: As in `summary.json`.

    Raises:
        InputError: if the file cannot be written.
    """
    return write_page(
        path,
        title=f"{context.workload}: capacity of {' / '.join(found)} on {context.hardware}",
        answer=answer(found, context),
        setting=heading(context),
        tables=[table(found, (Row(label, cells) for label, cells in capacity_lines(found)))],
        validity=validity(found),
        charts=_charts(found),
        facts=facts,
    )


def answer(found: Capacities, context: Context) -> str:
    """Return which policy serves the most, and how much more than the others, in a sentence."""
    asked = f"{100 * found.attainment:g} % of requests have {found.limits}"
    where = f"With {context.model} on {context.hardware},"
    best, *rest = sorted(found, key=lambda name: -found[name].rate)
    most = found[best]
    if not most.rate:
        return f"{where} no rate is low enough: under no policy {asked}."
    told = f"{where} {best} serves up to {rate_shown(most.rate)} requests/s such that {asked} ({_ends(most)})"
    apart = [name for name in rest if found[name].high <= most.low]
    times = " and ".join(_times(most, found[name], name) for name in apart)
    alike = " and ".join(f"{name} ({rate_shown(found[name].rate)})" for name in rest if name not in apart)
    more = [f"that is {times}"] * bool(apart) + [f"it is not told apart from {alike}: their ranges overlap"] * bool(
        alike
    )
    return f"{'; '.join([told, *more])}."


def _times(most: Found, other: Found, name: str) -> str:
    if not other.rate:
        return f"more than {name}, which meets the SLO at no rate"
    return f"{most.rate / other.rate:.2f} times {name} ({rate_shown(other.rate)})"


def _ends(found: Found) -> str:
    up_to = f"surely up to {rate_shown(found.low)}" if found.low else "surely at no rate"
    if math.isfinite(found.high):
        return f"{up_to}, surely not from {rate_shown(found.high)} on"
    return f"{up_to}; more it cannot serve for long"


def validity(found: Capacities) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    yield (
        "These are predictions of a simulator: 'surely' tells what chance in the requests does, and nothing about how "
        "well the model of the GPU fits."
    )
    yield from found.notes


def _charts(found: Capacities) -> Iterator[str]:
    asked = 100 * found.attainment
    floor = max(0.0, 100 - 15 * (100 - asked))
    curves = {name: _curve(each, lambda point: _attained(found, point)) for name, each in found.items()}
    yield rate_chart("Requests that met the SLO, %", curves, (floor, 100 + 0.03 * (100 - floor)), asked)
    for metric, label, limit in (
        ("p99_ttft_ms", "p99 of time to first token, s", found.slo.ttft_s),
        ("p99_tpot_ms", "p99 of time per output token, s", found.slo.tpot_s),
    ):
        if limit is not None:
            yield _latency(found, metric, label, limit)


def _latency(found: Capacities, metric: str, label: str, limit: float) -> str:
    """Return a latency against the rate, up to some times its limit."""

    def place(point: Point) -> Place | None:
        value = point.metric(metric)
        said = f"{{:.3g}} s at {point.rate:.3g} requests/s ({len(point.runs)} replications)"
        return None if value is None else Place(point.rate, value / 1e3, said.format(value / 1e3))

    curves = {name: _curve(each, place) for name, each in found.items()}
    highest = max([limit, *(each.value for curve in curves.values() for each in curve.places)])
    knees = [curve.knee.value for curve in curves.values() if curve.knee]
    top = max([min(3 * limit, 1.15 * highest), *(1.1 * knee for knee in knees)])
    return rate_chart(label, curves, (0.0, top), limit)


def _attained(found: Capacities, point: Point) -> Place:
    share = found.attained(point)
    ends = (100 * max(share.low, 0.0), 100 * min(share.high, 1.0))
    half = f" ± {100 * share.half_width:.2g}" if math.isfinite(share.half_width) else ""
    said = f"{100 * share.estimate:.2f}{half} % at {point.rate:.3g} requests/s ({len(point.runs)} replications)"
    return Place(point.rate, 100 * share.estimate, said, ends)


def _curve(found: Found, place: Any) -> Curve:
    """Return the points of a policy around its capacity, and that one, as `place` draws them."""
    drawn = [each for point in near(found) if (each := place(point)) is not None]
    return Curve(drawn, place(found.at_capacity) if found.at_capacity else None)
