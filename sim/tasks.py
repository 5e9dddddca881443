"""What `python -m sim` does, by task; what belongs to the others is not imported."""

from pathlib import Path

from rich.console import Console

from sim.configuration import Settings


def run_task(settings: Settings, folder: Path, console: Console) -> None:
    """Do what the settings ask for.

    Raises:
        InputError: if the input or the folder is one that a person must mend.
        KeyboardInterrupt: on Ctrl-C; its message says what was saved.
    """
    task = settings.task
    if task.task == "overlay":
        from sim.overlay import Overlay

        Overlay(settings, folder)(console)
    elif task.task == "capacity":
        from sim.capacity_planning import CapacityPlanning

        CapacityPlanning(settings, folder)(console)
    elif task.task == "claims":
        from sim.claims.task import run_claims

        run_claims(settings, folder, console)
    elif task.task == "explain":
        from sim.explanation import Explanation

        Explanation(settings, folder)(console)
    elif task.replications is not None:
        from sim.replication import Replication

        Replication(settings, folder)(console)
    else:
        from sim.run import Run

        Run(settings, folder)(console)
