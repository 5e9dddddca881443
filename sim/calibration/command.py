"""What the command lines of a calibration share: the data folder, and how what is wrong is told."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policies.errors import InputError


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
