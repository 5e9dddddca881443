"""The report of a repeated comparison: means with their intervals, and paired ratios with what they say."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.metrics.interval import CONFIDENCE, EQUAL, Interval, estimate_and_ends, shown, verdict
from sim.reporting.interval_charts import Spread, spread_chart
from sim.reporting.page import Row, table, write_page
from sim.simulation.context import Context
from sim.tasks.replications.picture import PANELS
from sim.tasks.replications.results import Replicated, compared_metrics
from sim.tasks.replications.table import replication_heading, replication_lines

_CI = f"{CONFIDENCE:.0%}".replace("%", " %")


def write_replication_report(path: Path, done: Replicated, context: Context, facts: Mapping[str, Any]) -> Path:
    """Write the page; return its path.

    Args:
        path: Where to.
        done: What was found, its notes included.
        context: What it was found on.
        facts: As in `summary.json`.

    Raises:
        InputError: if the file cannot be written.
    """
    title = f"{context.workload}: {' / '.join(done.summaries)} on {context.hardware}, {done.count} replications"
    return write_page(
        path,
        title=title,
        answer=answer(done, context),
        setting=replication_heading(done, context),
        tables=_tables(done),
        validity=validity(done),
        charts=_charts(done),
        facts=facts,
    )


def answer(done: Replicated, context: Context) -> str:
    """Return what the paired ratios say, in a sentence."""
    where = f"With {context.model} on {context.hardware}, over {done.count} replications,"
    key = f"{done.window}output_throughput" if done.window else "mean_e2el_ms"
    found = {name: each for name in done.summaries if (each := done.interval(name, key)) is not None}
    if not found:
        return f"{where} not every request was finished."
    best, *rest = sorted(found, key=lambda name: found[name].estimate * (-1 if done.window else 1))
    told = (
        f"{shown(found[best])} output tokens/s while saturated"
        if done.window
        else f"{shown(found[best], 1e-3)} s from arrival to the last token on average (not every run is saturated, so "
        "latency decides)"
    )
    pairs = ((name, done.ratio(best, name, key) if done.window else done.ratio(name, best, key)) for name in rest)
    known = {name: ratio for name, ratio in pairs if ratio is not None}
    if not known:
        return f"{where} {best} is predicted to {'give' if done.window else 'take'} {told}."
    said = "; ".join(_compared(name, ratio, bool(done.window)) for name, ratio in known.items())
    surely = all(verdict(ratio) == "higher" for ratio in known.values())
    most, plain = ("fastest", "gives") if done.window else ("quickest", "takes")
    what = f"is predicted to be the {most}, with" if surely else plain
    return f"{where} {best} {what} {told}: {said}."


def _compared(name: str, ratio: Interval, throughput: bool) -> str:
    """Return how the best compares with another, in a phrase."""
    (estimate, ends), found = estimate_and_ends(ratio), verdict(ratio)
    if found == "higher":
        return f"{estimate} times {name} ({ends})" if throughput else f"{name} takes {estimate} times as long ({ends})"
    said = f"{found} from {name}" if found == "not distinguished" else f"{name} is {found}"
    return f"{said} (ratio {estimate}, {ends})"


def validity(done: Replicated) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    what = "how far the trace itself may be off" if done.resampled else "what chance in the requests does"
    yield (
        f"These are predictions of a simulator: the intervals tell {what}, and nothing about how well the model of the "
        "GPU fits."
    )
    yield from done.notes


def _tables(done: Replicated) -> Iterator[str]:
    rows = (Row(label, cells) for label, cells in replication_lines(done))
    yield table(done.summaries, rows, f"mean ± {_CI} half width")
    if done.pairs:
        metrics = compared_metrics(done)
        rows = (Row(f"{later} / {earlier}", *_ratio_cells(done, later, earlier)) for later, earlier in done.pairs)
        yield table((label for label, _ in metrics), rows, "paired ratio")


def _ratio_cells(done: Replicated, later: str, earlier: str) -> tuple[list[str], list[str]]:
    """Return estimates, and of each its interval and what that says."""
    found = [done.ratio(later, earlier, key) for _, key in compared_metrics(done)]
    told = [("-", "") if ratio is None else estimate_and_ends(ratio) for ratio in found]
    ends = [
        f"{text}\n{verdict(ratio)}" if ratio is not None else "" for (_, text), ratio in zip(told, found, strict=True)
    ]
    return [estimate for estimate, _ in told], ends


def _charts(done: Replicated) -> Iterator[str]:
    for key, label, scale in PANELS:
        metric = key.format(window=done.window)
        rows = {name: row for name in done.summaries if (row := _spread(done, name, metric, scale)) is not None}
        yield spread_chart(
            label if label.startswith("p99") else label[0].upper() + label[1:],
            rows,
            f"{label}; blue: single replications",
        )
    if done.pairs:
        for label, key in compared_metrics(done):
            ratios = {
                f"{later} / {earlier}": Spread(ratio, ", ".join(estimate_and_ends(ratio)) + f"\n{verdict(ratio)}")
                for later, earlier in done.pairs
                if (ratio := done.ratio(later, earlier, key)) is not None
            }
            shaded = f"{label}, paired ratio; shaded: within {100 * EQUAL:.0f} % of 1"
            yield spread_chart(f"Ratio of {label}", ratios, shaded, band=(1 - EQUAL, 1 + EQUAL))


def _spread(done: Replicated, name: str, metric: str, scale: float) -> Spread | None:
    values, found = done.values(name, metric), done.interval(name, metric)
    if values is None or found is None:
        return None
    scaled = Interval(found.estimate * scale, found.low * scale, found.high * scale)
    return Spread(scaled, f"{shown(found, scale)} ({_CI})", [value * scale for value in values])
