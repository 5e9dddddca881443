"""`task=overlay`: a measured run replayed in the simulator, and how far the prediction is from it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from policies.checks import InputError
from sim.config.settings import Settings
from sim.output.writing import write_summary
from sim.reporting.charts import latency_charts
from sim.reporting.figure import draw_figure
from sim.reporting.labels import ITL, TIMED, Latency, number, percent
from sim.reporting.page import Page
from sim.reporting.table import Grid, Row
from sim.simulation.results import Result
from sim.tasks.comparison.pictures import latency_cdf
from sim.tasks.comparison.run import Run
from sim.tasks.measured_facts import UNITS, facts_that_differ, unit_that_differs
from sim.tasks.options import OverlayTask
from workloads.demand import counted
from workloads.recorded.measured import Measured

Array = npt.NDArray[np.float64]

STATISTICS = {"mean": None, "median": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Prediction:
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
class Times:
    """Latencies of requests, by column of `requests.parquet`."""

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
        self._run_measured = settings.workload.run()
        self._options = settings.task.overlay
        self._left_out = self._options.warmup
        server = self._options.times == "server"
        self._notes += [
            *facts_that_differ(self._run_measured, settings.model, settings.hardware.gpus, server),
            *(["the server took the times (overlay.times=server): no frontend latency is added"] if server else []),
            *self._run_measured.remarks,
        ]
        if self._left_out >= len(self._requests):
            whole = counted(len(self._requests), "request")
            raise InputError(f"overlay.warmup={self._left_out} leaves nothing of {whole}: give less")

    def _keep(self, name: str, result: Result, folder: Path) -> None:
        super()._keep(name, result, folder)
        note = unit_that_differs(self._run_measured.e2e_s[: len(self._requests)], result.columns["e2e_s"])
        if note and not any(each.startswith(UNITS) for each in self._notes):
            self._notes.append(note)

    def _write(self) -> None:
        """Write `overlay.json`, too."""
        super()._write()
        self._measured, self._predicted = self._times()
        self._predictions = [*self._compare(), *self._inter_token()]
        self._typical = {name: typical_error(self._measured, times) for name, times in self._predicted.items()}
        differences = [
            asdict(each) | {"error": {name: each.error(name) for name in self._typical}} for each in self._predictions
        ]
        overlay = {
            "measured": self._run_measured.name,
            "requests": len(self._requests),
            "left_out_as_warmup": self._left_out,
            "times": self._options.times,
            "differences": differences,
            "median_error_of_a_request": self._typical,
            "notes": self._notes,
        }
        write_summary(self._folder / "overlay.json", overlay)

    def _draw(self) -> list[Path]:
        curves = {"measured": self._measured, **self._predicted}
        draw_figure(self._folder / "overlay.png", lambda: latency_cdf(curves))
        return super()._draw()

    def _page(self) -> Page:
        """Return the page, what was measured beside the prediction first: a table, and distributions."""
        page = super()._page()
        title = f"{self._title()}; {self._warm_up_note()}" if self._left_out else self._title()
        curves = latency_charts({**self._predicted, "measured": self._measured}, ", measured and predicted")
        return replace(page, tables=[self._errors(title), *page.tables], charts=[*curves, *page.charts])

    def _print(self, console: Console, pictures: list[Path]) -> None:
        """Print the table of errors after that of the comparison."""
        super()._print(console, pictures)
        console.print(Text(self._title()))
        for table in self._errors().lines(console.width):
            console.print(table)
        if self._left_out:
            console.print(Text(f"- {self._warm_up_note()}"))
        names = ["overlay.json", *(["overlay.png"] if self._settings.pictures else [])]
        console.print(Text(f"Overlay: {self._folder} ({', '.join(names)})"), soft_wrap=True)

    def _title(self) -> str:
        return f"{self._run_measured.name}, measured, and what is predicted of it (error)"

    def _warm_up_note(self) -> str:
        return f"{counted(self._left_out, 'request')} at the start left out of the comparison, as warm-up"

    def _times(self) -> tuple[Times, dict[str, Times]]:
        """Return the times of the requests that are compared, measured and under each policy."""
        run, rows = self._run_measured, slice(self._left_out, len(self._requests))
        measured = {"ttft_s": run.ttft_s[rows], "tpot_s": run.tpot_s[rows], "e2e_s": run.e2e_s[rows]}
        columns = {name: result.columns for name, result in self._results.items()}
        predicted = {name: Times({each: of[each][rows] for each in measured}) for name, of in columns.items()}
        return Times(measured), predicted

    def _compare(self) -> Iterator[Prediction]:
        output, arrival = self._requests.output_tokens, self._requests.arrival_s
        return predictions(self._measured, self._predicted, output[self._left_out :], arrival[self._left_out :])

    def _inter_token(self) -> Iterator[Prediction]:
        """Compare the time between tokens, where every gap was recorded and every request is compared."""
        gaps = self._run_measured.gaps_s
        whole = len(self._requests) == len(self._run_measured.demand) and not self._left_out
        if gaps is None or not len(gaps) or not whole:
            return
        for statistic, share in STATISTICS.items():
            key = f"{statistic}_{ITL.key}_ms"
            values = {name: number(result.summary, key) for name, result in self._results.items()}
            yield Prediction(_name(ITL, statistic), 1e3 * _statistic(gaps, share), values)

    def _errors(self, corner: str = "") -> Grid:
        """Return the measured figures, and what each policy predicts of them."""
        rows = [
            Row(each.name, [_figure(each.measured), *(_cell(each, name) for name in self._typical)])
            for each in self._predictions
        ]
        last = Row("median error of a request's E2E", ["", *map(percent, self._typical.values())])
        return Grid(("measured", *self._typical), [*rows, last], corner)


def predictions(
    measured: Times, predicted: Mapping[str, Times], output_tokens: npt.NDArray[np.int64], arrival_s: Array
) -> Iterator[Prediction]:
    """Yield throughput and the spread of every latency, each side by the same definition.

    Args:
        measured: Times of n requests; NaN where not defined.
        predicted: The same under each policy.
        output_tokens: int64 [n].
        arrival_s: float64 [n].
    """
    sides = {"": measured, **predicted}
    rates = {name: _throughput(times, output_tokens, arrival_s) for name, times in sides.items()}
    if (rate := rates.pop("")) is not None:
        yield Prediction("output tokens/s", rate, rates)
    for latency in TIMED:
        column = latency.column
        for statistic, share in STATISTICS.items() if np.isfinite(measured.columns[column]).any() else ():
            values = {
                policy: _number(1e3 * _statistic(times.columns[column], share)) for policy, times in predicted.items()
            }
            yield Prediction(_name(latency, statistic), 1e3 * _statistic(measured.columns[column], share), values)


def _name(latency: Latency, statistic: str) -> str:
    return f"{latency.label} {statistic}, ms"


def _throughput(times: Times, output_tokens: npt.NDArray[np.int64], arrival_s: Array) -> float | None:
    """Output tokens of what finished, per second from the first arrival to the last answer's end."""
    end_s = arrival_s + times.columns["e2e_s"]
    done = np.isfinite(end_s)
    span_s = float(end_s[done].max() - arrival_s.min()) if done.any() else 0.0
    return float(output_tokens[done].sum() / span_s) if span_s > 0 else None


def typical_error(measured: Times, predicted: Times) -> float | None:
    """Return the median over requests of |predicted - measured| / measured of the end-to-end latency."""
    real, guess = measured.columns["e2e_s"], predicted.columns["e2e_s"]
    finished = np.isfinite(real) & np.isfinite(guess) & (real > 0)
    return float(np.median(np.abs(guess[finished] / real[finished] - 1))) if finished.any() else None


def _statistic(values: Array, share: float | None) -> float:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan")
    return float(defined.mean() if share is None else np.quantile(defined, share))


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _cell(prediction: Prediction, policy: str) -> str:
    value, error = prediction.predicted[policy], prediction.error(policy)
    if value is None:
        return "-"
    return _figure(value) if error is None else f"{_figure(value)} ({error:+.1%})"


def _figure(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
