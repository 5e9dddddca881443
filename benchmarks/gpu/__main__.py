"""Everything on one GPU in one go: `python -m benchmarks.gpu`, or `make gpu`; see docs/gpu.md.

python -m benchmarks.gpu --quick                                          three minutes: does it work, where is the time
python -m benchmarks.gpu                                                  seven minutes: is BATON worth what it claims
python -m benchmarks.gpu --device cpu --models tiny_llama --rehearse      the same code, rehearsed without a GPU
"""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.gpu.claims import write_claims
from benchmarks.gpu.findings import Findings
from benchmarks.interruption import Interruption
from benchmarks.rounds import in_one_line
from policies.checks import InputError

BUDGET_S, QUICK_BUDGET_S = 430.0, 200.0
MODEL = "llama2_7b"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; default cuda")
    parser.add_argument("--model", "--models", default=MODEL, help="of conf/model, random weights; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="the quick plan instead of the full one")
    parser.add_argument("--rehearse", action="store_true", help="as little of everything as shows that it runs")
    parser.add_argument(
        "--budget",
        type=float,
        help=f"seconds in all, from the start of the process; default {BUDGET_S:g}, with --quick {QUICK_BUDGET_S:g}",
    )
    parser.add_argument("--folder", type=Path, help="where the files go; default outputs/gpu/DATE_TIME")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print the table; return the exit code."""
    told = sys.argv[1:] if given is None else given
    options = arguments(told)
    start = time.perf_counter() - (process_age_s() if given is None else 0.0)
    interruption = Interruption()
    if given is None:
        interruption.listen()
    now = datetime.now().astimezone()
    findings = Findings(
        options.folder or Path("outputs/gpu") / now.strftime("%Y-%m-%d_%H-%M-%S"),
        {
            "command": shlex.join(["python", "-m", "benchmarks.gpu", *told]),
            "date": now.isoformat(timespec="seconds"),
            "model": options.model,
        },
        interruption,
    )

    def tell(said: str) -> None:
        line = f"{time.perf_counter() - start:4.0f} s  {said}"
        findings.found["log"].append(line)
        print(line, flush=True)

    code = 0
    try:
        budget = budget_of(options)
        options.times = max(1, int(budget / BUDGET_S))
        from benchmarks.gpu.plan import measure  # torch comes with it, which takes a while

        interruption.check()
        measure(options, findings, start + budget, tell)
        findings.found["complete"] = True
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BaseException as error:  # an interrupt among imports can come as whatever the library makes of it
        if not interruption.wanted and not isinstance(error, KeyboardInterrupt):
            raise
        findings.found["interrupted"] = "what is not here was not measured"
        code = 130
    interruption.over()
    return finish(findings, tell, code)


def budget_of(options: argparse.Namespace) -> float:
    """Return how many seconds there are in all.

    Raises:
        InputError: None.
    """
    if options.budget is not None and not 0 < options.budget < math.inf:
        raise InputError(f"--budget {options.budget:g}: give seconds, more than 0")
    return options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)


OLDEST_S = 120.0
"""Seconds that importing may take; a sandbox may tell the age of the system instead."""


def process_age_s() -> float:
    """Return how long ago this process began, in seconds: importing counts; 0 where the system says nothing likely."""
    try:
        # After the name, which may hold anything: field 22 of all is the start, in ticks since the system began.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return age if 0 <= age <= OLDEST_S else 0.0
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def finish(findings: Findings, tell: Callable[[str], None], code: int) -> int:
    """Write all that is known once more, and print the table; return the exit code."""
    steps = {
        "the files for task=claims": lambda: write_claims(findings.folder, findings.found),
        "the iterations": findings.write_iterations,
    }
    tell(f"all files are in {findings.folder}")
    table = findings.write()
    for what, write in steps.items():
        try:
            write()
        except Exception as error:  # what was measured is on disk, and its table is wanted all the more
            tell(f"{what} could not be written: {in_one_line(error)}")
    print(table, end="", flush=True)
    return code


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    if ended == 130:
        os._exit(ended)  # whatever was interrupted may hold the interpreter: a device, or a thread
    sys.exit(ended)
