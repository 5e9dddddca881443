"""The table of a search for capacity: what was found for every policy."""

import math
from collections.abc import Iterator

from rich.table import Table

from sim.reporting.table import number_shown
from sim.tasks.capacity.results import Capacities
from sim.tasks.capacity.search import Found


def capacity_table(found: Capacities) -> Table:
    """Return a table with a column per policy."""
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", overflow="fold", max_width=28)
    for label, cells in capacity_lines(found):
        table.add_row(label, *cells)
    return table


def capacity_lines(found: Capacities) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows: a label, and a cell of every policy."""
    every = list(found.values())
    gpus = [gpus_used(each) for each in every]
    shares = [each.rate / used for each, used in zip(every, gpus, strict=True)]
    yield "capacity, requests/s", [rate_shown(each.rate) for each in every]
    yield "  surely met up to, requests/s", [rate_shown(each.low) for each in every]
    yield (
        "  surely missed from, requests/s",
        [_missed_from(each.high) for each in every],
    )
    if every[0].rate and len(every) > 1:
        yield "  ratio to the first", [f"{each.rate / every[0].rate:.2f}x" for each in every]
    if len(set(gpus)) > 1:
        yield "capacity per GPU, requests/s", [rate_shown(rate) for rate in shares]
        if shares[0]:
            yield "  ratio to the first per GPU", [f"{rate / shares[0]:.2f}x" for rate in shares]
    yield "saturated throughput, requests/s", [rate_shown(each.saturated) for each in every]
    for label, metric, wanted in (
        ("p99 TTFT, s", "p99_ttft_ms", found.slo.ttft_s),
        ("p99 TPOT, s", "p99_tpot_ms", found.slo.tpot_s),
    ):
        if wanted is not None:
            yield f"{label}, at the capacity", [_at(each, metric) for each in every]


def rate_shown(rate: float) -> str:
    """Return a rate to three digits; no rate is none."""
    return number_shown(rate) if rate else "none"


def gpus_used(found: Found) -> int:
    """Return how many GPUs a policy was given."""
    return next((int(run.get("gpus") or 1) for point in found.points for run in point.runs), 1)


def _missed_from(rate: float) -> str:
    return "any" if not rate else rate_shown(rate) if math.isfinite(rate) else "-"


def _at(found: Found, metric: str) -> str:
    """Show a metric at the capacity, in seconds."""
    at = found.at_capacity
    value = at.metric(metric) if at else None
    return number_shown(None if value is None else value / 1e3)
