"""task=run: every policy on the same model and requests; settings in, files and a table out."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from policies.checks import InputError
from policies.policy import Policy
from real.configuration import Settings
from real.model.errors import NonFinite
from real.serving.device_times import add_device_times
from real.serving.generated import write_generated
from real.serving.serving import Serving
from real.serving.stage import set_up
from sim.cost.model import Model
from sim.output.parquet import IterationWriter
from sim.output.progress import Progress, duration
from sim.output.timeline import Timeline
from sim.output.writing import make_folder
from sim.tasks.comparison.comparison import Comparison
from workloads.demand import counted


class Run(Comparison):
    """Every policy of the settings, served by the same model."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and the network, and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        make_folder(folder)
        stage = set_up(settings)
        super().__init__(
            settings,
            stage.requests,
            folder,
            hardware=stage.hardware.name,
            model=stage.network.dimensions,
            kv_tokens=stage.kv_tokens,
            facts={**asdict(stage.machine), "time_scale": settings.time_scale},
        )
        self._settings = settings
        self._stage = stage

    def _run(self, name: str, policy: Policy, folder: Path) -> None:
        """Serve the requests and write a policy's files, also when it is stopped half-way."""
        stage, settings = self._stage, self._settings
        stopped: BaseException | None = None
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(name, len(stage.requests)))
            timeline = stack.enter_context(Timeline(folder / "timeline.json")) if settings.timeline else None
            log = stack.enter_context(IterationWriter(folder / "iterations.parquet"))
            serving = Serving(
                stage.requests,
                policy,
                stage.network,
                stage.prompts,
                stage.hardware,
                kv_tokens=stage.kv_tokens,
                slo=settings.slo,
                time_scale=settings.time_scale,
                stop_at_end_token=not isinstance(settings.model, Model),
                sinks=[log, *([timeline] if timeline else [])],
                on_step=lambda finished, tokens, now: progress.update(
                    finished, now, tokens, _recorded(*serving.recorded)
                ),
            )
            try:
                serving.run()
            except (KeyboardInterrupt, NonFinite, torch.OutOfMemoryError) as error:
                stopped = error
            if timeline:
                timeline.close(serving.served, serving.request_log)
                self._notes += [f"{name}: {note}" for note in timeline.notes]
        add_device_times(folder / "iterations.parquet", serving.device_s)
        if serving.recorded[0]:
            self._notes.append(f"{name}: {_recorded(*serving.recorded)}, while the clock stood still")
        result = serving.result()
        if stopped is not None:
            result.summary["partial"] = True
        tokenizer = stage.network.tokenizer
        write_generated(folder / "generated.parquet", len(stage.requests), serving.generated, tokenizer)
        self._keep(name, result, folder)
        if isinstance(stopped, torch.OutOfMemoryError):
            raise InputError(f"policy {name}: the GPU's memory is full; give less, kv_tokens= or memory_bytes=")
        if stopped is not None:
            raise stopped


def _recorded(count: int, seconds: float) -> str:
    """Return in words what was recorded, nothing if nothing was."""
    return f"{counted(count, 'shape')} of decode steps recorded in {duration(seconds)}" if count else ""
