"""The report of a search for capacity: the rates, and attainment and latency against the rate with the knee."""

import math
from collections.abc import Callable, Iterator

from sim.reporting.charts import Chart, Place, RateCurve, rate_chart
from sim.reporting.labels import Metric, metrics_at_rates
from sim.reporting.page import Page
from sim.reporting.table import heading
from sim.simulation.context import Context
from sim.tasks.capacity.results import Capacities, near
from sim.tasks.capacity.search import Capacity, TriedRate
from sim.tasks.capacity.table import capacity_grid, rate_text


def capacity_page(capacities: Capacities, context: Context) -> Page:
    """Return the page of capacities, their notes included."""
    return Page(
        title=f"{context.workload}: capacity of {' / '.join(capacities)} on {context.hardware}",
        answer=answer(capacities, context),
        setting=heading(context),
        tables=[capacity_grid(capacities)],
        validity=validity(capacities),
        charts=_charts(capacities),
    )


def answer(capacities: Capacities, context: Context) -> str:
    """Return which policy serves the most, and how much more than the others, in a sentence."""
    asked = f"{100 * capacities.attainment:g} % of requests have {capacities.limits}"
    where = f"With {context.model} on {context.hardware},"
    best, *rest = sorted(capacities, key=lambda name: -capacities[name].rate)
    most = capacities[best]
    if not most.rate:
        return f"{where} no rate is low enough: under no policy {asked}."
    sentence = f"{where} {best} serves up to {rate_text(most.rate)} requests/s such that {asked} ({_ends(most)})"
    apart = [name for name in rest if capacities[name].high <= most.low]
    times = " and ".join(_times(most, capacities[name], name) for name in apart)
    alike = " and ".join(f"{name} ({rate_text(capacities[name].rate)})" for name in rest if name not in apart)
    more = [f"that is {times}"] * bool(apart) + [f"it is not told apart from {alike}: their ranges overlap"] * bool(
        alike
    )
    return f"{'; '.join([sentence, *more])}."


def _times(most: Capacity, other: Capacity, name: str) -> str:
    if not other.rate:
        return f"more than {name}, which meets the SLO at no rate"
    return f"{most.rate / other.rate:.2f} times {name} ({rate_text(other.rate)})"


def _ends(capacity: Capacity) -> str:
    up_to = f"surely up to {rate_text(capacity.low)}" if capacity.low else "surely at no rate"
    if math.isfinite(capacity.high):
        return f"{up_to}, surely not from {rate_text(capacity.high)} on"
    return f"{up_to}; more it cannot serve for long"


def validity(capacities: Capacities) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    yield (
        "These are predictions of a simulator: 'surely' tells what chance in the requests does, and nothing about how "
        "well the model of the GPU fits."
    )
    yield from capacities.notes


def _charts(capacities: Capacities) -> Iterator[Chart]:
    asked = 100 * capacities.attainment
    floor = max(0.0, 100 - 15 * (100 - asked))
    curves = {name: _curve(each, lambda tried: _attained(capacities, tried)) for name, each in capacities.items()}
    yield rate_chart("Requests that met the SLO, %", curves, (floor, 100 + 0.03 * (100 - floor)), asked)
    for metric, limit in metrics_at_rates(capacities.slo):
        yield _at_rates(capacities, metric, limit)


def _at_rates(capacities: Capacities, metric: Metric, limit: float | None) -> Chart:
    """Return a metric against the rate, up to some times its limit."""

    def place(tried: TriedRate) -> Place | None:
        value = tried.metric(metric.name())
        if value is None:
            return None
        value *= metric.scale
        at = f"at {tried.rate:.3g} requests/s ({len(tried.runs)} replications)"
        return Place(tried.rate, value, f"{value:.3g} {metric.unit} {at}")

    curves = {name: _curve(each, place) for name, each in capacities.items()}
    highest = 1.15 * max([limit or 1e-9, *(each.value for curve in curves.values() for each in curve.places)])
    knees = [1.1 * curve.knee.value for curve in curves.values() if curve.knee]
    top = max([min(3 * limit, highest), *knees]) if limit else highest
    return rate_chart(metric.axis, curves, (0.0, top), limit)


def _attained(capacities: Capacities, tried: TriedRate) -> Place:
    share = capacities.attained(tried)
    ends = (100 * max(share.low, 0.0), 100 * min(share.high, 1.0))
    half = f" ± {100 * share.half_width:.2g}" if math.isfinite(share.half_width) else ""
    at = f"at {tried.rate:.3g} requests/s ({len(tried.runs)} replications)"
    return Place(tried.rate, 100 * share.estimate, f"{100 * share.estimate:.2f}{half} % {at}", ends)


def _curve(capacity: Capacity, place: Callable[[TriedRate], Place | None]) -> RateCurve:
    """Return the rates around the capacity of a policy, and that one, as `place` draws them."""
    places = [each for tried in near(capacity) if (each := place(tried)) is not None]
    return RateCurve(places, place(capacity.at_capacity) if capacity.at_capacity else None)
