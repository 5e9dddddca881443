"""Several policies on the same requests, whatever runs them: their files, the summary, the pictures and the table."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from policies.checks import InputError
from policies.policy import Policy
from sim.config.settings import Compared
from sim.cost.model import Model
from sim.output.folder import clear, salvaging
from sim.output.parquet import write_requests
from sim.output.vllm_bench import bench_summary
from sim.output.writing import make_folder, write_summary
from sim.reporting.table import print_table, warnings
from sim.simulation.context import Context, context_of
from sim.simulation.notes import notes_on, unserved
from sim.simulation.policy_failure import naming
from sim.simulation.prediction_interval import LEVEL, Intervals
from sim.simulation.simulation import Result
from sim.tasks.comparison.page import write_report
from sim.tasks.comparison.pictures import write_plots
from workloads.requests import Requests

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
"""The columns that pictures need; the others of a finished policy are on disk and leave memory."""


class Comparison(ABC):
    """Every policy on the same requests.

    One policy's files lie in the folder itself; of several, each has a subfolder, and those of all lie on top.
    """

    def __init__(
        self,
        compared: Compared,
        requests: Requests,
        folder: Path,
        *,
        hardware: str,
        model: Model,
        kv_tokens: int,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Take what is compared, and on what.

        Args:
            compared: Policies and workload.
            requests: What the workload was built to.
            folder: Where files go; it exists.
            hardware: Name of the device.
            model: The model on it.
            kv_tokens: KV memory of a device, in tokens.
            facts: What else `summary.json` shall say, as JSON values.
        """
        self._compared = compared
        self._requests = requests
        self._folder = folder
        self._hardware = hardware
        self._model = model
        self._kv_tokens = kv_tokens
        self._more_facts = facts or {}
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

    def __call__(self, console: Console) -> None:
        """Run, write the results in place of an earlier run's, and print the table.

        Raises:
            InputError: if a file cannot be written, a policy cannot be run, or none served any request; what was
                finished is saved.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        clear(self._folder, self._compared.workload, console)
        names = list(self._compared.policies)
        with salvaging(self._salvage, "no policy was finished, nothing was saved"):
            for name, policy in self._compared.policies.items():
                folder = make_folder(self._folder / name) if len(names) > 1 else self._folder
                self._run_legally(name, policy, folder)
            self._summarise(self._folder, self._results)
            self._refuse_nothing()
            pictures = write_plots(self._folder, self._results) if self._compared.pictures else []
            if self._compared.report:
                pictures.append(self._report(self._context(pictures)))
        self._print(console, pictures)

    def _report(self, context: Context) -> Path:
        """Write the page of the comparison; return its path."""
        shown, facts = self._shown(self._results), self._facts(self._results)
        return write_report(self._folder / "report.html", shown, context, facts, *self._beside())

    def _beside(self) -> tuple[list[str], list[str]]:
        """Return the tables and the charts that the page shows before those of the prediction, as HTML."""
        return [], []

    def _refuse_nothing(self) -> None:
        """Say in one line that nobody was served by any policy: there is nothing to show."""
        summaries = {name: result.summary for name, result in self._results.items()}
        if reason := unserved(summaries, self._requests, self._kv_tokens, self._compared.policies):
            raise InputError(reason)

    def _run_legally(self, name: str, policy: Policy, folder: Path) -> None:
        with naming(name, policy):
            self._run(name, policy, folder)

    def _keep(self, name: str, result: Result, folder: Path) -> None:
        """Take the result of a policy whose log is written: write its other files, hold what pictures need."""
        write_requests(folder / "requests.parquet", result.columns)
        if self._compared.vllm_bench:
            bench = bench_summary(name, self._model.name, result.summary, result.columns, self._requests)
            write_summary(folder / "vllm_bench.json", bench)
        self._results[name] = replace(result, columns={column: result.columns[column] for column in LATENCIES})
        if folder != self._folder:
            self._summarise(folder, {name: result})

    def _summarise(self, folder: Path, results: Mapping[str, Result]) -> None:
        missing = folder == self._folder and len(results) < len(self._compared.policies)
        write_summary(folder / "summary.json", self._facts(results, missing))

    def _facts(self, results: Mapping[str, Result], missing: bool = False) -> dict[str, Any]:
        """Return what `summary.json` says."""
        context, shown = self._context([]), self._shown(results)
        spread = {"interval": {"level": LEVEL, **asdict(self._intervals)}} if self._intervals else {}
        return {
            "partial": missing or any(result.summary.get("partial") for result in results.values()),
            "policies": {name: result.summary for name, result in results.items()},
            **context.facts({name: each.policy for name, each in results.items()}, **self._more_facts, **spread),
            "notes": [*self._notes, *warnings({name: each.summary for name, each in shown.items()}, context)],
        }

    def _shown(self, results: Mapping[str, Result]) -> dict[str, Result]:
        """Return the results with the ends of their prediction intervals, where there are any, as more metrics."""
        known = self._intervals
        if known is None:
            return dict(results)
        return {name: replace(each, summary={**each.summary, **known.ends(name)}) for name, each in results.items()}

    def _salvage(self) -> str | None:
        """Write the summary of what there is; return what was saved, in words; None if nothing."""
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

    def _print(self, console: Console, pictures: list[Path]) -> None:
        summaries = {name: result.summary for name, result in self._shown(self._results).items()}
        print_table(console, summaries, self._context(pictures))

    def _context(self, pictures: list[Path]) -> Context:
        return context_of(
            self._requests,
            self._model,
            hardware=self._hardware,
            kv_tokens=self._kv_tokens,
            engine=self._more_facts.get("engine"),
            seed=self._compared.seed,
            notes=tuple(self._notes),
            folder=self._folder,
            pictures=tuple(path.name for path in pictures),
        )
