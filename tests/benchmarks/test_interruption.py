"""A signal stops whoever runs, but never a write; what was found before it is on disk, whole."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.gpu.findings import Findings
from benchmarks.interruption import AGAIN_S, Interruption
from sim.engine.iteration_log import DTYPE


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_signal_raises_once_and_its_echo_does_not() -> None:
    clock = Clock()
    interruption = Interruption(clock)
    with pytest.raises(KeyboardInterrupt):
        interruption.hear()
    interruption.hear()  # as `timeout` sends it, to the process and to its group
    clock.now = AGAIN_S
    with pytest.raises(KeyboardInterrupt):
        interruption.hear()


def test_a_write_ends_first() -> None:
    interruption, done = Interruption(), []
    with pytest.raises(KeyboardInterrupt), interruption.held():
        with interruption.held():
            interruption.hear()
        done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_an_interrupt_that_somebody_swallowed_comes_again() -> None:
    interruption = Interruption()
    interruption.check()
    with pytest.raises(KeyboardInterrupt):
        interruption.hear()
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_once_it_is_over_nothing_disturbs_the_last_writes() -> None:
    interruption = Interruption()
    with interruption.held():
        interruption.over()
        interruption.hear()
    interruption.hear()
    interruption.check()


SCRIPT = """
import sys
from pathlib import Path
from benchmarks.gpu.findings import Findings
from benchmarks.interruption import Interruption
interruption = Interruption().listen()
findings = Findings(Path(sys.argv[1]), {"plan": ["part"], "model": "m", "date": "now"}, interruption)
part = findings.part("part")
try:
    for place in range(100_000):
        part.add(place=place)
        print(place, flush=True)
except KeyboardInterrupt:
    interruption.over()
    findings.write()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_the_moment_what_was_found_is_in_whole_files(tmp_path: Path, number: int) -> None:
    moments = random.Random(int(number))
    for place in range(3):
        folder = tmp_path / str(place)
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(number)
            process.send_signal(number)
            said = process.stdout.read().split()
        assert process.returncode == 0
        assert sorted(path.name for path in folder.iterdir()) == ["results.json", "table.txt"], "a draft was left"
        rows = json.loads((folder / "results.json").read_text())["parts"]["part"]["rows"]
        assert [row["place"] for row in rows] == [*range(len(rows))] and len(rows) > int((said or ["0"])[-1])
        assert (folder / "table.txt").read_text().startswith("no device yet, m, now\n")


def test_iterations_of_runs_that_know_more_and_less_share_a_table(tmp_path: Path) -> None:
    findings = Findings(tmp_path, {})
    plain, wider = np.zeros(2, dtype=DTYPE), np.zeros(1, dtype=[*DTYPE.descr, ("device_s", "<f8")])
    plain["rows"], wider["rows"], wider["device_s"] = 3, 4, 0.5
    findings.keep("one", plain)
    findings.keep("two", wider)
    findings.write_iterations()
    table = pq.read_table(tmp_path / "iterations.parquet")
    assert table["run"].to_pylist() == ["one", "one", "two"] and table["rows"].to_pylist() == [3, 3, 4]
    assert np.isnan(table["device_s"].to_pylist()[:2]).all() and table["device_s"].to_pylist()[2] == 0.5


def test_a_finding_is_on_disk_at_once(tmp_path: Path) -> None:
    part = Findings(tmp_path / "made", {"model": "m", "date": "now"}).part("part")
    assert not (tmp_path / "made").exists(), "nothing was found yet"
    part.add(value=1)
    assert json.loads((tmp_path / "made/results.json").read_text())["parts"]["part"]["rows"] == [{"value": 1}]
