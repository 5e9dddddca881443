"""Hostile measured files and options on the command line: an overlay with a word on it, or one line and exit 2."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_line import files, sim
from tests.workloads.recorded.measured_formats.test_hostile_measured import contents

OPTIONS = st.lists(
    st.sampled_from(
        ["overlay.times=server", "overlay.times=nobody", "overlay.times=null", "overlay.warmup=1", "overlay.warmup=-1",
         "overlay.warmup=1.5", "overlay.warmup=[1]", "workload.num_requests=2", "workload.num_requests=0",
         "workload.arrival=poisson", "workload.max_new_tokens=oracle", "kv_tokens=20", "kv_tokens=47", "kv_tokens=x",
         "model.dtype=float16", "model=hf", "tensor_parallel=3", "measured=null", "measured=[run,run]", "report=true",
         "task=run", "task=overlays", "vllm_bench=true", "replications=2"]
    ),
    max_size=2,
)  # fmt: skip


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=contents(), options=OPTIONS)
@pytest.mark.usefixtures("scratch")
def test_an_overlay_or_one_line(
    scratch: Path, capsys: pytest.CaptureFixture[str], content: bytes, options: list[str]
) -> None:
    shutil.rmtree(scratch / "out", ignore_errors=True)
    (scratch / "run").write_bytes(content)
    capsys.readouterr()
    given_options = ("task=overlay", "measured=run", "+policy=chunked_prefill", "hardware=h100_sxm_datasheet")
    code = sim(*given_options, "pictures=false", "hydra.run.dir=out", *options)
    shown = capsys.readouterr()
    left = files(scratch / "out") if (scratch / "out").exists() else set()
    assert code in (0, 2), shown.err
    assert "Traceback" not in shown.err + shown.out
    assert not any(name.endswith((".part", ".tmp")) for name in left)
    if code:
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    else:
        assert shown.err == ""
        for name in left:
            if name.endswith(".json"):
                json.loads((scratch / "out" / name).read_text())
        assert "Results: " in shown.out
