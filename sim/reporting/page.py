"""`report.html`: one page that needs no network: answer, tables, charts, configuration, validity."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sim.output.writing import Draft, writing

_SETTLED = ("policies", "options", "notes", "partial", "interval")
"""Facts of `summary.json` that a page says elsewhere."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: What it is.
        cells: A text for every policy.
        beside: What stands small below each text, such as its interval; empty: nothing.
        section: Whether a line is drawn above it.
    """

    label: str
    cells: Sequence[str]
    beside: Sequence[str] = ()
    section: bool = False

    def html(self) -> str:
        """Return it as HTML."""
        small = [f"<small>{escape(text)}</small>" if text else "" for text in self.beside] or [""] * len(self.cells)
        cells = "".join(f"<td>{escape(cell)}{also}</td>" for cell, also in zip(self.cells, small, strict=True))
        mark = ' class="section"' if self.section else ""
        return f"<tr{mark}><th>{escape(self.label)}</th>{cells}</tr>"


def table(names: Iterable[str], rows: Iterable[Row], corner: str = "") -> str:
    """Return a table as HTML, with a column per name."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(row.html() for row in rows)
    return f"<table><thead><tr><th>{escape(corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_page(
    path: Path,
    *,
    title: str,
    answer: str,
    setting: Iterable[str],
    tables: Iterable[str],
    validity: Iterable[str],
    charts: Iterable[str],
    facts: Mapping[str, Any],
) -> Path:
    """Write the page; return its path.

    Args:
        path: Where to. If Hydra's `config.yaml` lies in `.hydra` beside it, it is shown too.
        title: What was simulated.
        answer: What it says.
        setting: Sentences on what it was simulated on.
        tables: The results, as HTML.
        validity: Sentences on what limits the answer.
        charts: Figures, as HTML.
        facts: As in `summary.json`.

    Raises:
        InputError: if the file cannot be written.
    """
    template = Template(files("sim.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(title),
        answer=escape(answer),
        setting="<br>".join(map(escape, setting)),
        tables="".join(f'<div class="scroll">{each}</div>' for each in tables),
        validity="".join(f"<li>{escape(each)}</li>" for each in validity),
        charts="\n".join(charts),
        configuration=_pairs({name: said for name, said in facts.items() if name not in _SETTLED}),
        options=_options(facts.get("options", {})),
        composed=_composed(path.parent / ".hydra" / "config.yaml"),
    )
    with writing(path), Draft(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _pairs(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_said(value))}</td></tr>" for name, value in facts.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _options(options: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(option for each in options.values() for option in each)
    told = {name: [_said(each[name]) if name in each else "-" for each in options.values()] for name in names}
    return table(options, (Row(name, cells) for name, cells in told.items()))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}" if _is_large(value) else json.dumps(value)


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 10_000


def _composed(path: Path) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    return f"<details><summary>Every option, composed</summary><pre>{text}</pre></details>"
