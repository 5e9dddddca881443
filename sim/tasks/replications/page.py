"""The report of a repeated comparison: means with their intervals, and paired ratios with what they say."""

from collections.abc import Iterator

from sim.metrics.interval import CONFIDENCE_TEXT, EQUAL, Interval, estimate_and_ends, mean_text, verdict
from sim.reporting.charts import Chart, Spread, capital, spread_chart
from sim.reporting.labels import Metric, metrics_in
from sim.reporting.page import Page
from sim.reporting.table import Grid, Row
from sim.simulation.context import Context
from sim.tasks.replications.results import Replicated, compared_metrics
from sim.tasks.replications.table import replications_grid, replications_heading


def replications_page(results: Replicated, context: Context) -> Page:
    """Return the page of replications, their notes included."""
    return Page(
        title=f"{context.workload}: {' / '.join(results.summaries)} on {context.hardware}, "
        f"{results.count} replications",
        answer=answer(results, context),
        setting=replications_heading(results, context),
        tables=[replications_grid(results), *_ratio_grid(results)],
        validity=validity(results),
        charts=_charts(results),
    )


def answer(results: Replicated, context: Context) -> str:
    """Return what the paired ratios say, in a sentence."""
    where = f"With {context.model} on {context.hardware}, over {results.count} replications,"
    key = f"{results.window}output_throughput" if results.window else "mean_e2el_ms"
    means = {name: mean for name in results.summaries if (mean := results.interval(name, key)) is not None}
    if not means:
        return f"{where} not every request was finished."
    best, *rest = sorted(means, key=lambda name: means[name].estimate * (-1 if results.window else 1))
    most = (
        f"{mean_text(means[best])} output tokens/s while saturated"
        if results.window
        else f"{mean_text(means[best], 1e-3)} s from arrival to the last token on average (not every run is "
        "saturated, so latency decides)"
    )
    pairs = {name: (best, name) if results.window else (name, best) for name in rest}
    ratios = {name: ratio for name, pair in pairs.items() if (ratio := results.ratio(*pair, key)) is not None}
    if not ratios:
        return f"{where} {best} is predicted to {'give' if results.window else 'take'} {most}."
    compared = "; ".join(_compared(name, ratio, bool(results.window)) for name, ratio in ratios.items())
    surely = all(verdict(ratio) == "higher" for ratio in ratios.values())
    place, plain = ("fastest", "gives") if results.window else ("quickest", "takes")
    what = f"is predicted to be the {place}, with" if surely else plain
    return f"{where} {best} {what} {most}: {compared}."


def _compared(name: str, ratio: Interval, throughput: bool) -> str:
    """Return how the best compares with another, in a phrase."""
    (estimate, ends), judged = estimate_and_ends(ratio), verdict(ratio)
    if judged == "higher":
        return f"{estimate} times {name} ({ends})" if throughput else f"{name} takes {estimate} times as long ({ends})"
    phrase = f"{judged} from {name}" if judged == "not distinguished" else f"{name} is {judged}"
    return f"{phrase} (ratio {estimate}, {ends})"


def validity(results: Replicated) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    what = "how far the trace itself may be off" if results.resampled else "what chance in the requests does"
    yield (
        f"These are predictions of a simulator: the intervals tell {what}, and nothing about how well the model of the "
        "GPU fits."
    )
    yield from results.notes


def _ratio_grid(results: Replicated) -> Iterator[Grid]:
    if results.pairs:
        rows = (Row(f"{later} / {earlier}", *_ratio_cells(results, later, earlier)) for later, earlier in results.pairs)
        yield Grid((label for label, _ in compared_metrics(results)), rows, "paired ratio")


def _ratio_cells(results: Replicated, later: str, earlier: str) -> tuple[list[str], list[str]]:
    """Return estimates, and of each its interval and what that says."""
    cells, beside = [], []
    for _, key in compared_metrics(results):
        ratio = results.ratio(later, earlier, key)
        estimate, ends = ("-", "") if ratio is None else estimate_and_ends(ratio)
        cells.append(estimate)
        beside.append("" if ratio is None else f"{ends}\n{verdict(ratio)}")
    return cells, beside


def _charts(results: Replicated) -> Iterator[Chart]:
    for metric in metrics_in("picture"):
        rows = {name: row for name in results.summaries if (row := _spread(results, name, metric)) is not None}
        title = metric.axis if metric.axis.startswith("p99") else capital(metric.axis)
        yield spread_chart(title, rows, "blue: single replications")
    for label, key in compared_metrics(results) if results.pairs else ():
        ratios = {
            f"{later} / {earlier}": Spread(ratio, ", ".join(estimate_and_ends(ratio)) + f"\n{verdict(ratio)}")
            for later, earlier in results.pairs
            if (ratio := results.ratio(later, earlier, key)) is not None
        }
        shaded = f"shaded: within {100 * EQUAL:.0f} % of 1"
        yield spread_chart(f"Paired ratio of {label}", ratios, shaded, band=(1 - EQUAL, 1 + EQUAL))


def _spread(results: Replicated, name: str, metric: Metric) -> Spread | None:
    key, scale = metric.name(results.window), metric.scale
    values, mean = results.values(name, key), results.interval(name, key)
    if values is None or mean is None:
        return None
    scaled = Interval(mean.estimate * scale, mean.low * scale, mean.high * scale)
    return Spread(scaled, f"{mean_text(mean, scale)} ({CONFIDENCE_TEXT})", [value * scale for value in values])
