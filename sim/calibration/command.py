"""What the command lines of a calibration share: the data folder, files of conf/ by name, and how errors are told."""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from policies.checks import InputError
from sim.config.settings import build


def parser(module: str, does: str | None, needs: str) -> ArgumentParser:
    """Return the parser of a command line whose first argument is the data folder.

    Args:
        module: What `python -m` is given.
        does: What it does, in a sentence.
        needs: What of the data folder it needs.
    """
    made = ArgumentParser(prog=f"python -m {module}", description=does)
    made.add_argument("data", type=Path, help=f"the data folder, which holds {needs}")
    return made


@contextmanager
def complaints() -> Iterator[None]:
    """End the program in one line at what a person can mend, with exit code 2, and at Ctrl-C, with 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; give another path", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: files that were named above are written", file=sys.stderr)
        sys.exit(130)


CONF = Path(str(files("conf")))


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as Hydra does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_named(group: str, name: str) -> Any:
    """Return an object of conf/.

    Raises:
        InputError: There is none of that name, or it cannot be built.
    """
    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"{group}={name}: there is no {path}")
    return build(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader), group)
