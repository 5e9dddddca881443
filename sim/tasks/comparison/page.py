"""The report of a comparison that was made once."""

from collections.abc import Iterator, Mapping

from sim.metrics.metrics import Summary
from sim.reporting.caveats import warnings
from sim.reporting.charts import charts
from sim.reporting.page import Page
from sim.reporting.series import Outcomes
from sim.reporting.table import Grid, heading
from sim.simulation.context import Context
from sim.simulation.prediction_interval import ENDS, LEVEL
from sim.tasks.comparison.table import comparison_rows
from workloads.demand import counted

CLOSE = 0.02
"""Relative difference below which the answer names no winner."""


def comparison_page(outcomes: Outcomes, context: Context) -> Page:
    """Return the page of a comparison.

    Args:
        outcomes: Runs of the same workload by policy name, at least one; with the ends of their prediction intervals
            among the metrics, where they are known.
        context: What they were made on.
    """
    summaries = {name: outcome.summary for name, outcome in outcomes.items()}
    spread = any("output_throughput_low" in summary for summary in summaries.values())
    corner = f"value, and its {LEVEL:.0%} prediction interval" if spread else ""
    return Page(
        title=f"{context.workload}: {' / '.join(outcomes)} on {context.hardware}",
        answer=answer(summaries, context),
        setting=heading(context),
        tables=[Grid(summaries, comparison_rows(summaries, context, apart=False), corner)],
        validity=validity(summaries, context),
        charts=charts(outcomes, context.kv_tokens),
    )


def answer(summaries: Mapping[str, Summary], context: Context) -> str:
    """Return what a comparison says, in a sentence."""
    where = f"With {context.model} on {context.hardware}"
    if not all(summary.get("saturated") for summary in summaries.values()):
        return f"{where}, {_by_latency(summaries)}"
    key = "saturated_output_throughput"
    rates = {name: float(summary.get(key) or 0) for name, summary in summaries.items()}
    best, *rest = sorted(rates, key=lambda name: -rates[name])
    within = _between(summaries[best], key)
    most, idle = f"{rates[best]:,.0f} output tokens/s while saturated{within}", _idle(best, summaries[best])
    if not rest:
        return f"{where}, {best} is predicted to give {most}. {idle}"
    if close := [name for name in rest if rates[name] > rates[best] * (1 - CLOSE)]:
        names = " and ".join([best, *close])
        little = f"differ by less than {CLOSE:.0%}, too little to tell from one run"
        return f"{where}, {names} {little}: {best} gives {most}. {idle}"
    spans = {name: _ratio_span(summaries, best, name, key) for name in rest}
    if close := [name for name, span in spans.items() if span and span[0] <= 1]:
        names = " and ".join([best, *close])
        return f"{where}, {names} differ by less than the calibration may be off, and {best} gives {most}. {idle}"
    times = {name: f"{rates[best] / max(rates[name], 1e-12):.2f} times {name}" for name in rest}
    ratios = " and ".join(f"{times[name]}{_in(spans[name])}{_per_gpu(summaries, best, name, key)}" for name in rest)
    return f"{where}, {best} is predicted to be the fastest, with {most}: {ratios}. {idle}"


def _between(summary: Summary, key: str, scale: float = 1, digits: str = ",.0f") -> str:
    """Return where the truth is expected, in parentheses; nothing if that is not known."""
    low, high = (summary.get(f"{key}_{end}") for end in ENDS)
    if low is None or high is None:
        return ""
    return f" ({LEVEL:.0%} interval {float(low) / scale:{digits}} to {float(high) / scale:{digits}})"


def _ratio_span(summaries: Mapping[str, Summary], best: str, other: str, key: str) -> tuple[float, float] | None:
    """Return the interval of a ratio of throughputs, which is known of the ratios to the first policy."""
    first, pair = next(iter(summaries)), (best, other)
    named = next((name for name in pair if name != first), best)
    low, high = (summaries[named].get(f"{key}_ratio_{end}") for end in ENDS)
    if first not in pair or not low or not high:
        return None
    return (1 / float(high), 1 / float(low)) if best == first else (float(low), float(high))


def _per_gpu(summaries: Mapping[str, Summary], best: str, other: str, key: str) -> str:
    """Return, in parentheses, a ratio per GPU where the numbers of GPUs differ."""
    used = [int(summaries[name].get("gpus") or 1) for name in (best, other)]
    if used[0] == used[1]:
        return ""
    rates = [float(summaries[name].get(key) or 0) / gpus for name, gpus in zip((best, other), used, strict=True)]
    return f" ({used[0]} against {counted(used[1], 'GPU')}: {rates[0] / max(rates[1], 1e-12):.2f} times it per GPU)"


def _in(span: tuple[float, float] | None) -> str:
    return f" ({LEVEL:.0%} interval {span[0]:.2f} to {span[1]:.2f})" if span else ""


def _by_latency(summaries: Mapping[str, Summary]) -> str:
    """Compare policies of which some just keep up with the arrivals."""
    means = {name: float(summary.get("mean_e2el_ms") or 0) / 1000 for name, summary in summaries.items()}
    means = {name: mean for name, mean in means.items() if mean}
    if not means:
        return "no request was finished."
    best, *rest = sorted(means, key=lambda name: means[name])
    within = _between(summaries[best], "mean_e2el_ms", 1000, ".3g")
    most = f"{means[best]:.3g} s from arrival to the last token on average{within}"
    idle = _idle(best, summaries[best])
    if not rest:
        return f"{best} is not saturated: it is predicted to take {most}. {idle}"
    why = "not every policy is saturated, so latency decides"
    if close := [name for name in rest if means[name] < means[best] * (1 + CLOSE)]:
        names = " and ".join([best, *close])
        little = f"differ by less than {CLOSE:.0%}, too little to tell from one run"
        return f"{why}: {names} {little}: {best} takes {most}. {idle}"
    ratios = " and ".join(f"{name} takes {means[name] / means[best]:.2f} times as long" for name in rest)
    return f"{why}: {best} is predicted to be the quickest, with {most}: {ratios}. {idle}"


def _idle(name: str, summary: Summary) -> str:
    share = summary.get("idle_time_fraction")
    if share is None:
        return f"The idle share of {name} is not known."
    return f"Of the GPU's busy time under {name}, {float(share):.1%} is idle."


def validity(summaries: Mapping[str, Summary], context: Context) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    yield (
        "These are predictions of a simulator, of one seed: differences of a few percent are within the error of the "
        "cost model, and other requests of the same kind would give somewhat different figures."
    )
    yield from context.notes
    yield from warnings(summaries, context)
