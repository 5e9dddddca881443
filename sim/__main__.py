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

    if settings.task == "claims":
        from sim.claims.task import run_claims

        return run_claims(settings, folder, Console())

    from sim.run import Run

    Run(settings, folder)(Console())


main = Program("config", simulate)

if __name__ == "__main__":
    main()
