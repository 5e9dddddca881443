"""`task=overlay`: a measured run replayed in the simulator, and how far the prediction is from it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table as ConsoleTable
from rich.text import Text

from policies.checks import InputError
from sim.config.settings import Settings
from sim.metrics.request_columns import Columns
from sim.output.writing import Draft, write_summary, writing
from sim.reporting.axes import draw_cdf, styles
from sim.reporting.charts import latency_charts
from sim.reporting.page import Row, table
from sim.simulation.simulation import Result
from sim.tasks.comparison.run import Run
from sim.tasks.measured_facts import UNITS, facts_that_differ, unit_that_differs
from sim.tasks.options import OverlayTask
from workloads.demand import counted
from workloads.recorded.measured import Measured

Array = npt.NDArray[np.float64]

TIMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
STATISTICS = {"mean": None, "median": 0.5, "p90": 0.9, "p99": 0.99}
_LABELS = {"ttft_s": "time to first token, s", "tpot_s": "time per output token, ms", "e2e_s": "end-to-end latency, s"}


@dataclass(frozen=True)
class Difference:
    """One figure, measured and predicted.

    Attributes:
        name: What it is, such as `TTFT p99, ms`.
        measured: Its value in the measured run.
        predicted: Its value under each policy; None where it is not defined.
    """

    name: str
    measured: float
    predicted: dict[str, float | None]

    def error(self, policy: str) -> float | None:
        """Return (predicted - measured) / measured."""
        value = self.predicted[policy]
        return None if value is None or not self.measured else value / self.measured - 1


@dataclass(frozen=True, eq=False)
class Curve:
    """Times of requests, for a picture."""

    columns: Mapping[str, npt.NDArray[Any]]


class Overlay(Run):
    """Every policy on the requests of a measured run, and each beside it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Read the run.

        Raises:
            InputError: as `Run`, or if the run is shorter than the warm-up that is to be left out.
        """
        super().__init__(settings, folder)
        assert isinstance(settings.workload, Measured) and isinstance(settings.task, OverlayTask)
        self._measured = settings.workload.run()
        self._options = settings.task.overlay
        self._left_out = self._options.warmup
        self._times: dict[str, Columns] = {}
        server = self._options.times == "server"
        self._notes += [
            *facts_that_differ(self._measured, settings.model, settings.hardware.gpus, server),
            *(["the server took the times (overlay.times=server): no frontend latency is added"] if server else []),
            *self._measured.remarks,
        ]
        if self._left_out >= len(self._requests):
            whole = counted(len(self._requests), "request")
            raise InputError(f"overlay.warmup={self._left_out} leaves nothing of {whole}: give less")

    def _keep(self, name: str, result: Result, folder: Path) -> None:
        super()._keep(name, result, folder)
        self._times[name] = {column: result.columns[column] for column in TIMES}
        note = unit_that_differs(self._measured.e2e_s[: len(self._requests)], result.columns["e2e_s"])
        if note and not any(each.startswith(UNITS) for each in self._notes):
            self._notes.append(note)

    def __call__(self, console: Console) -> None:
        """Simulate, then print the table of differences; write `overlay.json` and, if wanted, `overlay.png`."""
        super().__call__(console)
        measured, predicted = self._curves()
        found, typical = self._compared_with(measured, predicted)
        write_summary(self._folder / "overlay.json", self._found(found, typical))
        drawn = []
        if self._settings.pictures:
            drawn.append(write_overlay_plot(self._folder / "overlay.png", measured, predicted))
        console.print(Text(self._title()))
        console.print(_table(found, typical))
        if self._left_out:
            console.print(Text(f"- {self._said_of_warm_up()}"))
        names = ", ".join(["overlay.json", *(path.name for path in drawn)])
        console.print(Text(f"Overlay: {self._folder} ({names})"), soft_wrap=True)

    def _beside(self) -> tuple[list[str], list[str]]:
        """Return the measured figures beside the predicted ones for the page: a table, and distributions."""
        measured, predicted = self._curves()
        found, typical = self._compared_with(measured, predicted)
        rows = (Row(label, cells) for label, cells in _lines(found, typical))
        title = f"{self._title()}; {self._said_of_warm_up()}" if self._left_out else self._title()
        drawn = latency_charts({**predicted, "measured": measured}, ", measured and predicted")
        return [table(("measured", *typical), rows, title)], drawn

    def _title(self) -> str:
        return f"{self._measured.name}, measured, and what is predicted of it (error)"

    def _said_of_warm_up(self) -> str:
        return f"{counted(self._left_out, 'request')} at the start left out of the comparison, as warm-up"

    def _compared_with(
        self, measured: Curve, predicted: Mapping[str, Curve]
    ) -> tuple[list[Difference], dict[str, float | None]]:
        """Return every figure, and each policy's median error of a request."""
        found = list(differences(measured, predicted, self._output_tokens(), self._arrival_s()))
        typical = {name: typical_error(measured, curve) for name, curve in predicted.items()}
        return found + self._inter_token(), typical

    def _curves(self) -> tuple[Curve, dict[str, Curve]]:
        """Return the times of the requests that are compared, measured and under each policy."""
        rows = slice(self._left_out, len(self._requests))
        run = self._measured
        measured = {"ttft_s": run.ttft_s[rows], "tpot_s": run.tpot_s[rows], "e2e_s": run.e2e_s[rows]}
        predicted = {
            name: Curve({column: values[rows] for column, values in columns.items()})
            for name, columns in self._times.items()
        }
        return Curve(measured), predicted

    def _output_tokens(self) -> npt.NDArray[np.int64]:
        return self._requests.output_tokens[self._left_out :]

    def _arrival_s(self) -> Array:
        return self._requests.arrival_s[self._left_out :]

    def _inter_token(self) -> list[Difference]:
        """Compare the time between tokens, where every gap was recorded and every request is compared."""
        gaps = self._measured.gaps_s
        whole = len(self._requests) == len(self._measured.demand) and not self._left_out
        if gaps is None or not len(gaps) or not whole:
            return []
        return [
            Difference(
                f"ITL {statistic}, ms",
                1e3 * _statistic(gaps, share),
                {name: _number(result.summary[f"{statistic}_itl_ms"]) for name, result in self._results.items()},
            )
            for statistic, share in STATISTICS.items()
        ]

    def _found(self, found: list[Difference], typical: Mapping[str, float | None]) -> dict[str, Any]:
        return {
            "measured": self._measured.name,
            "requests": len(self._requests),
            "left_out_as_warmup": self._left_out,
            "times": self._options.times,
            "differences": [asdict(each) | {"error": {name: each.error(name) for name in typical}} for each in found],
            "median_error_of_a_request": dict(typical),
            "notes": self._notes,
        }


def differences(
    measured: Curve, predicted: Mapping[str, Curve], output_tokens: npt.NDArray[np.int64], arrival_s: Array
) -> Iterator[Difference]:
    """Yield throughput and the spread of every latency, each side by the same definition.

    Args:
        measured: Times of n requests; NaN where not defined.
        predicted: The same under each policy.
        output_tokens: int64 [n].
        arrival_s: float64 [n].
    """
    sides = {"": measured, **predicted}
    rates = {name: _throughput(curve, output_tokens, arrival_s) for name, curve in sides.items()}
    if (rate := rates.pop("")) is not None:
        yield Difference("output tokens/s", rate, rates)
    for column, name in TIMES.items():
        known = measured.columns[column][np.isfinite(measured.columns[column])]
        for statistic, share in STATISTICS.items() if len(known) else ():
            values = {
                policy: _number(1e3 * _statistic(curve.columns[column], share)) for policy, curve in predicted.items()
            }
            yield Difference(f"{name} {statistic}, ms", 1e3 * _statistic(known, share), values)


def _throughput(curve: Curve, output_tokens: npt.NDArray[np.int64], arrival_s: Array) -> float | None:
    """Output tokens of what finished, per second from the first arrival to the last answer's end."""
    end_s = arrival_s + curve.columns["e2e_s"]
    done = np.isfinite(end_s)
    span_s = float(end_s[done].max() - arrival_s.min()) if done.any() else 0.0
    return float(output_tokens[done].sum() / span_s) if span_s > 0 else None


def typical_error(measured: Curve, predicted: Curve) -> float | None:
    """Return the median over requests of |predicted - measured| / measured of the end-to-end latency."""
    real, guess = measured.columns["e2e_s"], predicted.columns["e2e_s"]
    known = np.isfinite(real) & np.isfinite(guess) & (real > 0)
    return float(np.median(np.abs(guess[known] / real[known] - 1))) if known.any() else None


def _statistic(values: Array, share: float | None) -> float:
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan")
    return float(known.mean() if share is None else np.quantile(known, share))


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _table(found: list[Difference], typical: Mapping[str, float | None]) -> ConsoleTable:
    shown = ConsoleTable(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    shown.add_column("", no_wrap=True)
    for name in ("measured", *typical):
        shown.add_column(name, justify="right")
    for label, cells in _lines(found, typical):
        shown.add_row(label, *cells)
    return shown


def _lines(found: list[Difference], typical: Mapping[str, float | None]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table: a label, the measured figure, and what each policy predicts of it."""
    for each in found:
        cells = [_cell(each.predicted[name], each.error(name)) for name in typical]
        yield each.name, [_format(each.measured), *cells]
    yield "median error of a request's E2E", ["", *(_share(value) for value in typical.values())]


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return _format(value) if error is None else f"{_format(value)} ({error:+.1%})"


def _format(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def write_overlay_plot(path: Path, measured: Curve, predicted: Mapping[str, Curve]) -> Path:
    """Draw the distributions of TTFT, TPOT and E2E, measured and predicted; return the picture's path.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    curves = {"measured": measured, **predicted}
    figure = Figure(figsize=(7.2, 3.1), layout="constrained", dpi=150)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (column, label) in zip(panels, _LABELS.items(), strict=True):
        draw_cdf(axes, curves, column, label, scale=1000 if column == "tpot_s" else 1)
        axes.tick_params(labelsize=8)
    for axes in panels[1:]:
        axes.set_ylabel("")
    handles = [Line2D([], [], **style, lw=1.6, label=name) for name, style in styles(curves).items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8, handlelength=3)
    with writing(path), Draft(path) as part:
        FigureCanvasAgg(figure).print_png(part)  # type: ignore[no-untyped-call]
    return path
