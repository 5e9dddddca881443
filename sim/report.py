"""`report.html`: a comparison as one page that needs no network: answer, table, charts, configuration, validity."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sim.axes import Outcomes
from sim.report_charts import charts
from sim.results import Draft, writing
from sim.context import Context
from sim.table import Line, Summary, heading, table_lines, warnings

CLOSE = 0.02
"""Relative difference below which the answer names no winner."""

_SETTLED = ("policies", "options", "notes", "partial")


def write_report(path: Path, outcomes: Outcomes, context: Context, facts: Mapping[str, Any]) -> Path:
    """Write the page; return its path.

    Args:
        path: Where to.
        outcomes: Runs of the same workload by policy name, at least one.
        context: What they were made on.
        facts: As in `summary.json`. If Hydra's `config.yaml` lies beside the page, it is shown too.

    Raises:
        InputError: if the file cannot be written.
    """
    summaries = {name: outcome.summary for name, outcome in outcomes.items()}
    title = f"{context.workload}: {' / '.join(outcomes)} on {context.hardware}"
    template = Template(files("sim").joinpath("report.html").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(title),
        answer=escape(answer(summaries, context)),
        setting="<br>".join(map(escape, heading(context))),
        table=_results(summaries, context),
        validity="".join(f"<li>{escape(each)}</li>" for each in validity(summaries, context)),
        charts=charts(outcomes),
        configuration=_pairs({name: said for name, said in facts.items() if name not in _SETTLED}),
        options=_options(facts.get("options", {})),
        composed=_composed(path.parent / ".hydra" / "config.yaml"),
    )
    with writing(path), Draft(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def answer(summaries: Mapping[str, Summary], context: Context) -> str:
    """Return what a comparison says, in a sentence."""
    where = f"With {context.model} on {context.hardware}"
    if not all(summary.get("saturated") for summary in summaries.values()):
        return f"{where}, {_by_latency(summaries)}"
    rates = {name: float(summary.get("saturated_output_throughput") or 0) for name, summary in summaries.items()}
    best, *rest = sorted(rates, key=lambda name: -rates[name])
    told = f"{rates[best]:,.0f} output tokens/s while saturated; {_idle(summaries[best])}."
    if not rest:
        return f"{where}, {best} is predicted to give {told}"
    if close := [name for name in rest if rates[name] > rates[best] * (1 - CLOSE)]:
        names = " and ".join([best, *close])
        return f"{where}, {names} differ by less than {CLOSE:.0%}, too little to tell from one run: {best} gives {told}"
    ratios = " and ".join(f"{rates[best] / max(rates[name], 1e-12):.2f} times {name}" for name in rest)
    return f"{where}, {best} is predicted to be the fastest, {ratios}: {told}"


def _by_latency(summaries: Mapping[str, Summary]) -> str:
    """Compare policies of which some just keep up with the arrivals."""
    means = {name: float(summary.get("mean_e2el_ms") or 0) / 1000 for name, summary in summaries.items()}
    means = {name: mean for name, mean in means.items() if mean}
    if not means:
        return "no request was finished."
    best, *rest = sorted(means, key=lambda name: means[name])
    told = f"{means[best]:.3g} s from arrival to the last token on average; {_idle(summaries[best])}."
    if not rest:
        return f"{best} is not saturated: it is predicted to take {told}"
    why = "not every policy is saturated, so latency decides"
    if close := [name for name in rest if means[name] < means[best] * (1 + CLOSE)]:
        names = " and ".join([best, *close])
        return f"{why}: {names} differ by less than {CLOSE:.0%}, too little to tell from one run: {best} takes {told}"
    ratios = " and ".join(f"{name} takes {means[name] / means[best]:.2f} times as long" for name in rest)
    return f"{why}: {best} is predicted to be the quickest, {ratios}: {told}"


def _idle(summary: Summary) -> str:
    share = summary.get("idle_time_fraction")
    return "its idle share is not known" if share is None else f"{float(share):.1%} of its busy GPU time is idle"


def validity(summaries: Mapping[str, Summary], context: Context) -> Iterator[str]:
    """Yield what limits the answer, as plain sentences."""
    yield (
        "These are predictions of a simulator, of one seed: differences of a few percent are within the error of the "
        "cost model, and other requests of the same kind would give somewhat different figures."
    )
    yield from context.notes
    yield from warnings(summaries, context)


def _results(summaries: Mapping[str, Summary], context: Context) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in summaries)
    lines = table_lines(list(summaries.values()), context)
    rows = "".join(_row(line, list(summaries.values())) for line in lines)
    return f"<table><thead><tr><th></th>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _row(line: Line, summaries: Sequence[Summary]) -> str:
    cells = "".join(f"<td>{escape(line.show(summary))}</td>" for summary in summaries)
    mark = ' class="section"' if line.section else ""
    return f"<tr{mark}><th>{escape(line.label)}</th>{cells}</tr>"


def _pairs(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_said(value))}</td></tr>" for name, value in facts.items())
    return f"<table><tbody>{rows}</tbody></table>"


def _options(options: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(option for each in options.values() for option in each)
    head = "".join(f"<th>{escape(policy)}</th>" for policy in options)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(_said(each[name])) if name in each else '-'}</td>" for each in options.values())
        + "</tr>"
        for name in names
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}" if _is_large(value) else json.dumps(value)


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 10_000


def _composed(path: Path) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    return f"<details><summary>Every option, composed</summary><pre>{text}</pre></details>"
