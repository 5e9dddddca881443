"""What `python -m sim` does, by task."""

from pathlib import Path

from rich.console import Console

from sim.capacity_planning import CapacityPlanning
from sim.claims.task import run_claims
from sim.configuration import Settings
from sim.explanation import Explanation
from sim.overlay import Overlay
from sim.replication import Replication
from sim.run import Run


def run_task(settings: Settings, folder: Path, console: Console) -> None:
    """Do what the settings ask for.

    Raises:
        InputError: if the input or the folder is one that a person must mend.
        KeyboardInterrupt: on Ctrl-C; its message says what was saved.
    """
    task = settings.task
    if task.task == "overlay":
        Overlay(settings, folder)(console)
    elif task.task == "capacity":
        CapacityPlanning(settings, folder)(console)
    elif task.task == "claims":
        run_claims(settings, folder, console)
    elif task.task == "explain":
        Explanation(settings, folder)(console)
    elif task.replications is not None:
        Replication(settings, folder)(console)
    else:
        Run(settings, folder)(console)
