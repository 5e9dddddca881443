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
from sim.reporting.charts import Chart
from sim.reporting.table import Grid, Row

_SETTLED = ("policies", "options", "notes", "partial", "interval")
"""Facts of `summary.json` that a page says elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says, in its order.

    Attributes:
        title: What was simulated.
        answer: What it says.
        setting: Sentences on what it was simulated on.
        tables: The results.
        validity: Sentences on what limits the answer.
        charts: Its figures.
    """

    title: str
    answer: str
    setting: Iterable[str]
    tables: Sequence[Grid]
    validity: Iterable[str]
    charts: Iterable[Chart]

    def write(self, path: Path, facts: Mapping[str, Any]) -> Path:
        """Write the page; return its path.

        Args:
            path: Where to. If Hydra's `config.yaml` lies in `.hydra` beside it, it is shown too.
            facts: As in `summary.json`.

        Raises:
            InputError: if the file cannot be written.
        """
        charts = list(self.charts)
        from bokeh.resources import Resources

        template = Template(files("sim.reporting").joinpath("report.html").read_text(encoding="utf-8"))
        text = template.substitute(
            title=escape(self.title),
            answer=escape(self.answer),
            setting="<br>".join(map(escape, self.setting)),
            tables="".join(f'<div class="scroll">{grid.html()}</div>' for grid in self.tables),
            validity="".join(f"<li>{escape(sentence)}</li>" for sentence in self.validity),
            charts="".join(_frame(place, chart) for place, chart in enumerate(charts)),
            library=Resources(mode="inline", components=["bokeh"]).render_js(),
            plots=_plots(charts),
            configuration=_pairs({name: fact for name, fact in facts.items() if name not in _SETTLED}),
            options=_options(facts.get("options", {})),
            composed=_composed(path.parent / ".hydra" / "config.yaml"),
        )
        with writing(path), Draft(path) as part:
            part.write_text(text, encoding="utf-8")
        return path


def _frame(place: int, chart: Chart) -> str:
    body = f'<div id="chart-{place}"></div>' if chart.plot else '<p class="soft">no data</p>'
    return f"<figure><h3>{escape(chart.title)}</h3>{body}</figure>"


def _plots(charts: Sequence[Chart]) -> str:
    """Return the plots as JSON that may stand in a script."""
    from bokeh.core.types import ID
    from bokeh.embed import json_item

    plots = [json_item(chart.plot, ID(f"chart-{place}")) for place, chart in enumerate(charts) if chart.plot]
    return json.dumps(plots, separators=(",", ":")).replace("<", "\\u003c")


def _pairs(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in facts.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _options(options: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(option for each in options.values() for option in each)
    rows = (Row(name, [_text(each[name]) if name in each else "-" for each in options.values()]) for name in names)
    return Grid(options, rows).html()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}" if _is_large(value) else json.dumps(value)


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 10_000


def _composed(path: Path) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    return f"<details><summary>Every option, composed</summary><pre>{text}</pre></details>"
