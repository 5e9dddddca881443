"""A command line, run in this process, and what it leaves."""

import json
import sys
from pathlib import Path
from typing import Any

from sim.__main__ import main
from sim.cli.command_line import Program


def sim(*arguments: str) -> int:
    """Run `python -m sim` here and return its exit code."""
    return run_here(main, *arguments)


def run_here(program: Program, *arguments: str) -> int:
    """Run a command line here and return its exit code."""
    given = sys.argv
    sys.argv = ["program", *arguments]
    try:
        program()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = given
    return 0


def files(folder: Path) -> set[str]:
    """Return the files in a folder and below, Hydra's own left out."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts
    }


def summary(folder: Path) -> dict[str, Any]:
    """Return what a run summed up."""
    return dict(json.loads((folder / "summary.json").read_text()))
