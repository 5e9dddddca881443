"""One run of the command line: settings in, files and a table out."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from policies.errors import InputError
from policies.ledger import IllegalPlan
from sim import __version__
from sim.configuration import Settings
from sim.log import Slice
from sim.plots import write_plots
from sim.progress import Progress
from sim.results import IterationWriter, make_folder, write_requests, write_summary
from sim.simulation import Result, Simulation
from sim.table import Context, print_table
from sim.timeline import Timeline

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
"""The columns that pictures need; the others of a finished policy are on disk and leave memory."""


class Interrupted(Exception):
    """The user stopped the run; the message says what was saved."""


class Run:
    """Every policy of the settings on the same requests.

    One policy's files lie in the folder itself; of several, each has a subfolder, and those of all lie on top.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        self._settings = settings
        self._folder = make_folder(folder)
        self._requests = settings.workload.build(settings.seed)
        self._results: dict[str, Result] = {}
        self._notes = [*self._requests.notes, *self._order_notes(), *self._reservation_notes()]

    def __call__(self, console: Console) -> None:
        """Simulate, write the results and print the table.

        Raises:
            InputError: if a file cannot be written.
            Interrupted: on Ctrl-C; policies that were finished are saved.
        """
        names = list(self._settings.policies)
        try:
            for name in names:
                folder = make_folder(self._folder / name) if len(names) > 1 else self._folder
                self._results[name] = self._simulate(name, folder)
            self._summarise(self._folder, self._results)
            pictures = write_plots(self._folder, self._results)
        except KeyboardInterrupt:
            raise Interrupted(self._salvage()) from None
        summaries = {name: result.summary for name, result in self._results.items()}
        print_table(console, summaries, self._context(pictures))

    def _simulate(self, name: str, folder: Path) -> Result:
        """Simulate one policy and write its files; return what pictures need of its result."""
        settings, requests = self._settings, self._requests
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(name, len(requests)))
            timeline = stack.enter_context(Timeline(folder / "timeline.json")) if settings.timeline else None
            log = stack.enter_context(IterationWriter(folder / "iterations.parquet"))

            def show(records: Slice) -> None:
                progress.update(simulation.answers.finished, float(records["start_s"][-1]))

            simulation = Simulation(
                requests,
                settings.policies[name],
                settings.hardware,
                settings.model,
                kv_tokens=settings.kv_tokens,
                slo=settings.slo,
                stretch=settings.stretch,
                sinks=[log, *([timeline] if timeline else []), show],
            )
            try:
                result = simulation.run()
            except IllegalPlan as refusal:
                raise InputError(f"policy {name}: the ledger refused its plan: {refusal}") from None
            if timeline:
                timeline.close(requests, simulation.answers)
                self._notes += [f"{name}: {note}" for note in timeline.notes]
        write_requests(folder / "requests.parquet", result.columns)
        if folder != self._folder:
            self._summarise(folder, {name: result})
        return replace(result, columns={column: result.columns[column] for column in LATENCIES})

    def _summarise(self, folder: Path, results: dict[str, Result]) -> None:
        settings, requests = self._settings, self._requests
        summary = {
            "policies": {name: result.summary for name, result in results.items()},
            "workload": requests.name,
            "hardware": settings.hardware.name,
            "model": settings.model.name,
            "seed": settings.seed,
            "version": __version__,
            "num_requests": len(requests),
            "arrivals": requests.arrivals,
            "max_new_tokens": requests.declared,
            "kv_tokens": settings.kv_tokens,
            "options": {name: asdict(result.policy) for name, result in results.items()},
            "notes": self._notes,
        }
        write_summary(folder / "summary.json", summary)

    def _salvage(self) -> str:
        """Write the summary of the policies that are finished; return what was saved, in words."""
        for name in self._settings.policies:
            with suppress(OSError):  # not empty: finished
                (self._folder / name).rmdir()
        if not self._results:
            return "interrupted: no policy was finished, nothing was saved"
        self._summarise(self._folder, self._results)
        return f"interrupted: saved what was finished ({', '.join(self._results)}) in {self._folder}"

    def _order_notes(self) -> Iterator[str]:
        """Yield sentences on queue orders that this workload leaves without effect."""
        requests = self._requests
        for name, policy in self._settings.policies.items():
            declared, priority = (np.ptp(column) > 0 for column in (requests.max_new_tokens, requests.priority))
            if policy.order == "sjf" and policy.predictor == "declared" and not declared:
                yield f"{name}: all requests declare the same max_new_tokens: sjf orders them by prompt length alone"
            if policy.order == "priority" and not priority:
                yield f"{name}: all requests have the same priority: they are served in order of arrival"

    def _reservation_notes(self) -> Iterator[str]:
        """Yield a sentence if the policies do not promise memory to their requests in the same way."""
        all_traits = {name: policy.traits for name, policy in self._settings.policies.items()}
        as_needed = [
            name for name, traits in all_traits.items() if traits.memory == "paged" or traits.reserve == "window"
        ]
        if as_needed and len(as_needed) < len(all_traits):
            yield (
                f"{', '.join(as_needed)}: KV memory is taken as answers grow; "
                "the other policies reserve prompt + max_new_tokens for each request"
            )

    def _context(self, pictures: list[Path]) -> Context:
        settings, requests = self._settings, self._requests
        longest = settings.model.max_positions
        return Context(
            workload=requests.name,
            requests=len(requests),
            arrivals=requests.arrivals,
            declared=requests.declared,
            hardware=settings.hardware.name,
            model=settings.model.name,
            kv_tokens=settings.kv_tokens,
            max_positions=longest,
            too_long=int(np.count_nonzero(requests.prompt_tokens + requests.output_tokens > longest)),
            seed=settings.seed,
            notes=tuple(self._notes),
            folder=self._folder,
            pictures=tuple(path.name for path in pictures),
        )
