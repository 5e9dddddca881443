"""`task=capacity`: the highest arrival rate at which each policy meets the SLO."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from sim.config.settings import Settings
from sim.output.folder import clear, salvaging
from sim.output.writing import Draft, make_folder, write_summary, writing
from sim.reporting.table import heading, say
from sim.simulation.context import Context
from sim.tasks.capacity.page import write_capacity_report
from sim.tasks.capacity.picture import write_capacity_plot
from sim.tasks.capacity.results import Capacities, Finding, told, unit_draws
from sim.tasks.capacity.table import capacity_table
from sim.tasks.options import CapacityTask, Objective
from sim.tasks.trial import Trial


class CapacityPlanning:
    """The search for the capacity of every policy of the settings, its files and its table."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        task, slo = settings.task, settings.slo
        assert isinstance(task, CapacityTask) and isinstance(slo, Objective)
        self._settings, self._task = settings, task
        draws = unit_draws(settings.workload, settings.slo, settings.seed, task.replications)
        self._trial = Trial(setting=settings, policies=settings.policies, draws=draws, warm_up=task.uncounted)
        self._finding = Finding(self._trial, slo.attainment, task.precision, task.replications)
        self._folder = make_folder(folder)

    def __call__(self, console: Console) -> None:
        """Search, write the results in place of an earlier run's, and print the table.

        Raises:
            InputError: if a file cannot be written, a policy cannot be run, or none serves any request; what was
                found is saved.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        clear(self._folder, self._settings.workload, console)
        with salvaging(self._salvage, "the capacity of no policy was found, nothing was saved"):
            found = self._finding()
        self._write()
        written = [write_capacity_plot(self._folder, found)] if self._settings.pictures else []
        if self._settings.report:
            page = self._folder / "report.html"
            written.append(write_capacity_report(page, found, self._context(), self._facts()))
        self._print(console, found, [path.name for path in written])

    @property
    def _arrivals(self) -> str:
        """How requests arrive, at whatever rate."""
        arrivals = self._trial.draws.first.arrivals.replace("1 requests/s", "every rate that was tried")
        return f"{arrivals}, every rate that was tried" if arrivals.startswith("trace") else arrivals

    def _context(self) -> Context:
        return self._trial.context(arrivals=self._arrivals)

    def _salvage(self) -> str | None:
        if not any(each.saturated for each in self._finding.found.values()):
            return None
        self._finding.found.notes = self._finding.notes()
        self._write()
        return f"saved what was found ({', '.join(self._finding.found)}) in {self._folder}"

    def _facts(self) -> dict[str, Any]:
        found = self._finding.found
        return {
            "slo": {"ttft_s": found.slo.ttft_s, "tpot_s": found.slo.tpot_s, "attainment": found.attainment},
            "precision": self._task.precision,
            "replications": self._task.replications,
            "resampled": found.resampled,
            "warm_up_requests": self._trial.left_out,
            **self._trial.facts(arrivals=self._arrivals),
        }

    def _write(self) -> None:
        found = self._finding.found
        summary = {
            "task": "capacity",
            "partial": len(found) < len(self._settings.policies),
            "capacity": {name: told(each) for name, each in found.items()},
            **self._facts(),
            "notes": found.notes,
        }
        write_summary(self._folder / "summary.json", summary)
        path = self._folder / "capacity.parquet"
        with writing(path), Draft(path) as part:
            pq.write_table(pa.Table.from_pylist(list(_rows(found))), part)

    def _print(self, console: Console, found: Capacities, pictures: list[str]) -> None:
        context = self._context()
        searched = f"highest arrival rate at which {found.attainment:.2%} of requests have {found.limits}"
        for text in (f"{context.workload}: {searched}", *list(heading(context))[1:]):
            say(console, text)
        console.print(capacity_table(found))
        console.print()
        for note in found.notes:
            say(console, f"- {note}")
        say(console, f"Results: {self._folder}")
        if pictures:
            say(console, f"Pictures: {', '.join(pictures)}")


def _rows(found: Capacities) -> Iterator[dict[str, Any]]:
    """Yield a row per policy, rate and replication of `capacity.parquet`: all its metrics."""
    for name, each in found.items():
        for point in each.points:
            for replication, run in enumerate(point.runs):
                yield {"policy": name, "rate": point.rate, "replication": replication} | run
