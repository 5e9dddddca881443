"""One run of `python -m sim`: settings in, files and a table out."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from policies.policy import Policy
from sim.config.settings import Settings
from sim.cost.kernels.calibrated import Calibrated
from sim.engine.iteration_log import Slice
from sim.metrics.metrics import Summary
from sim.output.parquet import IterationWriter
from sim.output.progress import Progress
from sim.output.timeline import Timeline
from sim.simulation.context import context_on
from sim.simulation.execution import setting_facts
from sim.simulation.notes import extrapolation_notes, setting_notes
from sim.simulation.prediction_interval import DRAWS, drawn, intervals, require_errors
from sim.simulation.simulation import Simulation
from sim.tasks.comparison.comparison import Comparison
from workloads.streams import stream


class Run(Comparison):
    """Every policy of the settings, simulated on the same requests."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        self._calibrated = require_errors(settings.hardware) if settings.interval else None
        requests = settings.workload.build(settings.seed)
        super().__init__(
            settings, requests, folder, context_on(settings, requests, settings.seed), setting_facts(settings)
        )
        self._settings = settings
        self._draws: dict[str, list[Summary]] = {}
        self._notes = setting_notes(settings, settings.policies, requests)

    def _run(self, name: str, policy: Policy, folder: Path) -> None:
        """Simulate a policy and write its files."""
        settings, requests = self._settings, self._requests
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(name, len(requests)))
            timeline = stack.enter_context(Timeline(folder / "timeline.json")) if settings.timeline else None
            log = stack.enter_context(IterationWriter(folder / "iterations.parquet"))

            def show(records: Slice) -> None:
                progress.update(simulation.request_log.finished, float(records["start_s"][-1]))

            simulation = Simulation(requests, policy, settings, sinks=[log, *([timeline] if timeline else []), show])
            extrapolated = extrapolation_notes(settings.hardware, simulation.extrapolated)
            self._notes += [note for note in extrapolated if note not in self._notes]
            result = simulation.run()
            if timeline:
                timeline.close(requests, simulation.request_log)
                self._notes += [f"{name}: {note}" for note in timeline.notes]
        if self._calibrated:
            self._draws[name] = self._possible(self._calibrated, name, policy)
            self._intervals = intervals(self._draws)
        self._keep(name, result, folder)

    def _possible(self, hardware: Calibrated, name: str, policy: Policy) -> list[Summary]:
        """Simulate a policy on hardware as it may truly be, the same for every policy."""
        settings, summaries = self._settings, []
        with Progress(f"{name}, interval", DRAWS, unit="simulations") as progress:
            for number in range(DRAWS):
                truth = drawn(hardware, stream(settings.seed, f"interval {number}"))
                possible = replace(settings, hardware=truth, engine=truth.engine)
                summaries.append(Simulation(self._requests, policy, possible).run().summary)
                progress.update(number + 1)
        return summaries
