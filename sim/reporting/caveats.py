"""What a reader of results must know, as plain sentences."""

from collections.abc import Iterator, Mapping, Sequence

from sim.metrics.keeping_up import CLOSE
from sim.metrics.metrics import Summary
from sim.reporting.labels import gpus_differ, number
from sim.simulation.context import Context
from sim.simulation.prediction_interval import LEVEL

STATES = ("completed", "rejected", "unfinished")
"""What has become of the requests that count, as the summary names their numbers."""

BEYOND = 0.001
"""Share of iterations outside the measured range from which it is worth a warning."""

_UNSERVED = {
    "rejected": "Requests rejected because the KV memory can never hold them",
    "unfinished": "Requests not finished when nothing could happen any more",
}


def warnings(summaries: Mapping[str, Summary], context: Context) -> Iterator[str]:
    """Yield what a reader of these summaries must know."""
    unserved = [name for name, summary in summaries.items() if summary.get("completed") == 0]
    if unserved:
        yield f"{_join(unserved)}: no request was served, so there is nothing to compare."
    unsaturated = [name for name, s in summaries.items() if s.get("saturated") is False and name not in unserved]
    yield from _what_throughputs_are({name: summaries[name] for name in unsaturated})
    if unsaturated and len(unsaturated) < len(summaries):
        yield "All throughputs are those of the whole run, since not every policy was saturated."
    for key, text in _UNSERVED.items():
        counts = [f"{name} {_of_all(summary, key)}" for name, summary in summaries.items() if summary.get(key)]
        if counts:
            yield f"{text}: {', '.join(counts)}."
    outside = {name: summary.get("beyond_calibration") or 0 for name, summary in summaries.items()}
    if any(share >= BEYOND for share in outside.values()):
        shares = [f"{name} {share:.1%}" for name, share in outside.items() if share >= BEYOND]
        yield f"Iterations larger than any measured on {context.hardware}, with times extrapolated: {_join(shares)}."
    if any("output_throughput_low" in summary for summary in summaries.values()):
        yield (
            f"{LEVEL:.0%} intervals: errors of the calibration, drawn once per simulation; what the policy or the "
            "model of the GPU leaves out is not in them."
        )
    if context.too_long:
        yield (
            f"Requests longer than the {context.max_positions:,} tokens that {context.model} was made for: "
            f"{context.too_long:,}; where memory holds them they are simulated all the same."
        )
    if {"baton", "prefill_first"} <= summaries.keys():
        yield "Inline BATON schedules almost as prefill_first does; what differs is the layout."
    if gpus_differ(summaries.values()):
        yield "These policies use different numbers of GPUs; compare their throughput per GPU."


def _what_throughputs_are(unsaturated: Mapping[str, Summary]) -> Iterator[str]:
    """Say of runs that were not saturated what their throughput tells, those alike together."""
    said: dict[str, list[str]] = {}
    for name, summary in unsaturated.items():
        said.setdefault(_what_throughput_is(summary), []).append(name)
    for what, names in said.items():
        yield f"{_join(names)}: {_of_several(what) if len(names) > 1 else what}."


def _of_several(what: str) -> str:
    for one, several in (("it keeps up", "they keep up"), ("keeps up", "keep up"), ("falls behind", "fall behind")):
        what = what.replace(one, several)
    return what


def _what_throughput_is(summary: Summary) -> str:
    offered, rate = number(summary, "offered_request_rate"), number(summary, "request_throughput")
    drain, whole = number(summary, "drain_s"), number(summary, "duration_s")
    if offered is None or rate is None or summary.get("unfinished"):
        return "not saturated, so the throughput counts the whole run, the drain included"
    if summary.get("falls_behind"):
        return (
            "falls behind the arrivals without being saturated: latency grew through the run, by "
            f"{summary['latency_growth']:.2g} s per second of arrivals, and depends on how long the run is; the "
            "throughput is neither that of the arrivals nor the most that can be served"
        )
    if rate >= (1 - CLOSE) * offered:
        return "not saturated, so the throughput is that of the arrivals"
    drained = f"the drain after the last arrival, {drain / whole:.0%} of the run" if drain and whole else "the drain"
    if summary.get("falls_behind") is None:
        return (
            "not saturated, and the run cannot tell whether it keeps up (more requests may): the throughput counts "
            f"{drained}"
        )
    return f"not saturated, and keeps up; the throughput is below that of the arrivals for it counts {drained}"


def _of_all(summary: Summary, key: str) -> str:
    """Return how many requests ended in a state, of all that count."""
    return f"{summary[key]:,} of {sum(int(summary.get(state) or 0) for state in STATES):,}"


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
