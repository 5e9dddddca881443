"""The table of a search for capacity: what was found for every policy."""

import math
from collections.abc import Iterator

from sim.reporting.labels import Metric, metrics_at_rates, number_text
from sim.reporting.table import Grid, Row
from sim.tasks.capacity.results import Capacities
from sim.tasks.capacity.search import Capacity


def capacity_grid(capacities: Capacities) -> Grid:
    """Return a table with a column per policy."""
    return Grid(capacities, (Row(label, cells) for label, cells in capacity_lines(capacities)))


def capacity_lines(capacities: Capacities) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows: a label, and a cell of every policy."""
    every = list(capacities.values())
    gpus = [gpus_used(each) for each in every]
    shares = [each.rate / used for each, used in zip(every, gpus, strict=True)]
    yield "capacity, requests/s", [rate_text(each.rate) for each in every]
    yield "  surely met up to, requests/s", [rate_text(each.low) for each in every]
    yield "  surely missed from, requests/s", [_missed_from(each.high) for each in every]
    if every[0].rate and len(every) > 1:
        yield "  ratio to the first", [f"{each.rate / every[0].rate:.2f}x" for each in every]
    if len(set(gpus)) > 1:
        yield "capacity per GPU, requests/s", [rate_text(rate) for rate in shares]
        if shares[0]:
            yield "  ratio to the first per GPU", [f"{rate / shares[0]:.2f}x" for rate in shares]
    yield "saturated throughput, requests/s", [rate_text(each.saturated) for each in every]
    for metric, _ in metrics_at_rates(capacities.slo):
        yield f"{metric.heading}, at the capacity", [_at_capacity(each, metric) for each in every]


def rate_text(rate: float) -> str:
    """Return a rate to three digits; no rate is none."""
    return number_text(rate) if rate else "none"


def gpus_used(capacity: Capacity) -> int:
    """Return how many GPUs a policy was given."""
    return next((int(run.get("gpus") or 1) for tried in capacity.points for run in tried.runs), 1)


def _missed_from(rate: float) -> str:
    return "any" if not rate else rate_text(rate) if math.isfinite(rate) else "-"


def _at_capacity(capacity: Capacity, metric: Metric) -> str:
    tried = capacity.at_capacity
    value = tried.metric(metric.name()) if tried else None
    return number_text(None if value is None else value * metric.scale)
