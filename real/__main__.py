"""The command line, `python -m real`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from real.configuration import read_settings
from sim.cli.command_line import Program
from sim.config.settings import Config


def serve(config: Config, policies: Mapping[str, Any], folder: Path) -> None:
    """Do what a configuration describes."""
    settings = read_settings(config, policies)

    from rich.console import Console

    from real.tasks import run_task

    run_task(settings, folder, Console())


main = Program("real", serve)

if __name__ == "__main__":
    main()
