"""Where the time of one request went under every policy, beside the mean and the p99 request."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.errors import InputError
from sim.axes import name_parts, name_rows
from sim.breakdown import PARTS, p99_request
from sim.configuration import Settings
from sim.plots import draw_figure, new_figure
from sim.run import Run
from sim.simulation import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parts = dict[str, float]
"""Seconds of each part, by name."""

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
        request, last = settings.task.request, len(self._requests) - 1
        assert request is not None
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

    def _print(self, console: Console, pictures: list[Path]) -> None:
        """Print the parts after the table."""
        picture = draw_figure(self._folder / "explanation.png", lambda: explanation(self._request, self._parts))
        super()._print(console, [*pictures, picture])
        requests = self._requests
        console.print()
        console.print(
            Text(f"request {self._request}: {requests.prompt_tokens[self._request]:,} prompt tokens, "
                 f"{requests.output_tokens[self._request]:,} output tokens; seconds"),
            soft_wrap=not console.is_terminal,
        )  # fmt: skip
        console.print(parts_table(self._request, self._parts))
        for name, state in self._states.items():
            if state != "finished":
                console.print(Text(f"- {name}: request {self._request} is {state}, so its time has no parts"))


def parts_of(result: Result, request: int) -> dict[str, Parts]:
    """Return the parts of a request, of the mean one and of the p99 one of a run; none of what has not finished."""
    columns = result.columns
    found: dict[str, Parts] = {}
    chosen = {f"request {request}": request}
    if (columns["status"] == "finished").any():
        chosen["p99"] = p99_request(columns["e2e_s"])
    for title, place in chosen.items():
        if columns["status"][place] == "finished":
            found[title] = {name: float(columns[f"{name}_part_s"][place]) for name in PARTS}
    if "p99" in found:
        means = {name: float(result.summary[f"mean_split_{name}_ms"] or 0) / 1e3 for name in PARTS}
        found = {
            **{title: parts for title, parts in found.items() if title != "p99"},
            "mean": means,
            "p99": found["p99"],
        }
    return found


def parts_table(request: int, parts: Mapping[str, Mapping[str, Parts]]) -> Table:
    """Return a table: a row per part, three columns per policy; parts that are nowhere are left out."""
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    columns = [(name, title, found) for name, each in parts.items() for title, found in each.items()]
    for name, title, _ in columns:
        table.add_column(f"{name}\n{title}", justify="right")
    for part in PARTS:
        if any(found[part] > 1e-9 for *_, found in columns):
            table.add_row(part, *(f"{found[part]:.3f}" for *_, found in columns))
    table.add_row("end to end", *(f"{sum(found.values()):.3f}" for *_, found in columns))
    return table


def explanation(request: int, parts: Mapping[str, Mapping[str, Parts]]) -> "Figure":
    """Draw a bar per policy, for the request, the mean and the p99 request: their parts, stacked."""
    rows = [(f"{name}: {title}", found) for name, each in parts.items() for title, found in each.items()]
    figure = new_figure(1.5 + 0.3 * len(rows))
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for part, (colour, hatch) in _STYLES.items():
        widths = [found[part] for _, found in rows]
        if any(width > 1e-9 for width in widths):
            axes.barh(
                range(len(rows)), widths, 0.65, left, color=colour, hatch=hatch, edgecolor="black", lw=0.5, label=part
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel(f"end-to-end latency of request {request}, of the mean and of the p99 request, s")
    name_rows(axes, [title for title, _ in rows])
    name_parts(axes, 4)
    return figure
