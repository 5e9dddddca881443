"""Where the time of one request went under every policy, beside the mean and the p99 request."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from policies.checks import InputError
from sim.config.settings import Settings
from sim.metrics.breakdown import PARTS, p99_request, part_column
from sim.reporting.axes import name_rows, note
from sim.reporting.axes import parts as drawn
from sim.reporting.figure import draw_figure, new_figure
from sim.reporting.table import Grid, Row, say
from sim.simulation.results import Result
from sim.tasks.comparison.run import Run
from sim.tasks.options import ExplainTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parts = dict[str, float]
"""Seconds of each part, by name."""

LEAST_S = 1e-9
"""Parts that take longer anywhere are shown."""

_STYLES = {
    "queue": ("#7F7F7F", ""),
    "prefill": ("#009E73", ""),
    "ready": ("#B3E2CD", ".."),
    "decode": ("#0072B2", ""),
    "stall": ("#000000", ""),
    "padding": ("#E69F00", "////"),
    "preemption": ("#D55E00", "xxxx"),
    "release": ("#CC79A7", "\\\\\\\\"),
}


class Explanation(Run):
    """A run that also shows the parts of a request's time."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: as `Run`, or if there is no such request.
        """
        super().__init__(settings, folder)
        assert isinstance(settings.task, ExplainTask)
        request, last = settings.task.request, len(self._requests) - 1
        if request > last:
            raise InputError(f"request={request}: the workload has requests 0 to {last}; give one of them")
        self._request = request
        self._parts: dict[str, dict[str, Parts]] = {}
        self._states: dict[str, str] = {}

    def _keep(self, name: str, result: Result, folder: Path) -> None:
        """Keep what is to be shown, too."""
        self._states[name] = str(result.columns["status"][self._request])
        self._parts[name] = parts_of(result, self._request)
        super()._keep(name, result, folder)

    def _draw(self) -> list[Path]:
        return [*super()._draw(), draw_figure(self._folder / "explanation.png", lambda: explanation(self._parts))]

    def _print(self, console: Console, pictures: list[Path]) -> None:
        """Print the parts after the table."""
        super()._print(console, pictures)
        prompt, output = (int(of[self._request]) for of in (self._requests.prompt_tokens, self._requests.output_tokens))
        console.print()
        say(console, f"request {self._request}: {prompt:,} prompt tokens, {output:,} output tokens")
        for table in parts_grid(self._parts).lines(console.width):
            console.print(table)
        for name, state in self._states.items():
            if state != "finished":
                console.print(Text(f"- {name}: request {self._request} is {state}, so its time has no parts"))


def parts_of(result: Result, request: int) -> dict[str, Parts]:
    """Return the parts of a request, of the mean one and of the p99 one of a run; none of what has not finished."""
    columns = result.columns

    def of(place: int) -> Parts:
        return {name: float(columns[part_column(name)][place]) for name in PARTS}

    finished = columns["status"] == "finished"
    parts = {f"request {request}": of(request)} if finished[request] else {}
    if finished.any():
        parts["mean"] = {name: float(result.summary[f"mean_split_{name}_ms"] or 0) / 1e3 for name in PARTS}
        parts["p99"] = of(p99_request(columns["e2e_s"]))
    return parts


def parts_grid(parts: Mapping[str, Mapping[str, Parts]]) -> Grid:
    """Return a table with a column per policy and a section per request; parts that are nowhere are left out."""
    rows = []
    for title in titles(parts):
        columns = [each.get(title) for each in parts.values()]
        ends = ["-" if each is None else f"{sum(each.values()):.3f}" for each in columns]
        rows.append(Row(f"{title}: end to end", ends))
        for part in PARTS:
            if any(each is not None and each[part] > LEAST_S for each in columns):
                rows.append(Row(f"  {part}", ["-" if each is None else f"{each[part]:.3f}" for each in columns]))
    return Grid(parts, rows, "seconds")


def titles(parts: Mapping[str, Mapping[str, Parts]]) -> list[str]:
    """Return what is shown of any policy: the request, the mean, the p99 request."""
    return list(dict.fromkeys(title for each in parts.values() for title in each))


def explanation(parts: Mapping[str, Mapping[str, Parts]]) -> "Figure":
    """Draw a bar per policy of stacked parts, for the request, the mean and the p99 request, each on its own scale.

    Above in seconds, below as shares of the end-to-end latency: a slow policy leaves the parts of a fast one readable.
    """
    columns = titles(parts)
    figure = new_figure(2.0 + 0.8 * len(parts))
    panels = figure.subplots(2, max(len(columns), 1), sharey=True, squeeze=False)
    for (above, below), title in zip(panels.T, columns, strict=False):
        bars = {name: each.get(title, {}) for name, each in parts.items()}
        draw_parts(above, bars)
        for row, each in enumerate(bars.values()):
            if each:
                note(above, f"{sum(each.values()):.3g} s", sum(each.values()), row)
        above.set_xlim(right=1.35 * above.get_xlim()[1])
        above.set_title(title, loc="left")
        above.set_xlabel("end-to-end latency, s")
        draw_parts(below, {name: shares(each) for name, each in bars.items()})
        below.set_xlim(0, 100)
        below.set_xlabel("share of it, %")
    named = drawn(*panels.ravel())
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=len(PARTS), frameon=False)
    return figure


def shares(parts: Parts) -> Parts:
    """Return parts as percent of their sum; nothing of what took no time."""
    whole = sum(parts.values())
    return {name: 100 * part / whole for name, part in parts.items()} if whole > LEAST_S else {}


def draw_parts(axes: "Axes", parts: Mapping[str, Parts]) -> None:
    """A bar per policy, its parts from left to right in the order of `PARTS`."""
    left = [0.0] * len(parts)
    for part in PARTS:
        colour, hatch = _STYLES[part]
        widths = [each.get(part, 0.0) for each in parts.values()]
        if any(width > LEAST_S for width in widths):
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.5, "label": part}
            axes.barh(range(len(parts)), widths, 0.6, left, **look)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlim(0, 1.05 * max([*left, LEAST_S]))
    axes.locator_params(axis="x", nbins=4)
    name_rows(axes, list(parts))
