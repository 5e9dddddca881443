"""docs/metrics.md names every key of a real summary.json."""

import re
from pathlib import Path
from typing import Any

import pytest

from sim.__main__ import main
from tests.command_line import run_here, summary

PAGE = (Path(__file__).parent.parent / "docs/metrics.md").read_text()
NAMES = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
FEW = ("workload.num_requests=30", "pictures=false", "hydra.run.dir=out")


def keys(found: dict[str, Any]) -> set[str]:
    """Return the keys of a summary and those of its policies; of a search for capacities, and those of each."""
    of_policies = found["policies" if "policies" in found else "capacity"]
    return found.keys() | {metric for policy in of_policies.values() for metric in policy}


@pytest.mark.parametrize(
    "options",
    [
        ("policies=[baton_dedicated,chunked_prefill]", "workload.rate=5", "slo.ttft_s=1", "interval=true"),
        ("+policy=orca", "replications=2"),
        ("policies=[orca,run_to_completion]", "execution=graphs"),
        ("+policy=orca", "task=capacity", "slo.ttft_s=1", "slo.attainment=0.5", "replications=4", "precision=0.5"),
    ],
)
def test_every_key_of_a_summary_is_explained(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sim.tasks.comparison.run.DRAWS", 2)
    assert run_here(main, *FEW, *options) == 0
    found = summary(tmp_path / "out")
    assert not keys(found) - NAMES
    assert keys(found | {"undocumented": 0}) - NAMES == {"undocumented"}
