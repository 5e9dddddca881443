"""A comparison repeated with common random numbers, for confidence intervals of its metrics and of its ratios."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim.config.settings import Settings
from sim.metrics.interval import CONFIDENCE, Interval, verdict
from sim.output.folder import SUMMARY
from sim.output.parquet import write_rows
from sim.output.writing import write_summary
from sim.reporting.page import Page
from sim.reporting.table import Grid
from sim.simulation.draws import Draws
from sim.tasks.options import RunTask
from sim.tasks.replications.page import replications_page
from sim.tasks.replications.picture import write_replication_plot
from sim.tasks.replications.results import Replicated, notes_on_replications, ratio_sentences, replicate
from sim.tasks.replications.table import replications_grid, replications_heading
from sim.tasks.study import Study
from sim.tasks.trial import Trial


class ReplicationStudy(Study):
    """Every policy of the settings, simulated on the requests of every replication."""

    nothing = "fewer than two replications were finished, nothing was saved"

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the first requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        super().__init__(settings, folder)
        assert isinstance(settings.task, RunTask) and settings.task.replications is not None
        self._total = settings.task.replications
        draws = Draws(settings.workload, settings.seed, self._total)
        self._trial = Trial(setting=settings, policies=settings.policies, draws=draws, warm_up=settings.task.uncounted)
        self._results = Replicated(settings.policies, draws.resampled)

    def _run_all(self) -> None:
        replicate(self._trial, self._total, self._results)

    def _salvage(self) -> str | None:
        if self._results.count < 2:
            return None
        self._results.notes = notes_on_replications(self._trial, self._results)
        self._write()
        return f"saved {self._results.count} of {self._total} replications in {self._folder}"

    def _write(self) -> None:
        results = self._results
        intervals = {
            name: {metric: _ends(results.interval(name, metric)) for metric in results.metrics()}
            for name in results.summaries
        }
        ratios = {
            f"{later}/{earlier}": {
                metric: _ends(ratio) | {"verdict": verdict(ratio)}
                for metric in results.metrics()
                if (ratio := results.ratio(later, earlier, metric)) is not None
            }
            for later, earlier in results.pairs
        }
        summary = {
            "partial": results.count < self._total,
            "policies": {
                name: {metric: ends["estimate"] for metric, ends in of.items()} for name, of in intervals.items()
            },
            "intervals": intervals,
            "ratios": ratios,
            **self._facts(),
            "notes": results.notes,
        }
        write_summary(self._folder / SUMMARY, summary)
        write_rows(self._folder / "replications.parquet", results.rows())

    def _facts(self) -> dict[str, Any]:
        return {
            "replications": self._results.count,
            "confidence": CONFIDENCE,
            "resampled": self._results.resampled,
            "warm_up_requests": self._trial.left_out,
            **self._trial.facts(),
        }

    def _draw(self) -> list[Path]:
        return [write_replication_plot(self._folder, self._results)]

    def _page(self) -> Page:
        return replications_page(self._results, self._trial.context())

    def _heading(self) -> Iterable[str]:
        return replications_heading(self._results, self._trial.context())

    def _grid(self) -> Grid:
        return replications_grid(self._results)

    def _sentences(self) -> Iterable[str]:
        return ratio_sentences(self._results)

    def _caveats(self) -> Iterable[str]:
        return self._results.notes


def _ends(interval: Interval | None) -> dict[str, Any]:
    """Return an interval for `summary.json`: nulls where it is not defined."""
    ends = {"estimate": None, "low": None, "high": None} if interval is None else asdict(interval)
    return {name: value if value is not None and math.isfinite(value) else None for name, value in ends.items()}
