"""A sweep on a local Ray cluster, one worker killed in the middle, beside the same sweep run serially.

python -m benchmarks.ray_sweep                200 points: needs pip install '.[ray]'
python -m benchmarks.ray_sweep --points 20    fewer
"""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq

PORT = 6479
ADDRESS = f"127.0.0.1:{PORT}"
RUN = "ray::_run_point"
"""How Ray names a worker while it runs a point."""


@contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Run a Ray cluster of one node, without a dashboard, that only who knows its token can use."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = Path(sys.executable).with_name("ray")
    options = ["--head", "--block", f"--port={PORT}", f"--num-cpus={cpus}", "--include-dashboard=false"]
    command = [str(ray), "start", *options, "--disable-usage-stats"]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(10)
        yield
    finally:
        head.terminate()
        head.wait(60)


def sweep(folder: Path, points: int, *launcher: str) -> subprocess.Popen[bytes]:
    """Start a sweep: two policies, two rates, and as many seeds as it takes."""
    swept = ["+policy=orca,baton", "workload.rate=2,8", f"seed=range(0,{points // 4})"]
    fixed = ["workload.num_requests=100", "hardware=h100_sxm_datasheet", "pictures=false", f"hydra.sweep.dir={folder}"]
    return subprocess.Popen([sys.executable, "-m", "sim", "-m", *launcher, *swept, *fixed], stdout=subprocess.DEVNULL)


def finished(folder: Path) -> int:
    """Return how many points are over."""
    return len(list(folder.glob("*/point.json")))


def busy_workers() -> list[int]:
    """Return the processes that run a point."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(RUN.encode()):
                found.append(int(entry.name))
    return found


def kill_one_in_the_middle(folder: Path, points: int, running: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for half of the points, kill a busy worker; return its process and how many points were over."""
    while running.poll() is None:
        if finished(folder) >= points // 2 and (busy := busy_workers()):
            os.kill(busy[0], signal.SIGKILL)
            return busy[0], finished(folder)
        time.sleep(0.05)
    raise SystemExit("the sweep ended before a worker could be killed")


def table(folder: Path) -> dict[str, list[object]]:
    """Return what was gathered."""
    found: dict[str, list[object]] = pq.read_table(folder / "sweep.parquet").to_pydict()
    return found


def main() -> None:
    """Run both, compare, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200, help="a multiple of 4")
    points = parser.parse_args().points
    folder = Path(tempfile.mkdtemp(prefix="ray_sweep_"))
    with cluster(os.cpu_count() or 1):
        start = time.perf_counter()
        running = sweep(folder / "ray", points, "hydra/launcher=ray", f"hydra.launcher.address={ADDRESS}")
        killed, over = kill_one_in_the_middle(folder / "ray", points, running)
        code = running.wait()
        on_ray = time.perf_counter() - start
    print(f"on Ray: {on_ray:.0f} s, exit code {code}; worker {killed} was killed after {over} of {points} points")
    start = time.perf_counter()
    code = sweep(folder / "serial", points).wait()
    print(f"serial: {time.perf_counter() - start:.0f} s, exit code {code}")
    both = [table(folder / name) for name in ("ray", "serial")]
    done = [each["status"].count("finished") for each in both]
    print(f"finished points: {done[0]} on Ray, {done[1]} serial; equal tables: {both[0] == both[1]}")
    shutil.rmtree(folder)
    if not (done[0] == done[1] == points and both[0] == both[1]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
