"""What `python -m sim` does, by task."""

from pathlib import Path

from rich.console import Console

from sim.configuration import Settings
from sim.overlay import Overlay
from sim.run import Run


def run_task(settings: Settings, folder: Path, console: Console) -> None:
    """Do what the settings ask for.

    Raises:
        InputError: if the input or the folder is one that a person must mend.
        KeyboardInterrupt: on Ctrl-C; its message says what was saved.
    """
    tasks = {"run": Run, "overlay": Overlay}
    tasks[settings.task](settings, folder)(console)
