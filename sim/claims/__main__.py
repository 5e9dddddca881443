"""The command line, `python -m sim.claims`: what `python -m real` measured, as a file to commit."""

import argparse
import sys
from pathlib import Path

from policies.checks import InputError
from sim.claims.collect import collect
from sim.claims.measurement import Measured, write


def main() -> None:
    """Gather what was measured on one machine into one file."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.claims",
        description="Gathers what python -m real left, of runs and of task=validate, into one file that task=claims "
        "reads: sim/claims/measured/NAME.json, or measured=FILE.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="where python -m real left results")
    parser.add_argument("--out", type=Path, required=True, help="the file, one for each machine and model")
    given = parser.parse_args()
    try:
        found = merged(collect(given.folders))
        write(given.out, found)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{given.out}: {len(found.results)} results of {found.machine.model} on {found.machine.machine}")


def merged(found: list[Measured]) -> Measured:
    """Return what was measured on one machine as one.

    Raises:
        InputError: if it was measured on several.
    """
    first = found[0].machine
    for one in found:
        if one.machine != first:
            raise InputError(
                f"{one.machine.network} on {one.machine.place} did not run as {first.network} on {first.place}: "
                "write a file for each"
            )
    return Measured(
        machine=first,
        date=max(one.date for one in found),
        commands=list(dict.fromkeys(command for one in found for command in one.commands)),
        results=[result for one in found for result in one.results],
    )


if __name__ == "__main__":
    main()
