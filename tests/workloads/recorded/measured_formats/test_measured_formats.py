"""Formats of measured runs are told by what is in a file, whatever its name; what cannot serve is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.checks import InputError
from workloads.recorded.measured import Measured, MeasuredRun

ROWS = [
    {"arrival_s": 0.0, "prompt_tokens": 80, "output_tokens": 6, "ttft_s": 0.2, "e2e_s": 0.7},
    {"arrival_s": 2.5, "prompt_tokens": 90, "output_tokens": 1, "ttft_s": 0.3, "e2e_s": 0.3},
]
LISTS: dict[str, Any] = {
    "request_rate": float("inf"),
    "max_concurrency": None,
    "input_lens": [80, 90],
    "output_lens": [6, 1],
    "ttfts": [0.2, 0.3],
    "itls": [[0.1] * 5, []],
    "errors": ["", ""],
}
SGLANG = LISTS | {
    "backend": "sglang",
    "server_info": {"model_path": "org/model-9b", "tp_size": 2, "dp_size": 2},
    "total_output_tokens_retokenized": 7,
}
RECORD = {
    "metadata": {"request_start_ns": 7, "benchmark_phase": "profiling"},
    "metrics": {
        "input_sequence_length": {"value": 80, "unit": "tokens"},
        "output_sequence_length": {"value": 6, "unit": "tokens"},
        "time_to_first_token": {"value": 200, "unit": "ms"},
        "request_latency": {"value": 700, "unit": "ms"},
    },
}


def read(path: Path) -> MeasuredRun:
    return Measured(path=str(path)).run()


def lines(*objects: Any) -> str:
    return "\n".join(map(json.dumps, objects))


@pytest.mark.parametrize("name", ["run.json", "run.jsonl", "run.csv", "run.txt", "run", "run.parquet"])
@pytest.mark.parametrize(
    "content",
    [
        pd.DataFrame(ROWS).to_csv(index=False),
        "\ufeff" + pd.DataFrame(ROWS).to_csv(index=False).replace("\n", "\r\n"),
        lines(*ROWS),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        json.dumps(LISTS),
        json.dumps(LISTS, indent=2),
        json.dumps(LISTS).replace(", ", ",\n", 1),
        json.dumps(SGLANG) + "\n",
        lines(RECORD, RECORD),
        json.dumps([RECORD]),
    ],
)
def test_a_file_is_what_it_holds_whatever_its_name(content: str, name: str, tmp_path: Path) -> None:
    for path, data in ((tmp_path / name, content.encode()), (tmp_path / f"{name}.gz", gzip.compress(content.encode()))):
        path.write_bytes(data)
        run = read(path)
        assert (run.demand.prompt_tokens[0], run.demand.output_tokens[0]) == (80, 6)
        np.testing.assert_allclose((run.ttft_s[0], run.e2e_s[0], run.tpot_s[0]), (0.2, 0.7, 0.1))


def test_parquet_is_parquet_under_any_name(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(tmp_path / "run.csv")
    assert read(tmp_path / "run.csv").demand.prompt_tokens.tolist() == [80, 90]


def test_sglang_says_what_its_server_was(tmp_path: Path) -> None:
    path = tmp_path / "sglang.jsonl"
    path.write_text(json.dumps(SGLANG))
    run = read(path)
    assert (run.model, run.gpus, run.client) == ("org/model-9b", 4, "SGLang")
    assert run.remarks == ()


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer", "git lfs pull"),
        ({"benchmarks": [{"requests": {}}]}, "is GuideLLM's report", "a row per request: arrival_s, "),
        (
            {"request_latency": {"unit": "ms", "avg": 5.0}},
            "is a summary of AIPerf or GenAI-Perf",
            "profile_export.jsonl",
        ),
        (
            {"records": {"ttft": {"unit": "ms", "avg": 1}}, "input_config": {}},
            "is a summary of AIPerf",
            "--export-level",
        ),
        ("Metric,avg,min,max\nTime to First Token (ms),1,1,1\n", "is a summary of AIPerf", "profile_export.jsonl"),
        ({"service_kind": "openai", "experiments": []}, "which counts no tokens", "AIPerf"),
        ({"metadata": {}, "responses": []}, "is AIPerf's raw export", "profile_export.jsonl"),
        ([{"Test name": "a", "GPU": "H100"}], "is a table of vLLM's nightly benchmarks", "--save-detailed"),
        ("Test name,GPU,Mean TTFT (ms)\na,H100,5\n", "is a table of vLLM's nightly benchmarks", "--save-detailed"),
        (
            {"completed": 5, "request_throughput": 2.0, "mean_ttft_ms": 9.0},
            "no input_lens, output_lens, ttfts, itls: ",
            "--sa",
        ),
        ({"backend": "sglang", "completed": 5, "request_throughput": 2.0}, "no input_lens, ", "--output-details"),
        (lines(LISTS, LISTS), "--append-result puts several runs into one file, here 2", "in a file of its own"),
        (
            lines(SGLANG, SGLANG, SGLANG),
            "appends each run to its output file as a line, here 3",
            "in a file of its own",
        ),
        ({"avg_latency": 1.0, "latencies": [1.0], "percentiles": {}}, "vLLM's offline benchmarks", "vllm bench serve"),
        (
            [{"start_time": 1, "end_time": 2, "info": {}}],
            "inference-perf's report of each request",
            "a row per request",
        ),
        ({"load_summary": {}, "successes": {}}, "a summary of inference-perf", "per_request: true"),
        ({"timestamp": 1, "input_length": 4, "output_length": 4}, "is a trace", "workload=trace"),
        ({"model_type": "llama"}, "is a model's configuration", "model=hf"),
        ({"some": 1, "thing": 2}, "is no measured run that is known (it has some, thing)", "vLLM's or SGLang's"),
        ("a,b\n1,2\n", "is no measured run that is known (it has a, b)", "ttft_s, e2e_s"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,3\n", "no column ttft_s, e2e_s", "add or rename"),
        ([], "an empty list", "give "),
        ([1], "entry 1: not a JSON object", ""),
        ("{", "not valid JSON", ""),
        ("", "is empty", ""),
        ("<!doctype html><p>", "is a web page", "raw file"),
    ],
)
def test_what_cannot_serve_is_named_with_what_would(content: Any, what: str, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as refusal:
        read(path)
    told = str(refusal.value)
    assert told.startswith(str(path)) and what in told and remedy in told and "\n" not in told
