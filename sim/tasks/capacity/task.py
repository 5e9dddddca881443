"""`task=capacity`: the highest arrival rate at which each policy meets the SLO."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sim.config.settings import Settings
from sim.output.folder import SUMMARY
from sim.output.parquet import write_rows
from sim.output.writing import write_summary
from sim.reporting.page import Page
from sim.reporting.table import Grid, heading
from sim.simulation.context import Context
from sim.tasks.capacity.page import capacity_page
from sim.tasks.capacity.picture import write_capacity_plot
from sim.tasks.capacity.results import Capacities, CapacitySearch, unit_draws
from sim.tasks.capacity.table import capacity_grid
from sim.tasks.options import CapacityTask, Objective
from sim.tasks.study import Study
from sim.tasks.trial import Trial


class CapacityStudy(Study):
    """The search for the capacity of every policy of the settings."""

    nothing = "the capacity of no policy was found, nothing was saved"

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        super().__init__(settings, folder)
        task, slo = settings.task, settings.slo
        assert isinstance(task, CapacityTask) and isinstance(slo, Objective)
        self._settings, self._task = settings, task
        draws = unit_draws(settings.workload, settings.slo, settings.seed, task.replications)
        self._trial = Trial(setting=settings, policies=settings.policies, draws=draws, warm_up=task.uncounted)
        self._search = CapacitySearch(self._trial, slo.attainment, task.precision, task.replications)

    @property
    def _capacities(self) -> Capacities:
        return self._search.capacities

    def _run_all(self) -> None:
        self._search()

    def _salvage(self) -> str | None:
        if not any(each.saturated for each in self._capacities.values()):
            return None
        self._capacities.notes = self._search.notes()
        self._write()
        return f"saved what was found ({', '.join(self._capacities)}) in {self._folder}"

    def _write(self) -> None:
        capacities = self._capacities
        summary = {
            "task": "capacity",
            "partial": len(capacities) < len(self._settings.policies),
            "capacity": {name: each.facts() for name, each in capacities.items()},
            **self._facts(),
            "notes": capacities.notes,
        }
        write_summary(self._folder / SUMMARY, summary)
        write_rows(self._folder / "capacity.parquet", _rows(capacities))

    def _facts(self) -> dict[str, Any]:
        task, slo = self._task, self._capacities.slo
        return {
            "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "attainment": self._capacities.attainment},
            "precision": task.precision,
            "replications": task.replications,
            "resampled": self._capacities.resampled,
            "warm_up_requests": self._trial.left_out,
            **self._trial.facts(arrivals=self._arrivals),
        }

    @property
    def _arrivals(self) -> str:
        """How requests arrive, at whatever rate."""
        arrivals = self._trial.draws.first.arrivals.replace("1 requests/s", "every rate that was tried")
        return f"{arrivals}, every rate that was tried" if arrivals.startswith("trace") else arrivals

    def _context(self) -> Context:
        return self._trial.context(arrivals=self._arrivals)

    def _draw(self) -> list[Path]:
        return [write_capacity_plot(self._folder, self._capacities)]

    def _page(self) -> Page:
        return capacity_page(self._capacities, self._context())

    def _heading(self) -> Iterable[str]:
        context, capacities = self._context(), self._capacities
        asked = f"{capacities.attainment:.2%} of requests have {capacities.limits}"
        yield f"{context.workload}: highest arrival rate at which {asked}"
        yield from list(heading(context))[1:]

    def _grid(self) -> Grid:
        return capacity_grid(self._capacities)

    def _caveats(self) -> Iterable[str]:
        return self._capacities.notes


def _rows(capacities: Capacities) -> Iterator[dict[str, Any]]:
    """Yield a row per policy, rate and replication of `capacity.parquet`: all its metrics."""
    for name, capacity in capacities.items():
        for tried in capacity.points:
            for replication, run in enumerate(tried.runs):
                yield {"policy": name, "rate": tried.rate, "replication": replication} | run
