"""Every metric once: its label, unit, scale and digits, and where tables and pictures show it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sim.metrics.metrics import Summary
from sim.metrics.slo import SLO

Place = Literal["comparison", "replications", "picture", "sweep", "capacity"]
"""The table of a comparison; that of replications; their picture; that of a sweep; all of a search for capacity."""

Group = Literal["state", "throughput", "slo", "latency", "idle", "use", "requests"]
"""Metrics that stand together in the table of a comparison."""

When = Literal["always", "known", "not zero", "gpus differ"]
"""When the table of a comparison shows a metric: it is known, or not zero, of any policy; or their GPUs differ."""

COMPARISON: frozenset[Place] = frozenset({"comparison"})
TABLES: frozenset[Place] = frozenset({"comparison", "replications"})
DRAWN: frozenset[Place] = TABLES | {"picture", "sweep"}
EVERYWHERE: frozenset[Place] = DRAWN | {"capacity"}


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        key: Its name in a summary; `{window}` stands for `saturated_` where all policies were saturated.
        label: What tables call it.
        group: What it stands with.
        unit: Of the value that is shown.
        scale: Factor from the summary's value to that.
        digits: Most decimals in the table of a comparison.
        title: What pictures call it; empty: what tables do.
        when: When the table of a comparison shows it.
        below: Whether it belongs to the row above it there.
        ratio: What its ratio to the first policy's is called there; empty: it is not shown.
        compared: What its ratios between replications are called; empty: none is told.
        places: Where it is shown.
    """

    key: str
    label: str
    group: Group
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    title: str = ""
    when: When = "always"
    below: bool = False
    ratio: str = ""
    compared: str = ""
    places: frozenset[Place] = TABLES

    @property
    def heading(self) -> str:
        """Label and unit."""
        return _with_unit(self.label, self.unit)

    @property
    def axis(self) -> str:
        """What stands at an axis."""
        return _with_unit(self.title or self.label.strip(), self.unit)

    def name(self, window: str = "") -> str:
        """Return its name in a summary whose throughputs are of this window."""
        return self.key.format(window=window)

    def cell(self, summary: Summary, window: str = "") -> str:
        """Return its value as the table of a comparison shows it."""
        return self.text(number(summary, self.name(window)))

    def text(self, value: float | None) -> str:
        """Return a value of the summary as text."""
        if self.unit == "%":
            return percent(value)
        return number_text(None if value is None else value * self.scale, self.digits)

    def is_shown(self, every: Iterable[Summary], window: str) -> bool:
        """Whether the table of a comparison has a row for it."""
        if self.when == "gpus differ":
            return gpus_differ(every)
        values = [summary.get(self.name(window)) for summary in every]
        return self.when == "always" or any(value is not None and (value or self.when == "known") for value in values)


def _with_unit(label: str, unit: str) -> str:
    return f"{label}, {unit}" if unit else label


@dataclass(frozen=True)
class Latency:
    """A latency, of which a summary has mean and quantiles.

    Attributes:
        key: Its name in them: `mean_KEY_ms`.
        label: What tables call it.
        title: What pictures call it.
        unit: Of the values that are shown.
        scale: Factor from milliseconds to that.
        column: Its column of `requests.parquet`, in seconds; empty: it has none.
        limit: The attribute of an SLO that limits it; empty: none does.
    """

    key: str
    label: str
    title: str
    unit: str = "s"
    scale: float = 1e-3
    column: str = ""
    limit: str = ""

    @property
    def axis(self) -> str:
        """What stands at an axis."""
        return _with_unit(self.title, self.unit)

    @property
    def per_second(self) -> float:
        """How many of its unit make a second."""
        return round(1e3 * self.scale)

    def metric(self, statistic: str, places: frozenset[Place], compared: str = "") -> Metric:
        """Return its `mean`, or one of its quantiles, as a metric."""
        return Metric(
            f"{statistic}_{self.key}_ms", f"{self.label} {statistic}", "latency", self.unit, self.scale,
            title=f"{statistic} of {self.title}", compared=compared, places=places,
        )  # fmt: skip


TTFT = Latency("ttft", "TTFT", "time to first token", column="ttft_s", limit="ttft_s")
TPOT = Latency("tpot", "TPOT", "time per output token", "ms", 1.0, column="tpot_s", limit="tpot_s")
ITL = Latency("itl", "ITL", "time between tokens", "ms", 1.0)
E2E = Latency("e2el", "E2E", "end-to-end latency", column="e2e_s")

LATENCIES = (TTFT, TPOT, ITL, E2E)
"""The table of a comparison shows mean and p99 of each in one row."""

TIMED = (TTFT, TPOT, E2E)
"""Those that every request has for itself."""

_AGAIN: frozenset[Place] = frozenset({"replications"})

METRICS: tuple[Metric, ...] = (
    Metric("gpus", "GPUs used", "state", digits=0, places=COMPARISON),
    Metric("{window}request_throughput", "requests/s", "throughput", below=True),
    Metric("{window}output_throughput", "output tokens/s", "throughput", below=True,
           ratio="ratio to the first", compared="throughput", places=DRAWN),
    Metric("{window}output_throughput_per_gpu", "output tokens/s per GPU", "throughput", below=True,
           when="gpus differ", ratio="ratio to the first per GPU", compared="throughput per GPU"),
    Metric("request_goodput", "goodput", "slo", "requests/s", when="known"),
    Metric("slo_attainment", "share that met the SLO", "slo", "%", 100, when="known", below=True),
    TTFT.metric("mean", _AGAIN, compared="mean TTFT"),
    TTFT.metric("p99", _AGAIN | {"picture", "sweep"}),
    TPOT.metric("mean", _AGAIN | {"sweep"}),
    TPOT.metric("p99", _AGAIN),
    ITL.metric("p99", _AGAIN),
    E2E.metric("mean", _AGAIN, compared="mean E2E"),
    E2E.metric("p99", _AGAIN | {"picture"}),
    Metric("idle_time_fraction", "idle share of GPU busy time", "idle", "%", 100, places=DRAWN),
    Metric("wasted_time_fraction", "  without the stall", "idle", "%", 100),
    Metric("gpu_busy_fraction", "GPU busy", "use", "%", 100),
    Metric("mean_batch_rows", "mean batch", "use", "rows", digits=1, places=COMPARISON),
    Metric("prefix_hit_rate", "prompt tokens found in the prefix cache", "requests", "%", 100,
           when="not zero", places=COMPARISON),
    Metric("readmitted_hit_rate", "tokens found again after a preemption", "requests", "%", 100,
           when="not zero", places=COMPARISON),
    Metric("completed", "requests completed", "requests", digits=0, places=COMPARISON),
    Metric("rejected", "rejected", "requests", digits=0, when="not zero", below=True, places=COMPARISON),
    Metric("unfinished", "unfinished", "requests", digits=0, when="not zero", below=True, places=COMPARISON),
    Metric("preemptions", "preemptions", "requests", digits=0, when="not zero"),
)  # fmt: skip
"""All that is shown, in the order in which it is."""

CAUSES = (
    "stall", "prefill_padding", "insertion_padding", "finished_rows", "kv_padding", "recomputation", "bucket_dummies",
)  # fmt: skip
"""Causes of idle computation, as the summary names them after `idle_time_fraction_`."""


def metrics_in(place: Place) -> list[Metric]:
    """Return the metrics that a place shows."""
    return [metric for metric in METRICS if place in metric.places]


def metrics_at_rates(slo: SLO) -> Iterator[tuple[Metric, float | None]]:
    """Yield the metrics that a search for capacity shows at every rate, and the limit of each: latencies in seconds."""
    for latency in LATENCIES:
        if latency.limit and (limit := getattr(slo, latency.limit)) is not None:
            tail = latency.metric("p99", EVERYWHERE)
            yield replace(tail, label=f"p99 {latency.label}", unit="s", scale=1e-3), limit
    for metric in metrics_in("capacity"):
        yield metric, None


def cause_name(cause: str) -> str:
    """Return how a cause is written in tables and pictures."""
    return cause.replace("_", " ").replace("kv", "KV")


def throughput_window(summaries: Iterable[Summary]) -> str:
    """Return the prefix of the throughputs that compare like with like: of the saturated part if all policies have one.

    A policy that served nobody has no throughput, and does not decide.
    """
    return "saturated_" if all(each.get("saturated") for each in summaries if each.get("completed") != 0) else ""


def gpus_differ(summaries: Iterable[Summary]) -> bool:
    """Whether policies use different numbers of GPUs, so that their throughputs compare only per GPU."""
    return len({summary.get("gpus") for summary in summaries}) > 1


def number(summary: Mapping[str, float | None], key: str) -> float | None:
    """Return a metric as a number; None where it is not defined."""
    value = summary.get(key)
    return None if value is None else float(value)


def number_text(value: float | None, digits: int = 2) -> str:
    """Return a number as text; two decimals below 10, one below 100 (at most `digits`), thousands with commas.

    Below 0.1 there are as many decimals as three significant digits take. None is a dash.
    """
    if value is None:
        return "-"
    if digits and 0 < abs(value) < 0.1:
        return f"{value:.{min(2 - math.floor(math.log10(abs(value))), 9)}f}"
    return f"{value:,.{min(digits, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)}f}"


def percent(share: float | None, whole: float = 1) -> str:
    """Return a share as percent, one decimal; a dash for none."""
    return "-" if share is None else f"{share / whole:.1%}"
