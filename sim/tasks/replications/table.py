"""The table of a repeated comparison: each metric's mean across replications and its interval."""

from collections.abc import Iterator

from sim.metrics.interval import CONFIDENCE_TEXT, mean_text
from sim.reporting.labels import metrics_in
from sim.reporting.table import Grid, Row, heading
from sim.simulation.context import Context
from sim.tasks.replications.results import Replicated


def replications_heading(results: Replicated, context: Context) -> list[str]:
    """Return what was run on what, as plain sentences."""
    last = context.seed + results.count - 1
    return [
        f"{context.workload}: {results.count} replications of {context.requests:,} requests, {context.arrivals}, "
        f"seeds {context.seed} to {last}, the same for every policy",
        *list(heading(context))[1:],
    ]


def replications_grid(results: Replicated) -> Grid:
    """Return the rows worth showing, with the mean of every policy and its half width."""
    return Grid(results.summaries, _rows(results), f"mean ± {CONFIDENCE_TEXT} half width")


def _rows(results: Replicated) -> Iterator[Row]:
    for metric in metrics_in("replications"):
        if metric.when == "gpus differ" and not results.gpus_differ:
            continue
        intervals = [results.interval(name, metric.name(results.window)) for name in results.summaries]
        if any(interval is not None and interval.estimate for interval in intervals):
            yield Row(metric.heading, [mean_text(interval, metric.scale) for interval in intervals])
