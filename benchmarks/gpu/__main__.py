"""Everything on one GPU in one go: `python -m benchmarks.gpu`, or `make gpu`; see docs/gpu.md.

python -m benchmarks.gpu                                                  about ten minutes on one NVIDIA GPU
python -m benchmarks.gpu --budget 1800                                    more of everything
python -m benchmarks.gpu --device cpu --models tiny_llama --quick         the same code, rehearsed without a GPU
"""

import argparse
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.text import Text

from benchmarks.gpu import decode_steps, exactness, insertion, profiles, ratios, throughput, validation
from benchmarks.gpu.bench import Bench, dimensions_of
from benchmarks.gpu.claims import write_claims
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import FULL, QUICK
from benchmarks.gpu.targets import lines, shown
from benchmarks.rounds import in_one_line
from policies.checks import InputError
from real.model.network import DTYPES, device_of
from real.serving.machine import copy_rate, memory_of, name_of, product_rate
from sim.output.writing import make_folder

BUDGET_S, QUICK_BUDGET_S = 570.0, 110.0
MODELS = ("llama2_7b", "llama3_8b")
WIDTH = 180
PACKAGES = ("torch", "transformers", "triton", "numpy", "kernels", "flash-attn")


class Section(NamedTuple):
    """One part of it all.

    Attributes:
        name: Of its file.
        share: Of the time that is left, among the sections that are left.
        measure: Measures until a time.
    """

    name: str
    share: float
    measure: Callable[[Bench, Record, float], None]


SECTIONS = (
    Section("exactness", 5, exactness.measure),
    Section("insertion", 3, insertion.measure),
    Section("decode_steps", 20, decode_steps.measure),
    Section("profiles", 22, profiles.measure),
    Section("validation", 12, validation.measure),
    Section("ratios", 14, ratios.measure),
    Section("throughput", 24, throughput.measure),
)
"""A profile is needed before what is predicted with it; what may fail for reasons that are not ours comes last."""


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; default cuda")
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help="of conf/model, separated by commas: everything else of the first only; default %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="as little of everything as shows that it runs")
    parser.add_argument(
        "--budget", type=float, help=f"seconds in all; default {BUDGET_S:g}, with --quick {QUICK_BUDGET_S:g}"
    )
    parser.add_argument("--folder", type=Path, help="where the files go; default outputs/gpu/DATE_TIME")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print the table; return the exit code."""
    start = time.perf_counter()
    told = sys.argv[1:] if given is None else given
    options = arguments(told)
    console = Console(highlight=False)
    try:
        bench, facts = prepare(options, told, partial(_tell, console, start))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was measured", file=sys.stderr)
        return 130
    budget = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    found: dict[str, Any] = {}
    try:
        run(bench, facts, start + budget, found)
        code = 0
    except KeyboardInterrupt:
        code = 130
    try:
        write_claims(bench.folder, found)
    except Exception as error:  # the measurements are on disk, and their table is wanted all the more
        bench.tell(f"no files for task=claims: {in_one_line(error)}")
    bench.tell(f"all files are in {bench.folder}")
    report(bench, found)
    return code


def prepare(
    options: argparse.Namespace, told: Sequence[str], tell: Callable[[str], None]
) -> tuple[Bench, dict[str, Any]]:
    """Find the device and what it can do, and make the folder; return the bench, and what all files begin with.

    Raises:
        InputError: There is no such device or model, or the folder cannot be made.
    """
    if options.budget is not None and not options.budget > 0:
        raise InputError(f"--budget {options.budget:g}: give seconds, more than 0")
    models = tuple(dict.fromkeys(name.strip() for name in options.models.split(",")))
    for name in models:
        dimensions_of(name)
    device = device_named(options.device)
    folder = options.folder or Path("outputs/gpu") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    bench = Bench(
        device=device,
        dtype=dtype,
        models=models,
        sizes=QUICK if options.quick else FULL,
        folder=make_folder(folder),
        bandwidth=copy_rate(device, device),
        tell=tell,
    )
    facts = {
        **machine_facts(device, dtype),
        "copy_bandwidth": bench.bandwidth,
        "matmul_flops": product_rate(device, DTYPES[dtype]),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *told]),
    }
    tell(f"{facts['machine']}: {bench.bandwidth / 1e9:,.0f} GB/s copied, {facts['matmul_flops'] / 1e12:,.1f} TFLOP/s")
    Record(folder / "machine.json", facts).say(complete=True)
    return bench, facts


def device_named(name: str) -> torch.device:
    """Return a device, ready to be measured.

    Raises:
        InputError: There is no such device.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "torch finds no CUDA GPU here; to rehearse without one give --device cpu --models tiny_llama --quick"
        )
    device = device_of(name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # a rehearsal: what is tiny is fastest on one thread, above all beside other programs
        return device
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    return device


def machine_facts(device: torch.device, dtype: str) -> dict[str, Any]:
    """Return what the device and the software are."""
    return {
        "machine": name_of(device),
        "device": device.type,
        "dtype": dtype,
        "memory_bytes": memory_of(device),
        "threads": torch.get_num_threads(),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return next(iter(found.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run(bench: Bench, facts: dict[str, Any], deadline: float, found: dict[str, Any]) -> None:
    """Run all sections; one that fails says why in its file, and the others go on.

    Args:
        bench: What to measure on.
        facts: What all files begin with.
        deadline: When everything should be over; each section has its share of what is left.
        found: Where what the sections find is put, by name.

    Raises:
        KeyboardInterrupt: On Ctrl-C; what was measured is written.
    """
    tell = bench.tell
    for place, section in enumerate(SECTIONS):
        record = Record(bench.folder / f"{section.name}.json", facts)
        found[section.name] = record.found
        now = time.perf_counter()
        share = section.share / sum(each.share for each in SECTIONS[place:])
        bench.tell = lambda said, name=section.name: tell(f"{name}: {said}")  # type: ignore[misc]
        try:
            section.measure(bench, record, now + max(0.0, deadline - now) * share)
            record.say(complete=True, seconds=time.perf_counter() - now)
        except KeyboardInterrupt as stop:
            record.failed(stop)
            raise
        except Exception as error:  # whatever it is, the sections after it are not to blame
            bench.tell(f"failed: {record.failed(error)}")
        finally:
            bench.tell = tell


def report(bench: Bench, found: dict[str, Any]) -> None:
    """Print the table, and write it as text."""
    judged = bench.device.type == "cuda" and bench.sizes is FULL
    table = shown(lines(found), judged)
    with (bench.folder / "table.txt").open("w", encoding="utf-8") as file:
        for console in (Console(file=file, width=WIDTH), Console(width=None if sys.stdout.isatty() else WIDTH)):
            if not judged:
                console.print("A rehearsal: targets are for all sizes on a GPU, and nothing is judged.")
            console.print(table)


def _tell(console: Console, start: float, said: str) -> None:
    console.print(Text(f"{time.perf_counter() - start:4.0f} s  {said}"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
