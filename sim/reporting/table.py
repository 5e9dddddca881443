"""The table at the end of a run, and the sentences below it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.keeping_up import CLOSE
from sim.simulation.context import Context
from sim.simulation.prediction_interval import ENDS, LEVEL

Value = float | int | bool | None
Summary = Mapping[str, Value]

CAUSES = (
    "stall", "prefill_padding", "insertion_padding", "finished_rows", "kv_padding", "recomputation", "bucket_dummies",
)  # fmt: skip
"""Causes of idle computation, as the summary names them after `idle_time_fraction_`."""

STATES = ("completed", "rejected", "unfinished")
"""What has become of the requests that count, as the summary names their numbers."""

WIDEST_NAME = 28
GAP = 2
BEYOND = 0.001
"""Share of iterations outside the measured range from which it is worth a warning."""
LARGE_IDLE = 0.005
"""Share of busy time from which a cause of idle computation is worth a row."""
SHOWN_IDLE = 0.0005
"""Share of busy time that is not shown as 0.0%."""


def _nothing(_: Summary) -> str:
    return ""


class Line(NamedTuple):
    """One row of the table: a label, how a summary is shown in it, and how its prediction interval, where known."""

    label: str
    show: Callable[[Summary], str]
    section: bool = False
    span: Callable[[Summary], str] = _nothing


def print_table(console: Console, summaries: Mapping[str, Summary], context: Context) -> None:
    """Print a comparison: a column per policy, in as many tables as the width asks for, then notes and places.

    Args:
        console: Where to.
        summaries: Summaries by policy name, keys as `sim.metrics.metrics`; ratios are to the first.
        context: What they were made on.
    """
    for text in heading(context):
        say(console, text)
    lines = table_lines(list(summaries.values()), context)
    cells = {name: [line.show(summary) for line in lines] for name, summary in summaries.items()}
    for names in _blocks(cells, max(len(line.label) for line in lines), console.width):
        console.print(_table(lines, {name: cells[name] for name in names}))
        console.print()
    for note in chain(context.notes, warnings(summaries, context)):
        say(console, f"- {note}")
    if context.folder is not None:
        say(console, f"Results: {context.folder}")
    if context.pictures:
        say(console, f"Pictures: {', '.join(context.pictures)}")


def say(console: Console, text: str) -> None:
    """Print a sentence; a pipe gets it on one line, whatever the width."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def heading(context: Context) -> Iterator[str]:
    """Yield what was run on what, as plain sentences."""
    yield f"{context.workload}: {context.requests:,} requests, {context.arrivals}, seed {context.seed}"
    under = f", engine {context.engine}" if context.engine else ""
    yield f"{context.model} on {context.hardware}{under}, KV memory {context.kv_tokens:,} tokens"
    yield f"max_new_tokens declared to the scheduler: {context.declared}"


def _blocks(cells: Mapping[str, Sequence[str]], label_width: int, width: int) -> Iterator[list[str]]:
    """Split names so that each block's table fits the width; a block has at least one."""
    block: list[str] = []
    left = width - label_width
    for name, column in cells.items():
        needed = max(min(len(name), WIDEST_NAME), *map(len, column)) + GAP
        if block and needed > left:
            yield block
            block, left = [], width - label_width
        block.append(name)
        left -= needed
    yield block


def _table(lines: Sequence[Line], cells: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 0, 0, GAP), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in cells:
        table.add_column(name, justify="right", overflow="fold", max_width=WIDEST_NAME)
    for line, values in zip(lines, zip(*cells.values(), strict=True), strict=True):
        if line.section:
            table.add_row("")
        table.add_row(line.label, *values)
    return table


def table_lines(every: Sequence[Summary], context: Context, apart: bool = True) -> list[Line]:
    """Return the rows worth showing: those that would say nothing of any of these policies are left out.

    Args:
        every: The summaries that are compared.
        context: What they were made on.
        apart: Whether the most telling prediction intervals, where they are known, have rows of their own.
    """
    window = throughput_window(every)
    output = f"{window}output_throughput"
    base = _value(every[0], output)
    optional = {"rejected": "  rejected", "unfinished": "  unfinished", "preemptions": "preemptions"}
    ratio = Line("  ratio to the first", lambda s: _ratio(_value(s, output), base), span=_range(f"{output}_ratio"))
    return [
        Line("saturated", _saturated),
        Line("GPUs used", _number("gpus", digits=0)),
        Line(f"throughput of the {'saturated part' if window else 'whole run'}", lambda _: "", section=True),
        _amount("  requests/s", f"{window}request_throughput"),
        _amount("  output tokens/s", output),
        *_interval_lines(every, output, apart),
        *([ratio] if len(every) > 1 else ()),
        *_interval_lines(every, f"{output}_ratio", apart),
        *(_per_gpu_lines(every, f"{output}_per_gpu") if gpus_differ(every) else ()),
        *(_slo_lines() if any(summary.get("request_goodput") is not None for summary in every) else ()),
        *_latency_lines(every, apart),
        *_idle_lines(every),
        _part("GPU busy", "gpu_busy_fraction", section=True),
        _amount("mean batch, rows", "mean_batch_rows", digits=1),
        Line("KV memory taken at its peak", lambda s: _share(_value(s, "kv_peak_tokens"), context.kv_tokens)),
        *_prefix_lines(every),
        Line("requests completed", _number("completed", digits=0)),
        *(Line(text, _number(key, digits=0)) for key, text in optional.items() if any(s.get(key) for s in every)),
    ]


def _amount(label: str, key: str, digits: int = 2, section: bool = False) -> Line:
    return Line(label, _number(key, digits), section, _range(key))


def _part(label: str, key: str, section: bool = False) -> Line:
    return Line(label, _percent(key), section, _range(key, form=lambda value: _share(value, 1)))


def gpus_differ(summaries: Iterable[Summary]) -> bool:
    """Whether policies use different numbers of GPUs, so that their throughputs compare only per GPU."""
    return len({summary.get("gpus") for summary in summaries}) > 1


def _per_gpu_lines(every: Sequence[Summary], key: str) -> Iterator[Line]:
    base = _value(every[0], key)
    yield _amount("  output tokens/s per GPU", key)
    yield Line("  ratio to the first per GPU", lambda s: _ratio(_value(s, key), base))


def _prefix_lines(every: Sequence[Summary]) -> Iterator[Line]:
    if any(summary.get("prefix_hit_tokens") for summary in every):
        yield _part("prompt tokens found in the prefix cache", "prefix_hit_rate")
    if any(summary.get("readmitted_hit_tokens") for summary in every):
        yield _part("tokens found again after a preemption", "readmitted_hit_rate")


def _interval_lines(
    every: Sequence[Summary], key: str, apart: bool, scale: float = 1, what: str = ""
) -> Iterator[Line]:
    """The range in which a metric is expected, where it is known."""
    if apart and any(f"{key}_low" in summary for summary in every):
        show = _range(key, scale)
        yield Line(f"    {what}{LEVEL:.0%} interval", lambda s: show(s) or "-")


def _slo_lines() -> Iterator[Line]:
    yield _amount("goodput, requests/s", "request_goodput", section=True)
    yield _part("  share that met the SLO", "slo_attainment")


def _latency_lines(every: Sequence[Summary], apart: bool) -> Iterator[Line]:
    names = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}
    for key, name in names.items():
        mean, tail = f"mean_{key}_ms", f"p99_{key}_ms"
        scale, unit = (1, "ms") if key in ("tpot", "itl") or _is_short(every, tail) else (1000, "s")
        show, span = _pair(mean, tail, scale), _ranges(mean, tail, scale)
        yield Line(f"{name} mean / p99, {unit}", show, key == "ttft", span)
        yield from _interval_lines(every, mean, apart, scale, "mean, ")


def _is_short(every: Sequence[Summary], key: str) -> bool:
    """Whether a latency is below a second under every policy, so that it is told in milliseconds."""
    values = [value for summary in every if (value := _value(summary, key)) is not None]
    return bool(values) and max(values) < 1000


def _idle_lines(every: Sequence[Summary]) -> Iterator[Line]:
    yield _part("idle share of GPU busy time", "idle_time_fraction", section=True)
    yield _part("  without the stall", "wasted_time_fraction")
    small: list[str] = []
    for cause in CAUSES:
        key = f"idle_time_fraction_{cause}"
        if any((summary.get(key) or 0) >= LARGE_IDLE for summary in every):
            yield _part(f"  {cause_name(cause)}", key)
        else:
            small.append(key)
    if any(_sum(summary, small) >= SHOWN_IDLE for summary in every):
        yield Line(f"  other, each below {LARGE_IDLE:.1%}", lambda summary: _share(_sum(summary, small), 1))


def _sum(summary: Summary, keys: Iterable[str]) -> float:
    return sum(_value(summary, key) or 0.0 for key in keys)


def cause_name(cause: str) -> str:
    """Return how a cause is written in tables and pictures."""
    return cause.replace("_", " ").replace("kv", "KV")


def throughput_window(summaries: Iterable[Summary]) -> str:
    """Prefix of the throughputs that compare like with like: of the saturated part if all policies have one.

    A policy that served nobody has no throughput, and does not decide.
    """
    return "saturated_" if all(each.get("saturated") for each in summaries if each.get("completed") != 0) else ""


def _value(summary: Summary, key: str) -> float | None:
    value = summary.get(key)
    return None if value is None else float(value)


def number_shown(value: float | None, digits: int = 2) -> str:
    """Show a number; two decimals below 10, one below 100 (unless told), thousands with commas, a dash for none.

    Below 0.1 there are as many decimals as three significant digits take.
    """
    if value is None:
        return "-"
    if digits and 0 < abs(value) < 0.1:
        return f"{value:.{min(2 - math.floor(math.log10(abs(value))), 9)}f}"
    return f"{value:,.{min(digits, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)}f}"


def _number(key: str, digits: int = 2) -> Callable[[Summary], str]:
    return lambda s: number_shown(_value(s, key), digits)


def _percent(key: str) -> Callable[[Summary], str]:
    return lambda s: _share(_value(s, key), 1)


def _share(value: float | None, whole: float) -> str:
    return "-" if value is None else f"{value / whole:.1%}"


def _pair(mean: str, tail: str, scale: float) -> Callable[[Summary], str]:
    def show(summary: Summary) -> str:
        values = (_value(summary, mean), _value(summary, tail))
        return (
            "-" if None in values else " / ".join(number_shown(value / scale) for value in values if value is not None)
        )

    return show


def _range(key: str, scale: float = 1, form: Callable[[float], str] | None = None) -> Callable[[Summary], str]:
    """Show the ends of an interval; nothing where it is not known."""

    def show(summary: Summary) -> str:
        ends = [_value(summary, f"{key}_{end}") for end in ENDS]
        return (
            "" if None in ends else " to ".join((form or number_shown)(end / scale) for end in ends if end is not None)
        )

    return show


def _ranges(mean: str, tail: str, scale: float) -> Callable[[Summary], str]:
    ranges = [_range(key, scale) for key in (mean, tail)]
    return lambda s: " / ".join(text for each in ranges if (text := each(s)))


def _saturated(summary: Summary) -> str:
    """Say in which of the three states a run was: saturated, keeping up, or in between."""
    return "yes" if summary.get("saturated") else "falls behind" if summary.get("falls_behind") else "no"


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}x" if value is not None and base else "-"


def warnings(summaries: Mapping[str, Summary], context: Context) -> Iterator[str]:
    """What a reader of these summaries must know, as plain sentences."""
    unserved = [name for name, summary in summaries.items() if summary.get("completed") == 0]
    if unserved:
        yield f"{_join(unserved)}: no request was served, so there is nothing to compare."
    unsaturated = [name for name, s in summaries.items() if s.get("saturated") is False and name not in unserved]
    yield from _what_throughputs_are({name: summaries[name] for name in unsaturated})
    if unsaturated and len(unsaturated) < len(summaries):
        yield "All throughputs are those of the whole run, since not every policy was saturated."
    for key, text in _WARNINGS.items():
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
    offered, rate = _value(summary, "offered_request_rate"), _value(summary, "request_throughput")
    drain, whole = _value(summary, "drain_s"), _value(summary, "duration_s")
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


_WARNINGS = {
    "rejected": "Requests rejected because the KV memory can never hold them",
    "unfinished": "Requests not finished when nothing could happen any more",
}


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
