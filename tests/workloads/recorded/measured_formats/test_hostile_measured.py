"""Hostile measured files: each becomes a run whose figures can be, or one line that refuses it."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.checks import InputError
from workloads.recorded.measured import Measured

VALUES = st.sampled_from(
    [0, 1, -1, 0.1, 2.5, 1e-9, 1e12, 1e300, 10**400, 2**31, 2**63, 1.79e9, 1_790_000_000_000, float("nan"),
     float("inf"), True, None, "", "x", "0.1", "inf", "\u0661", [], [1], [0.1, None], [[0.1]], {},
     {"value": 5, "unit": "ms"}, {"value": [1, "a"], "unit": "ms"}, {"value": None},
     {"a": [{"b": None}]}, "2026-01-01 00:00:00Z", "a\nb"]
)  # fmt: skip
KEYS = st.sampled_from(
    ["arrival_s", "ttft_s", "status", "num_gpus", "model", "latencies", "start_times", "errors", "max_concurrency",
     "request_rate", "model_id", "server_info", "backend", "benchmarks", "records", "metadata", "metrics", "error",
     "credit_phase", "timestamp_ns", "ttft", "inter_chunk_latency", "prefix_id", "prefix_tokens", "", "\u00e9"]
)  # fmt: skip


def lists(count: int) -> Any:
    return {
        "backend": "openai", "request_rate": "inf", "max_concurrency": None, "model_id": "a/b", "errors": [""] * count,
        "input_lens": [9] * count, "output_lens": [3] * count, "ttfts": [0.1] * count, "itls": [[0.1, 0.2]] * count,
        "start_times": [5.0 + row for row in range(count)], "latencies": [0.4] * count,
    }  # fmt: skip


def record(row: int) -> Any:
    return {
        "metadata": {"request_start_ns": 10**18 + row, "benchmark_phase": "profiling", "turn_index": 0},
        "metrics": {
            "input_sequence_length": {"value": 9, "unit": "tokens"},
            "output_sequence_length": {"value": 3, "unit": "tokens"},
            "time_to_first_token": {"value": 100, "unit": "ms"},
            "request_latency": {"value": 0.4, "unit": "s"},
            "inter_chunk_latency": {"value": [100.0, 200.0], "unit": "ms"},
        },
        "error": None,
    }


def row(place: int) -> Any:
    return {
        "arrival_s": place,
        "prompt_tokens": 9,
        "output_tokens": 3,
        "ttft_s": 0.1,
        "e2e_s": 0.4,
        "status": "finished",
    }


def damaged(draw: st.DrawFn, value: Any) -> Any:
    """Return JSON with one part of it replaced, removed or added."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(list(keys)))
        part = damaged(draw, value[key])
        changed = dict(value) if isinstance(value, dict) else list(value)
        if part is ...:
            del changed[key]
        else:
            changed[key] = part
        return changed
    if isinstance(value, dict):
        return value | {draw(KEYS): draw(VALUES)}
    return draw(VALUES | st.just(...))


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes of a measured file that somebody may give."""
    count = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["lists", "records", "rows", "csv"]))
    whole: Any = {"lists": lists(count), "records": [*map(record, range(count))]}.get(kind, [*map(row, range(count))])
    for _ in range(draw(st.integers(0, 3))):
        whole = damaged(draw, whole)
        whole = draw(VALUES) if whole is ... else whole
    if kind == "csv" and isinstance(whole, list) and all(isinstance(each, dict) for each in whole):
        names = list(dict.fromkeys(key for each in whole for key in each))
        text = "\n".join(
            ",".join(str(cell) for cell in line) for line in [names, *(list(each.values()) for each in whole)]
        )
    elif kind in ("records", "rows") and isinstance(whole, list) and draw(st.booleans()):
        text = "\n".join(map(json.dumps, whole))
    else:
        text = json.dumps(whole, indent=draw(st.sampled_from([None, 1])))
    data = text.encode()
    cut = draw(st.sampled_from([None] * 7 + [0.9]))
    data = data if cut is None else data[: int(len(data) * cut)]
    return gzip.compress(data, mtime=0) if draw(st.integers(0, 9)) == 0 else data


@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents(), st.sampled_from(["run.json", "run.jsonl", "run.csv", "run.parquet", "run"]))
def test_a_run_that_can_be_or_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_bytes(content)
    try:
        run = Measured(path=str(path)).run()
        requests = Measured(path=str(path)).build(0)
    except InputError as refused:
        said = str(refused)
        assert said.startswith(str(path)) and "\n" not in said and len(said) < 1000
    else:
        assert len(requests) == len(run.e2e_s) == len(run.ttft_s) >= 1
        assert np.isfinite(run.e2e_s).all() and (run.e2e_s >= 0).all()
        known = ~np.isnan(run.ttft_s)
        assert (run.ttft_s[known] <= run.e2e_s[known] * 1.001 + 1e-5).all()
        assert np.diff(requests.arrival_s).min(initial=0) >= 0
        assert all("\n" not in note for note in (*requests.notes, *run.remarks, run.model or ""))
    assert [file.name for file in tmp_path.iterdir()] == [name]
