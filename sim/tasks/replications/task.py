"""A comparison repeated with common random numbers, for confidence intervals of its metrics and of its ratios."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from sim.config.settings import Settings
from sim.metrics.interval import CONFIDENCE, Interval, verdict
from sim.output.folder import clear, salvaging
from sim.output.writing import Draft, make_folder, write_summary, writing
from sim.simulation.draws import Draws
from sim.tasks.options import RunTask
from sim.tasks.replications.page import write_replication_report
from sim.tasks.replications.picture import write_replication_plot
from sim.tasks.replications.results import Replicated, notes_on_replications, replicate
from sim.tasks.replications.table import print_replications
from sim.tasks.trial import Trial


class Replication:
    """Every policy of the settings, simulated on the requests of every replication."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the first requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        assert isinstance(settings.task, RunTask) and settings.task.replications is not None
        self._settings = settings
        self._total = settings.task.replications
        draws = Draws(settings.workload, settings.seed, self._total)
        self._trial = Trial(setting=settings, policies=settings.policies, draws=draws, warm_up=settings.task.uncounted)
        self._folder = make_folder(folder)
        self._done = Replicated(settings.policies, draws.resampled)

    def __call__(self, console: Console) -> None:
        """Run, write the results in place of an earlier run's, and print the table.

        Raises:
            InputError: if a file cannot be written, or a policy cannot be run; what was finished is saved.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        clear(self._folder, self._settings.workload, console)
        with salvaging(self._salvage, "fewer than two replications were finished, nothing was saved"):
            replicate(self._trial, self._total, self._done)
        self._write()
        written = [write_replication_plot(self._folder, self._done)] if self._settings.pictures else []
        if self._settings.report:
            page = self._folder / "report.html"
            written.append(write_replication_report(page, self._done, self._trial.context(), self._facts()))
        names = [path.name for path in written]
        print_replications(console, self._done, self._trial.context(folder=self._folder), names)

    def _salvage(self) -> str | None:
        if self._done.count < 2:
            return None
        self._done.notes = notes_on_replications(self._trial, self._done)
        self._write()
        return f"saved {self._done.count} of {self._total} replications in {self._folder}"

    def _write(self) -> None:
        write_summary(self._folder / "summary.json", self._summary())
        write_replications(self._folder / "replications.parquet", self._done)

    def _facts(self) -> dict[str, Any]:
        done = self._done
        return {
            "replications": done.count,
            "confidence": CONFIDENCE,
            "resampled": done.resampled,
            "warm_up_requests": self._trial.left_out,
            **self._trial.facts(),
        }

    def _summary(self) -> dict[str, Any]:
        done = self._done
        intervals = {
            name: {metric: told(done.interval(name, metric)) for metric in done.metrics()} for name in done.summaries
        }
        ratios = {
            f"{later}/{earlier}": {
                metric: told(found) | {"verdict": verdict(found)}
                for metric in done.metrics()
                if (found := done.ratio(later, earlier, metric)) is not None
            }
            for later, earlier in done.pairs
        }
        means = {name: {metric: each["estimate"] for metric, each in of.items()} for name, of in intervals.items()}
        return {
            "partial": done.count < self._total,
            "policies": means,
            "intervals": intervals,
            "ratios": ratios,
            **self._facts(),
            "notes": done.notes,
        }


def told(found: Interval | None) -> dict[str, Any]:
    """Return an interval for `summary.json`: nulls where it is not defined."""
    ends = {"estimate": None, "low": None, "high": None} if found is None else asdict(found)
    return {name: value if value is not None and math.isfinite(value) else None for name, value in ends.items()}


def write_replications(path: Path, done: Replicated) -> None:
    """Write `replications.parquet`: a row per policy and replication, a column per metric, nulls where undefined.

    Raises:
        InputError: if the file cannot be written.
    """
    table = pa.Table.from_pylist(done.rows())
    with writing(path), Draft(path) as part:
        pq.write_table(table, part)
