"""The table of a comparison: every metric of every policy, and how they compare with the first."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sim.metrics.metrics import Summary
from sim.reporting.labels import (
    CAUSES,
    LATENCIES,
    Group,
    Latency,
    Metric,
    cause_name,
    metrics_in,
    number,
    number_text,
    percent,
    throughput_window,
)
from sim.reporting.table import Row
from sim.simulation.context import Context
from sim.simulation.prediction_interval import ENDS, LEVEL, THROUGHPUTS

LARGE_IDLE = 0.005
"""Share of busy time from which a cause of idle computation is worth a row."""
SMALL_IDLE = 0.0005
"""Share of busy time that would be shown as 0.0%."""


def comparison_rows(summaries: Mapping[str, Summary], context: Context, apart: bool = True) -> list[Row]:
    """Return the rows worth showing: those that would say nothing of any of these policies are left out.

    Args:
        summaries: What is compared, by policy name; ratios are to the first.
        context: What they were made on.
        apart: Whether the most telling prediction intervals, where they are known, have rows of their own.
    """
    return list(_Rows(list(summaries.values()), context, apart))


class _Rows:
    def __init__(self, every: Sequence[Summary], context: Context, apart: bool) -> None:
        self._every = every
        self._window = throughput_window(every)
        self._context = context
        self._apart = apart and any("output_throughput_low" in summary for summary in every)

    def __iter__(self) -> Iterator[Row]:
        every = self._every
        yield Row("saturated", [_saturated(summary) for summary in every])
        yield from self._group("state")
        nothing = [""] * len(every)
        yield Row(f"throughput of the {'saturated part' if self._window else 'whole run'}", nothing, nothing, True)
        yield from self._group("throughput")
        yield from self._group("slo", section=True)
        for latency in LATENCIES:
            yield from self._latency(latency, section=latency is LATENCIES[0])
        yield from self._group("latency")
        yield from self._group("idle", section=True)
        yield from self._causes()
        yield from self._group("use", section=True)
        peaks = (number(summary, "kv_peak_tokens") for summary in every)
        yield Row("KV memory taken at its peak", [percent(peak, self._context.kv_tokens) for peak in peaks])
        yield from self._group("requests")

    def _group(self, group: Group, section: bool = False) -> Iterator[Row]:
        for metric in metrics_in("comparison"):
            if metric.group == group and metric.is_shown(self._every, self._window):
                yield self._row(metric, section)
                section = False
                if metric.ratio:
                    yield from self._ratio(metric)

    def _row(self, metric: Metric, section: bool) -> Row:
        key = metric.name(self._window)
        label = metric.label if metric.unit == "%" else metric.heading
        text = percent if metric.unit == "%" else number_text
        spans = [_span(summary, key, text) for summary in self._every]
        cells = [metric.cell(summary, self._window) for summary in self._every]
        return Row(f"{'  ' * metric.below}{label}", cells, spans, section)

    def _ratio(self, metric: Metric) -> Iterator[Row]:
        """Yield the ratio of a metric to the first policy's, and the intervals of both."""
        key = metric.name(self._window)
        first, *others = values = [number(summary, key) for summary in self._every]
        apart = key in THROUGHPUTS
        yield from self._interval(key) if apart else ()
        if others:
            ratios = [f"{value / first:.2f}x" if value is not None and first else "-" for value in values]
            yield Row(f"  {metric.ratio}", ratios, [_span(summary, f"{key}_ratio") for summary in self._every])
            yield from self._interval(f"{key}_ratio") if apart else ()

    def _interval(self, key: str, per_unit: float = 1, what: str = "") -> Iterator[Row]:
        """Yield the range in which a metric is expected, where it is known."""
        if self._apart and any(f"{key}_low" in summary for summary in self._every):
            spans = [_span(summary, key, per_unit=per_unit) or "-" for summary in self._every]
            yield Row(f"    {what}{LEVEL:.0%} interval", spans)

    def _latency(self, latency: Latency, section: bool) -> Iterator[Row]:
        """Yield mean and p99: in milliseconds if no policy takes a second."""
        keys = f"mean_{latency.key}_ms", f"p99_{latency.key}_ms"
        tails = [tail for summary in self._every if (tail := number(summary, keys[1])) is not None]
        short = latency.unit == "ms" or (bool(tails) and max(tails) < 1000)
        per_unit, unit = (1, "ms") if short else (1000, "s")
        cells, spans = [], []
        for summary in self._every:
            values = [number(summary, key) for key in keys]
            texts = [number_text(value / per_unit) for value in values if value is not None]
            cells.append(" / ".join(texts) if len(texts) == len(keys) else "-")
            spans.append(" / ".join(filter(None, (_span(summary, key, per_unit=per_unit) for key in keys))))
        yield Row(f"{latency.label} mean / p99, {unit}", cells, spans, section)
        yield from self._interval(keys[0], per_unit, "mean, ")

    def _causes(self) -> Iterator[Row]:
        small: list[str] = []
        for cause in CAUSES:
            key = f"idle_time_fraction_{cause}"
            if any((summary.get(key) or 0) >= LARGE_IDLE for summary in self._every):
                yield self._row(Metric(key, f"  {cause_name(cause)}", "idle", "%"), section=False)
            else:
                small.append(key)
        rest = [_sum(summary, small) for summary in self._every]
        if any(share >= SMALL_IDLE for share in rest):
            yield Row(f"  other, each below {LARGE_IDLE:.1%}", [percent(share) for share in rest])


def _sum(summary: Summary, keys: Iterable[str]) -> float:
    return sum(number(summary, key) or 0.0 for key in keys)


def _span(summary: Summary, key: str, text: Callable[[float], str] = number_text, per_unit: float = 1) -> str:
    """Return the ends of an interval as text; nothing where it is not known."""
    ends = [number(summary, f"{key}_{end}") for end in ENDS]
    return "" if None in ends else " to ".join(text(end / per_unit) for end in ends if end is not None)


def _saturated(summary: Summary) -> str:
    """Return in which of the three states a run was: saturated, keeping up, or in between."""
    return "yes" if summary.get("saturated") else "falls behind" if summary.get("falls_behind") else "no"
