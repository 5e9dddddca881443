"""The command line, `python -m sim`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.command_line import Program
from sim.configuration import Config, read_settings


def simulate(config: Config, policies: Mapping[str, Any], folder: Path) -> None:
    """Do what a configuration describes."""
    settings = read_settings(config, policies)

    from rich.console import Console

    from sim.tasks import run_task

    run_task(settings, folder, Console())


main = Program("config", simulate)

if __name__ == "__main__":
    main()
