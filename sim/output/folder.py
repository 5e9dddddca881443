"""The folder of a run: what an earlier one left goes first, and what was finished is saved at Ctrl-C."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from policies.checks import InputError
from sim.output.writing import writing
from workloads.requests import Workload

POINT = "point.json"
"""What became of a point, in its folder."""

SUMMARY = "summary.json"

LEFT = (
    SUMMARY, "requests.parquet", "iterations.parquet", "timeline.json", "vllm_bench.json", "report.html",
    "comparison.png", "latency_cdf.png", "throughput.png", "idle_time.png", "occupancy.png", "generated.parquet",
    "replications.parquet", "replications.png", "capacity.parquet", "capacity.png", "explanation.png", "overlay.json",
    "overlay.png", POINT,
)  # fmt: skip
"""Names of all files that a run leaves in its folder, or in the subfolder of a policy."""


def clear(folder: Path, workload: Workload, console: Console) -> None:
    """Remove what an earlier run left, and say so.

    Only files of these names go, only from a folder whose summary is one of ours and from such subfolders of it, and
    never one that the workload names. Profiles, validations, claims and whatever else lies there stay.

    Args:
        folder: Where a run is about to write.
        workload: What it reads.
        console: Where to say so.

    Raises:
        InputError: if a file cannot be removed.
    """
    read = [
        Path(value).expanduser().absolute()
        for value in vars(workload).values()
        if isinstance(value, str | Path) and value
    ]
    if not _is_ours(folder):
        return
    for place in (folder, *filter(_is_ours, folder.iterdir())):
        for path in (place / name for name in (*LEFT[1:], SUMMARY)):  # last, for it is what tells that they are ours
            if path.absolute() not in read:
                with writing(path):
                    path.unlink(missing_ok=True)
        if place != folder and not any(place.iterdir()):
            place.rmdir()
    console.print(Text(f"Removed from {folder}: the results of an earlier run"), soft_wrap=not console.is_terminal)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds the summary of a run of this program."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"partial", "version", "notes"} <= summary.keys()


@contextmanager
def salvaging(save: Callable[[], str | None], nothing: str) -> Iterator[None]:
    """Save what was finished when a person interrupts, or must mend something.

    Args:
        save: Writes what there is and says so in words; None if there is nothing.
        nothing: What is said of that.

    Raises:
        InputError: As raised within, with what was saved.
        KeyboardInterrupt: As raised within; the message says what was saved.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {save() or nothing}") from None
    except InputError as error:
        saved = save()
        raise (InputError(f"{error}; {saved}") if saved else error) from error.__cause__
