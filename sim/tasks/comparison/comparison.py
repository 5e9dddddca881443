"""Several policies on the same requests, whatever runs them: their files, the summary, the pictures and the table."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from policies.checks import InputError
from policies.policy import Policy
from sim.config.settings import Compared
from sim.metrics.metrics import Summary
from sim.output.folder import SUMMARY
from sim.output.parquet import write_requests
from sim.output.vllm_bench import bench_summary
from sim.output.writing import make_folder, write_summary
from sim.reporting.caveats import warnings
from sim.reporting.labels import TIMED
from sim.reporting.page import Page
from sim.reporting.table import Grid, heading
from sim.simulation.context import Context
from sim.simulation.notes import notes_on, unserved
from sim.simulation.policy_failure import naming
from sim.simulation.prediction_interval import LEVEL, Intervals
from sim.simulation.results import Result
from sim.tasks.comparison.page import comparison_page
from sim.tasks.comparison.pictures import write_plots
from sim.tasks.comparison.table import comparison_rows
from sim.tasks.study import Study
from workloads.requests import Requests


class Comparison(Study):
    """Every policy on the same requests.

    One policy's files lie in the folder itself; of several, each has a subfolder, and those of all lie on top.
    """

    nothing = "no policy was finished, nothing was saved"

    def __init__(
        self,
        compared: Compared,
        requests: Requests,
        folder: Path,
        context: Context,
        facts: Mapping[str, Any],
    ) -> None:
        """Take what is compared, and on what.

        Args:
            compared: Policies and workload.
            requests: What the workload was built to.
            folder: Where files go.
            context: What the results are achieved on.
            facts: What else `summary.json` shall say, as JSON values.
        """
        super().__init__(compared, folder)
        self._requests = requests
        self._made_on = context
        self._more_facts = facts
        self._results: dict[str, Result] = {}
        self._intervals: Intervals | None = None
        self._notes = notes_on(compared.policies, requests)

    @abstractmethod
    def _run(self, name: str, policy: Policy, folder: Path) -> None:
        """Run a policy, write its log, and `_keep` the result.

        Raises:
            KeyboardInterrupt: on Ctrl-C; what was kept before is saved.
            InputError: if a person must mend something.
        """

    def _run_all(self) -> None:
        policies = self._compared.policies
        for name, policy in policies.items():
            folder = make_folder(self._folder / name) if len(policies) > 1 else self._folder
            with naming(name, policy):
                self._run(name, policy, folder)

    def _keep(self, name: str, result: Result, folder: Path) -> None:
        """Take the result of a policy whose log is written: write its other files, hold what pictures need."""
        write_requests(folder / "requests.parquet", result.columns)
        if self._compared.vllm_bench:
            bench = bench_summary(name, self._made_on.model, result.summary, result.columns, self._requests)
            write_summary(folder / "vllm_bench.json", bench)
        self._results[name] = replace(result, columns={each.column: result.columns[each.column] for each in TIMED})
        if folder != self._folder:
            self._summarise(folder, {name: result})

    def _write(self) -> None:
        self._summarise(self._folder, self._results)
        summaries = {name: result.summary for name, result in self._results.items()}
        if reason := unserved(summaries, self._requests, self._made_on.kv_tokens, self._compared.policies):
            raise InputError(reason)

    def _summarise(self, folder: Path, results: Mapping[str, Result]) -> None:
        """Write `summary.json` on some of the results."""
        missing = folder == self._folder and len(results) < len(self._compared.policies)
        summary = {
            "partial": missing or any(result.summary.get("partial") for result in results.values()),
            "policies": {name: result.summary for name, result in results.items()},
            **self._facts_of(results),
            "notes": [*self._notes, *warnings(self._summaries(results), self._context())],
        }
        write_summary(folder / SUMMARY, summary)

    def _facts(self) -> dict[str, Any]:
        return self._facts_of(self._results)

    def _facts_of(self, results: Mapping[str, Result]) -> dict[str, Any]:
        spread = {"interval": {"level": LEVEL, **asdict(self._intervals)}} if self._intervals else {}
        policies = {name: result.policy for name, result in results.items()}
        return self._context().facts(policies, **self._more_facts, **spread)

    def _summaries(self, results: Mapping[str, Result]) -> dict[str, Summary]:
        """Return the summaries, with the ends of their prediction intervals, where there are any, as more metrics."""
        ends = self._intervals.ends if self._intervals else lambda name: {}
        return {name: {**result.summary, **ends(name)} for name, result in results.items()}

    def _salvage(self) -> str | None:
        for name in self._compared.policies:
            with suppress(OSError):  # not empty: it holds results
                (self._folder / name).rmdir()
        if not self._results:
            return None
        self._summarise(self._folder, self._results)
        partial = [name for name, result in self._results.items() if result.summary.get("partial")]
        finished = [name for name in self._results if name not in partial]
        parts = [f"saved what was finished ({', '.join(finished)})"] if finished else []
        parts += [f"{'' if finished else 'saved '}the part of {', '.join(partial)} that was run"] if partial else []
        return f"{' and '.join(parts)} in {self._folder}"

    def _draw(self) -> list[Path]:
        return write_plots(self._folder, self._results)

    def _page(self) -> Page:
        summaries = self._summaries(self._results)
        outcomes = {name: replace(each, summary=summaries[name]) for name, each in self._results.items()}
        return comparison_page(outcomes, self._context())

    def _heading(self) -> Iterable[str]:
        return heading(self._context())

    def _grid(self) -> Grid:
        summaries = self._summaries(self._results)
        return Grid(summaries, comparison_rows(summaries, self._context()))

    def _caveats(self) -> list[str]:
        return [*self._notes, *warnings(self._summaries(self._results), self._context())]

    def _context(self) -> Context:
        return replace(self._made_on, notes=tuple(self._notes))
