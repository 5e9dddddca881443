"""Several policies on the same requests, whatever runs them: their files, the summary, the pictures and the table."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from policies.errors import InputError
from policies.policy import Policy
from sim import __version__
from sim.configuration import Compared
from sim.model import Model
from sim.plots import write_plots
from sim.policy_failure import naming
from sim.prediction_interval import LEVEL, Intervals
from sim.report import write_report
from sim.results import make_folder, write_requests, write_summary
from sim.simulation import Result
from sim.table import Context, print_table, warnings
from sim.unserved import unserved
from sim.vllm_bench import bench_summary
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
        self._notes = notes_on(compared, requests)

    @abstractmethod
    def _run(self, name: str, policy: Policy, folder: Path) -> None:
        """Run a policy, write its log, and `_keep` the result.

        Raises:
            KeyboardInterrupt: on Ctrl-C; what was kept before is saved.
            InputError: if a person must mend something.
        """

    def __call__(self, console: Console) -> None:
        """Run, write the results and print the table.

        Raises:
            InputError: if a file cannot be written, a policy cannot be run, or none served any request; what was
                finished is saved.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        names = list(self._compared.policies)
        try:
            for name, policy in self._compared.policies.items():
                folder = make_folder(self._folder / name) if len(names) > 1 else self._folder
                self._run_legally(name, policy, folder)
            self._summarise(self._folder, self._results)
            self._refuse_nothing()
            pictures = write_plots(self._folder, self._results) if self._compared.pictures else []
            if self._compared.report:
                page = self._folder / "report.html"
                pictures.append(write_report(page, self._results, self._context(pictures), self._facts(self._results)))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted: {self._salvage()}") from None
        except InputError as error:
            saved = self._salvage()
            raise (InputError(f"{error}; {saved}") if self._results else error) from error.__cause__
        self._print(console, pictures)

    def _refuse_nothing(self) -> None:
        """Say in one line that nobody was served by any policy: there is nothing to show."""
        summaries = {name: result.summary for name, result in self._results.items()}
        if reason := unserved(summaries, self._requests, self._kv_tokens):
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
        requests = self._requests
        return {
            "partial": missing or any(result.summary.get("partial") for result in results.values()),
            "policies": {name: result.summary for name, result in results.items()},
            "workload": requests.name,
            "hardware": self._hardware,
            "model": self._model.name,
            "seed": self._compared.seed,
            "version": __version__,
            "num_requests": len(requests),
            "arrivals": requests.arrivals,
            "max_new_tokens": requests.declared,
            "kv_tokens": self._kv_tokens,
            **self._more_facts,
            **({"interval": {"level": LEVEL, **asdict(self._intervals)}} if self._intervals else {}),
            "options": {name: asdict(result.policy) for name, result in results.items()},
            "notes": [
                *self._notes,
                *warnings({name: each.summary for name, each in results.items()}, self._context([])),
            ],
        }

    def _salvage(self) -> str:
        """Write the summary of what there is; return what was saved, in words."""
        for name in self._compared.policies:
            with suppress(OSError):  # not empty: it holds results
                (self._folder / name).rmdir()
        if not self._results:
            return "no policy was finished, nothing was saved"
        self._summarise(self._folder, self._results)
        partial = [name for name, result in self._results.items() if result.summary.get("partial")]
        finished = [name for name in self._results if name not in partial]
        parts = [f"saved what was finished ({', '.join(finished)})"] if finished else []
        parts += [f"{'' if finished else 'saved '}the part of {', '.join(partial)} that was run"] if partial else []
        return f"{' and '.join(parts)} in {self._folder}"

    def _print(self, console: Console, pictures: list[Path]) -> None:
        summaries = {name: result.summary for name, result in self._results.items()}
        if self._intervals:
            summaries = {name: {**summary, **self._intervals.ends(name)} for name, summary in summaries.items()}
        print_table(console, summaries, self._context(pictures))

    def _context(self, pictures: list[Path]) -> Context:
        requests, longest = self._requests, self._model.max_positions
        return Context(
            workload=requests.name,
            requests=len(requests),
            arrivals=requests.arrivals,
            declared=requests.declared,
            hardware=self._hardware,
            engine=self._more_facts.get("engine"),
            model=self._model.name,
            kv_tokens=self._kv_tokens,
            max_positions=longest,
            too_long=int(np.count_nonzero(requests.prompt_tokens + requests.output_tokens > longest)),
            seed=self._compared.seed,
            notes=tuple(self._notes),
            folder=self._folder,
            pictures=tuple(path.name for path in pictures),
        )


def notes_on(compared: Compared, requests: Requests) -> list[str]:
    """Return sentences on the requests, and on what policies make of them."""
    sharing, order = _sharing_notes(compared, requests), _order_notes(compared, requests)
    return [*requests.notes, *sharing, *order, *_reservation_notes(compared)]


def _sharing_notes(compared: Compared, requests: Requests) -> Iterator[str]:
    """Yield a sentence if prompts share prefixes and not every policy finds their KV again."""
    blind = [name for name, policy in compared.policies.items() if not policy.traits.finds_prefixes]
    if blind and requests.share_prefixes:
        yield f"{', '.join(blind)}: prefix sharing is not modelled: every prompt is prefilled whole"


def _order_notes(compared: Compared, requests: Requests) -> Iterator[str]:
    """Yield sentences on queue orders that this workload leaves without effect."""
    declared, priority = (np.ptp(column) > 0 for column in (requests.max_new_tokens, requests.priority))
    for name, policy in compared.policies.items():
        if policy.order == "sjf" and policy.predictor == "declared" and not declared:
            yield f"{name}: all requests declare the same max_new_tokens: sjf orders them by prompt length alone"
        if policy.order == "priority" and not priority:
            yield f"{name}: all requests have the same priority: they are served in order of arrival"


def _reservation_notes(compared: Compared) -> Iterator[str]:
    """Yield a sentence if the policies do not promise memory to their requests in the same way."""
    all_traits = {name: policy.traits for name, policy in compared.policies.items()}
    as_needed = [
        name
        for name, traits in all_traits.items()
        if traits.memory in ("paged", "prefix_cache") or traits.reserve == "window"
    ]
    if as_needed and len(as_needed) < len(all_traits):
        yield (
            f"{', '.join(as_needed)}: KV memory is taken as answers grow; "
            "the other policies reserve prompt + max_new_tokens for each request"
        )
