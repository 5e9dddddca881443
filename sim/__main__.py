"""The command line, `python -m sim`: which task runs; what belongs to the others is not imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.command_line import Program
from sim.config.settings import Config, Settings, read_settings, study_of

if TYPE_CHECKING:
    from rich.console import Console


def simulate(config: Config, policies: Mapping[str, Any], folder: Path) -> None:
    """Do what a configuration describes."""
    settings = read_settings(config, policies)

    from rich.console import Console

    run_task(settings, folder, Console())


def run_task(settings: Settings, folder: Path, console: "Console") -> None:
    """Do what the settings ask for.

    Raises:
        InputError: if the input or the folder is one that a person must mend.
        KeyboardInterrupt: on Ctrl-C; its message says what was saved.
    """
    study_of(settings.task)(settings, folder)(console)


main = Program("config", simulate)

if __name__ == "__main__":
    main()
