"""hydra/launcher=ray: a point that is lost every time is recorded, the others go on; results are those of one core."""

import importlib.util
import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.command_line import sim

ROOT = Path(__file__).parents[3]
SWEEP = ("-m", "hydra/launcher=ray", "+policy=orca,baton", "workload.num_requests=5")
QUICK = ("hardware=h100_sxm_datasheet", "pictures=false", "hydra.sweep.dir=sweep")


pytestmark = pytest.mark.usefixtures("scratch")


class Lost(Exception):
    """What Ray raises when a worker has died too often."""


class Cluster(ModuleType):
    """Ray as far as the launcher uses it: tasks run here, at once; some are lost."""

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(self, lost: set[int]) -> None:
        super().__init__("ray")
        self.lost = lost
        self.told: dict[str, Any] = {}

    def init(self, **options: Any) -> None:
        self.told |= options
        if options["address"] == "gone:1":
            raise ConnectionError("Could not reach gone:1\nmore")

    def remote(self, **options: Any) -> Any:
        self.told |= options
        return lambda function: SimpleNamespace(
            remote=lambda common, overrides, number: (number, lambda: function(common, overrides, number))
        )

    def put(self, value: Any) -> Any:
        return (-1, lambda: value)

    def wait(self, waiting: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return waiting[-num_returns:], waiting[:-num_returns]

    def get(self, task: Any) -> Any:
        number, work = task
        if number in self.lost:
            raise Lost("the worker died")
        return work()

    def shutdown(self) -> None:
        pass


def test_a_point_that_is_lost_every_time_is_recorded(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(lost={0})
    monkeypatch.setitem(sys.modules, "ray", cluster)
    assert sim(*SWEEP, *QUICK, "hydra.launcher.cpus=2", "hydra.launcher.retries=1") == 2
    lost, good = pq.read_table(scratch / "sweep/sweep.parquet").to_pylist()
    assert (lost["policy"], lost["error"]) == ("orca", "its worker died 2 times (Lost: the worker died)")
    assert (good["policy"], good["completed"]) == ("baton", 5)
    assert (cluster.told["num_cpus"], cluster.told["max_retries"]) == (2, 1)
    cluster.lost.clear()
    assert sim(*SWEEP, *QUICK) == 0, "the same command tries it again"
    assert capsys.readouterr().out.count("(finished before)") == 1


def test_without_a_cluster_one_line_says_so(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Cluster(set()))
    assert sim(*SWEEP, *QUICK, "hydra.launcher.address=gone:1") == 2
    assert capsys.readouterr().err == (
        "error: hydra.launcher.address=gone:1: no Ray cluster was found (Could not reach gone:1); start one with ray "
        "start --head, or leave the address out\n"
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sim(*SWEEP, *QUICK) == 2
    assert capsys.readouterr().err == "error: hydra/launcher=ray needs Ray: pip install '.[ray]'\n"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'")
def test_on_ray_the_results_are_those_of_a_serial_sweep(scratch: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for launcher in ("ray", "basic"):
        options = ["+policy=orca,baton", "workload.num_requests=5", *QUICK[:2], f"hydra.sweep.dir={launcher}"]
        command = [sys.executable, "-m", "sim", "-m", f"hydra/launcher={launcher}", *options]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    tables = [pq.read_table(scratch / launcher / "sweep.parquet") for launcher in ("ray", "basic")]
    assert tables[0].equals(tables[1])
