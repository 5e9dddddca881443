"""What `python -m real` does, by task."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.checks import InputError
from real.configuration import Settings
from real.profiling.profiler import Profiler
from real.serving.engine import check_context
from real.serving.run import Run
from real.serving.stage import budget_of, kv_tokens_for, load, profile_notes, shortened, warmed
from real.validation.report import plot_validation, print_validation
from real.validation.validation import Validation
from sim.cost.profile import Profile
from sim.output.progress import Progress
from sim.output.writing import Draft, make_folder, writing
from workloads.demand import counted
from workloads.requests import Requests
from workloads.reshape import scaled


def run_task(settings: Settings, folder: Path, console: Console) -> None:
    """Do what the settings ask for.

    Raises:
        InputError: if the input or the folder is one that a person must mend, or memory is full.
        KeyboardInterrupt: on Ctrl-C; its message says what was saved.
    """
    try:
        if settings.task == "run":
            Run(settings, folder)(console)
        elif settings.task == "profile":
            _profile(settings, folder, console)
        else:
            _validate(settings, folder, console)
    except (torch.OutOfMemoryError, MemoryError):
        raise InputError(
            f"task={settings.task}: the memory of device={settings.device} is full; give less, kv_tokens= or "
            "max_batch=, or choose a smaller model"
        ) from None


def _check_name(name: str, folder: Path) -> None:
    """Refuse, before anything is measured, a name under which the profile cannot be written."""
    if "/" in name or "\0" in name:
        raise InputError(f"model.name: the profile's file is named {name}.yaml, which is no file name; give another")
    file = folder / f"{name}.yaml"
    draft = Draft(file)
    with writing(file):
        draft.part.touch()
        draft.drop()


def _profile(settings: Settings, folder: Path, console: Console) -> None:
    """Measure what iterations take on this machine, and write it as a hardware file."""
    make_folder(folder)
    network = load(settings)
    name = f"{network.dimensions.name}_{network.device.type}"
    _check_name(name, folder)
    bench = warmed(settings, network)
    with Progress("profile", 0, unit="workloads") as progress:
        profiler = Profiler(
            bench.network,
            settings.policies,
            bench.measured(),
            bench.machine,
            settings.profile,
            memory_bytes=budget_of(settings, network),
            seed=settings.seed,
            on_step=progress.update,
        )
        progress.total = profiler.total
        try:
            profile = profiler.run(name)
        except KeyboardInterrupt:
            kept = profiler.write_partial(name, folder)
            said = f"what was measured is in {kept}" if kept else "nothing was measured"
            raise KeyboardInterrupt(f"interrupted: no profile was written, {said}") from None
    path = profiler.write(profile, folder)
    if profiler.left_out:
        console.print(
            Text(f"- memory does not hold {counted(profiler.left_out, 'shape')}: the largest were not measured")
        )
    console.print(Text(f"{profile.model} on {profile.machine}, {profile.dtype}, {profile.attention}"))
    console.print(_fits(profile))
    for doubt in profile.doubts():
        console.print(Text(f"WARNING: {doubt}"), soft_wrap=True)
    console.print(Text(f"Profile: {path}"), soft_wrap=True)
    console.print(Text(f"Simulate with it: python -m sim hardware={path} model={profile.model}"), soft_wrap=True)


def _validate(settings: Settings, folder: Path, console: Console) -> None:
    """Predict, measure, and say how far apart the two are."""
    profile = settings.hardware
    if not isinstance(profile, Profile):
        raise InputError("task=validate needs a profile: make one with task=profile, and give hardware=FILE.yaml")
    make_folder(folder)
    workloads = _workloads(settings)
    bench = warmed(settings, load(settings))
    for requests in workloads.values():
        check_context(requests, bench.network.dimensions)
    kv_tokens = kv_tokens_for(settings, bench.network, *workloads.values())
    for note in (*profile_notes(profile, bench.machine), *profile.doubts()):
        console.print(Text(f"- {note}"), soft_wrap=True)
    with Progress("validate", 100, unit="% of the measuring") as progress:
        validation = Validation(
            bench.network,
            settings.policies,
            profile,
            workloads,
            folder,
            kv_tokens=kv_tokens,
            options=settings.validate,
            seed=settings.seed,
            machine=bench.machine,
            on_round=lambda share: progress.update(int(100 * share)),
        )
        try:
            report = validation.run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted: what was measured is in {folder / 'validation.json'}") from None
    print_validation(console, report)
    picture = plot_validation(folder, report)
    console.print(Text(f"Results: {folder} (validation.json, {picture.name})"), soft_wrap=True)


def _workloads(settings: Settings) -> dict[str, Requests]:
    """Return the requests of the one or two workloads, by name."""
    workloads: dict[str, Requests] = {}
    for workload in (settings.workload, settings.second_workload):
        if workload is not None:
            requests = shortened(settings, scaled(workload.build(settings.seed), settings.length_scale))
            workloads[f"{requests.name} (second)" if requests.name in workloads else requests.name] = requests
    return workloads


def _fits(profile: Profile) -> Table:
    """Return how well every phase of every layout was met."""
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    table.add_column("layout", no_wrap=True)
    table.add_column("iterations that")
    for name in ("measured", "R\u00b2", "error of held-out time", "and of each"):
        table.add_column(name, justify="right")
    for costs in profile.layouts:
        for fit in costs.fits:
            shares = [_percent(value) for value in (fit.held_out_error, fit.held_out_spread)]
            r2 = "-" if fit.r2 is None else f"{fit.r2:.3f}"
            table.add_row(costs.layout, fit.phase, f"{fit.iterations:,}", r2, *shares)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}" if value < 0 else f"{value:.1%}"
