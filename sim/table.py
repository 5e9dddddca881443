"""The table at the end of a run, and the sentences below it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.prediction_interval import ENDS, LEVEL

Value = float | int | bool | None
Summary = Mapping[str, Value]

CAUSES = (
    "stall", "prefill_padding", "insertion_padding", "finished_rows", "kv_padding", "recomputation", "bucket_dummies",
)  # fmt: skip
"""Causes of idle computation, as the summary names them after `idle_time_fraction_`."""

WIDEST_NAME = 28
GAP = 2
BEYOND = 0.001
"""Share of iterations outside the measured range from which it is worth a warning."""
LARGE_IDLE = 0.005
"""Share of busy time from which a cause of idle computation is worth a row."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a comparison was made on.

    Attributes:
        workload: Its name.
        requests: How many.
        arrivals: How they arrive.
        declared: How `max_new_tokens` was declared to the scheduler.
        hardware: Name of the GPU.
        engine: Name of the engine that a simulation assumes; None: there is a real one.
        model: Name of the model.
        kv_tokens: KV memory of a GPU, in tokens.
        max_positions: Longest sequence that the model was made for.
        too_long: Requests that are longer than that.
        seed: Of all random streams.
        notes: Plain sentences on the input.
        folder: Where the results are; None if nowhere.
        pictures: The most telling files in it.
    """

    workload: str
    requests: int
    arrivals: str
    declared: str
    hardware: str
    model: str
    kv_tokens: int
    max_positions: int
    engine: str | None = None
    too_long: int = 0
    seed: int = 0
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    pictures: tuple[str, ...] = ()


class Line(NamedTuple):
    """One row of the table: a label and how a summary is shown in it."""

    label: str
    show: Callable[[Summary], str]
    section: bool = False


def print_table(console: Console, summaries: Mapping[str, Summary], context: Context) -> None:
    """Print a comparison: a column per policy, in as many tables as the width asks for, then notes and places.

    Args:
        console: Where to.
        summaries: Summaries by policy name, keys as `sim.metrics`; ratios are to the first.
        context: What they were made on.
    """
    for text in heading(context):
        _say(console, text)
    lines = table_lines(list(summaries.values()), context)
    cells = {name: [line.show(summary) for line in lines] for name, summary in summaries.items()}
    for names in _blocks(cells, max(len(line.label) for line in lines), console.width):
        console.print(_table(lines, {name: cells[name] for name in names}))
        console.print()
    for note in chain(context.notes, warnings(summaries, context)):
        _say(console, f"- {note}")
    if context.folder is not None:
        _say(console, f"Results: {context.folder}")
    if context.pictures:
        _say(console, f"Pictures: {', '.join(context.pictures)}")


def _say(console: Console, text: str) -> None:
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


def table_lines(every: Sequence[Summary], context: Context) -> list[Line]:
    """Return the rows worth showing: those that would say nothing of any of these policies are left out."""
    window = throughput_window(every)
    output = f"{window}output_throughput"
    base = _value(every[0], output)
    optional = {"rejected": "  rejected", "unfinished": "  unfinished", "preemptions": "preemptions"}
    return [
        Line("saturated", _choice("yes", "no")),
        Line("GPUs used", _number("gpus", digits=0)),
        Line(f"throughput of the {'saturated part' if window else 'whole run'}", lambda _: "", section=True),
        Line("  requests/s", _number(f"{window}request_throughput")),
        Line("  output tokens/s", _number(output)),
        *_interval_lines(every, output),
        *([Line("  ratio to the first", lambda s: _ratio(_value(s, output), base))] if len(every) > 1 else ()),
        *_interval_lines(every, f"{output}_ratio"),
        *(_slo_lines() if any(summary.get("request_goodput") is not None for summary in every) else ()),
        *_latency_lines(every),
        *_idle_lines(every),
        Line("GPU busy", _percent("gpu_busy_fraction"), section=True),
        Line("mean batch, rows", _number("mean_batch_rows", digits=1)),
        Line("KV memory taken at its peak", lambda s: _share(_value(s, "kv_peak_tokens"), context.kv_tokens)),
        *_prefix_lines(every),
        Line("requests completed", _number("completed", digits=0)),
        *(Line(text, _number(key, digits=0)) for key, text in optional.items() if any(s.get(key) for s in every)),
    ]


def _prefix_lines(every: Sequence[Summary]) -> Iterator[Line]:
    if any(summary.get("prefix_hit_tokens") for summary in every):
        yield Line("prompt tokens found in the prefix cache", _percent("prefix_hit_rate"))


def _interval_lines(every: Sequence[Summary], key: str, scale: float = 1, what: str = "") -> Iterator[Line]:
    """The range in which a metric is expected, where it is known."""
    if any(f"{key}_low" in summary for summary in every):
        yield Line(f"    {what}{LEVEL:.0%} interval", _range(key, scale))


def _slo_lines() -> Iterator[Line]:
    yield Line("goodput, requests/s", _number("request_goodput"), section=True)
    yield Line("  share that met the SLO", _percent("slo_attainment"))


def _latency_lines(every: Sequence[Summary]) -> Iterator[Line]:
    names = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}
    for key, name in names.items():
        scale, unit = (1, "ms") if key in ("tpot", "itl") else (1000, "s")
        show = _pair(f"mean_{key}_ms", f"p99_{key}_ms", scale)
        yield Line(f"{name} mean / p99, {unit}", show, section=key == "ttft")
        yield from _interval_lines(every, f"mean_{key}_ms", scale, "mean, ")


def _idle_lines(every: Sequence[Summary]) -> Iterator[Line]:
    yield Line("idle share of GPU busy time", _percent("idle_time_fraction"), section=True)
    yield Line("  without the stall", _percent("wasted_time_fraction"))
    for cause in CAUSES:
        key = f"idle_time_fraction_{cause}"
        if any((summary.get(key) or 0) >= LARGE_IDLE for summary in every):
            yield Line(f"  {cause_name(cause)}", _percent(key))


def cause_name(cause: str) -> str:
    """Return how a cause is written in tables and pictures."""
    return cause.replace("_", " ").replace("kv", "KV")


def throughput_window(summaries: Iterable[Summary]) -> str:
    """Prefix of the throughputs that compare like with like: of the saturated part if all policies have one."""
    return "saturated_" if all(summary.get("saturated") for summary in summaries) else ""


def _value(summary: Summary, key: str) -> float | None:
    value = summary.get(key)
    return None if value is None else float(value)


def _format(value: float | None, digits: int = 2) -> str:
    """Show a number; two decimals below 10, one below 100 (unless told), thousands with commas, a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.{min(digits, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)}f}"


def _number(key: str, digits: int = 2) -> Callable[[Summary], str]:
    return lambda s: _format(_value(s, key), digits)


def _percent(key: str) -> Callable[[Summary], str]:
    return lambda s: _share(_value(s, key), 1)


def _share(value: float | None, whole: float) -> str:
    return "-" if value is None else f"{value / whole:.1%}"


def _pair(mean: str, tail: str, scale: float) -> Callable[[Summary], str]:
    def show(summary: Summary) -> str:
        values = (_value(summary, mean), _value(summary, tail))
        return "-" if None in values else " / ".join(_format(value / scale) for value in values if value is not None)

    return show


def _range(key: str, scale: float) -> Callable[[Summary], str]:
    def show(summary: Summary) -> str:
        ends = [_value(summary, f"{key}_{end}") for end in ENDS]
        return "-" if None in ends else " to ".join(_format(end / scale) for end in ends if end is not None)

    return show


def _choice(yes: str, no: str) -> Callable[[Summary], str]:
    return lambda s: yes if s.get("saturated") else no


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}x" if value is not None and base else "-"


def warnings(summaries: Mapping[str, Summary], context: Context) -> Iterator[str]:
    """What a reader of these summaries must know, as plain sentences."""
    unsaturated = [name for name, summary in summaries.items() if summary.get("saturated") is False]
    if unsaturated:
        by_the_clock = not context.arrivals.startswith(("all at once", "closed loop"))
        why = (
            "the throughput is that of the arrivals"
            if by_the_clock
            else "the throughput counts the whole run, the drain included"
        )
        yield f"{_join(unsaturated)}: not saturated, so {why}."
    if unsaturated and len(unsaturated) < len(summaries):
        yield "All throughputs are those of the whole run, since not every policy was saturated."
    for key, text in _WARNINGS.items():
        counts = [f"{name} {summary[key]:,}" for name, summary in summaries.items() if summary.get(key)]
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
    if len({summary.get("gpus") for summary in summaries.values()}) > 1:
        yield "These policies use different numbers of GPUs; compare their throughput per GPU (summary.json)."


_WARNINGS = {
    "rejected": "Requests rejected because the KV memory can never hold them",
    "unfinished": "Requests not finished when nothing could happen any more",
}


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
