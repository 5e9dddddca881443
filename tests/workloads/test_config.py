"""The Hydra files of the group `workload`: each names a workload and lists every option it takes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class, instantiate

from workloads.recorded.traces import RecordedWorkload
from workloads.requests import Requests

FOLDER = Path(__file__).parents[2] / "conf/workload"
FILES = sorted(FOLDER.glob("*.yaml"))


def config(file: Path, **changes: Any) -> dict[str, Any]:
    """Return a file's content with changes."""
    return dict(yaml.safe_load(file.read_text())) | changes


def test_every_workload_has_a_file() -> None:
    assert [file.stem for file in FILES] == [
        "azure_code", "azure_conv", "burstgpt", "measured", "mooncake_conversation", "mooncake_synthetic",
        "qwen_bailian", "sharegpt",
        "sharegpt_multiturn", "synthetic", "synthetic_fixed", "synthetic_lognormal", "synthetic_zipf", "trace",
    ]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_lists_every_option_of_its_workload_that_can_apply(file: Path) -> None:
    settings = config(file)
    workload = get_class(settings.pop("_target_"))
    options = {field.name for field in fields(workload)}
    if not issubclass(workload, RecordedWorkload):
        options.remove("rate_multiplier")
    assert set(settings) == options


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_describes_a_workload(file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    changes = {"path": str(trace)} if file.stem in ("trace", "measured") else {}
    workload = instantiate(config(file, **changes))
    if isinstance(workload, RecordedWorkload):
        assert workload.arrivals().process == "trace"
        assert workload.num_requests is None
    else:
        assert workload.arrivals().process == "all_at_once"
        requests: Requests = workload.build(0)
        assert len(requests) == 1000
        assert requests.name == file.stem or requests.name == "synthetic"
