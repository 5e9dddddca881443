"""The command line, `python -m real`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from real.configuration import read_settings
from sim.command_line import Program
from sim.configuration import Config


def serve(config: Config, policies: Mapping[str, Any], folder: Path) -> None:
    """Do what a configuration describes."""
    settings = read_settings(config, policies)

    from rich.console import Console

    from real.tasks import run_task

    run_task(settings, folder, Console())


main = Program("real", serve)

if __name__ == "__main__":
    main()
