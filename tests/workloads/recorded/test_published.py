"""Published traces: their readers on small files, and the figures of the real files where those are at hand."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.checks import InputError
from workloads import Azure, BurstGPT, Mooncake
from workloads.recorded.traces import RecordedWorkload

REAL = Path(os.environ.get("BATON_DATA") or Path(__file__).parents[3].parent / "shared/data/traces").absolute()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Return a function that writes a file and returns its path."""

    def write_file(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return write_file


def test_azure_times_start_at_zero_and_keep_seven_decimals(write: Callable[[str, str], str]) -> None:
    content = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:15:46.6805900,374,44\r\n"
        "2023-11-16 18:15:50.9951691,396,109\r\n"
    )
    requests = Azure(path=write("azure.csv", content)).build(0)
    np.testing.assert_allclose(requests.arrival_s, [0, 4.3145791], atol=1e-12)
    assert requests.prompt_tokens.tolist() == [374, 396]
    assert requests.output_tokens.tolist() == [44, 109]


def test_azure_2024_times_with_a_zone_are_read_too(write: Callable[[str, str], str]) -> None:
    content = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,1,1\n2024-05-10 00:00:01+00:00,2,2\n"
    )
    requests = Azure(path=write("azure.csv", content)).build(0)
    np.testing.assert_allclose(requests.arrival_s, [0, 0.99007])


@pytest.mark.parametrize("stamp", ["", "5", "noon", "2023-13-01 00:00:00"])
def test_azure_times_that_are_none_are_refused(write: Callable[[str, str], str], stamp: str) -> None:
    content = f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n{stamp},1,1\n"
    with pytest.raises(InputError, match=r"azure\.csv, line 3, column TIMESTAMP: is .*, not a date and time"):
        Azure(path=write("azure.csv", content)).build(0)


@pytest.mark.parametrize("stamp", [5, 1.7e9, None, True, ["2023-11-16"]])
def test_azure_times_in_jsonl_must_be_text(write: Callable[[str, str], str], stamp: Any) -> None:
    row = {"TIMESTAMP": stamp, "ContextTokens": 3, "GeneratedTokens": 4}
    with pytest.raises(InputError, match=r"azure\.jsonl, line 1, column TIMESTAMP: is .*, not a date and time"):
        Azure(path=write("azure.jsonl", json.dumps(row))).build(0)


def mooncake_lines(*timestamps_ms: int) -> str:
    """Return Mooncake's JSONL for requests at these times."""
    rows = [{"timestamp": t, "input_length": 900, "output_length": 3, "hash_ids": [0, 1]} for t in timestamps_ms]
    return "\n".join(json.dumps(row) for row in rows)


def test_mooncake_conversations_are_spread_within_their_ticks(write: Callable[[str, str], str]) -> None:
    path = write("trace.jsonl", mooncake_lines(0, 0, 0, 3000, 9000, 9000))
    requests = Mooncake(path=path).build(0)
    np.testing.assert_allclose(requests.arrival_s, [0, 1, 2, 3, 9, 10.5])
    assert requests.prefix_hashes is not None and requests.prefix_hashes.tolist() == [(0, 1)] * 6
    assert requests.share_prefixes
    assert requests.notes[0] == "arrivals recorded in ticks of 3 s spread evenly within each tick"


def test_mooncake_synthetic_times_are_left_alone(write: Callable[[str, str], str]) -> None:
    path = write("trace.jsonl", mooncake_lines(0, 0, 40, 51))
    requests = Mooncake(trace="synthetic", path=path).build(0)
    np.testing.assert_allclose(requests.arrival_s, [0, 0, 0.040, 0.051])
    assert requests.prefix_id.tolist() == [-1] * 4


def test_failed_burstgpt_requests_are_dropped_and_it_is_said(write: Callable[[str, str], str]) -> None:
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = write(
        "b.csv", header + "5,ChatGPT,472,18,490,Conversation log\n7,GPT-4,9,0,9,API log\n9,GPT-4,8,2,10,API log\n"
    )
    requests = BurstGPT(path=path).build(0)
    assert requests.arrival_s.tolist() == [0.0, 4.0]
    assert requests.output_tokens.tolist() == [18, 2]
    assert requests.notes[0] == "1 request with 0 tokens (failed) dropped"


def test_a_trace_of_failures_only_is_refused(write: Callable[[str, str], str]) -> None:
    path = write("b.csv", "Timestamp,Request tokens,Response tokens\n5,472,0\n")
    with pytest.raises(InputError, match="every request has 0 tokens"):
        BurstGPT(path=path).build(0)


def test_burstgpt_takes_the_only_file_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"BurstGPT was not found: get a CSV from .* workload\.path=FILE"):
        BurstGPT().build(0)
    (tmp_path / "burstgpt").mkdir()
    (tmp_path / "burstgpt/BurstGPT_1.csv").write_text("Timestamp,Request tokens,Response tokens\n0,4,2\n")
    assert len(BurstGPT().build(0)) == 1
    (tmp_path / "burstgpt/BurstGPT_2.csv").write_text("Timestamp,Request tokens,Response tokens\n0,4,2\n")
    with pytest.raises(InputError, match="has 2 BurstGPT files: choose one"):
        BurstGPT().build(0)


@pytest.mark.parametrize(
    ("workload", "options", "message"),
    [
        (Azure, {"service": "chat"}, r"workload\.service is 'chat': choose one of conv, code"),
        (Mooncake, {"trace": "toolagent"}, r"workload\.trace is 'toolagent': choose one of conversation, synthetic"),
        (Azure, {"rate": 4.0, "arrival": "trace"}, r"workload\.rate=4\.0 has no use with workload\.arrival=trace"),
        (Azure, {"arrival": "poisson", "rate": 1.0, "rate_multiplier": 2}, r"workload\.rate_multiplier=2 has no use"),
        (Azure, {"rate_multiplier": 0}, r"workload\.rate_multiplier is 0"),
    ],
)
def test_bad_options_are_refused(workload: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        workload(**options)


# File, rows, prompt mean/p50/p90/p99/max, output mean/p50/p90/p99/max, requests/s, CV of the gaps (None: not recorded).
FIGURES = [
    (Azure(service="code"), "azure2023/AzureLLMInferenceTrace_code.csv", 8819,
     (2047.8, 1469, 5188, 7436, 7437), (27.9, 13, 55, 251, 1899), 2.567, 13.15),
    (Azure(service="conv"), "azure2023/AzureLLMInferenceTrace_conv.csv", 19366,
     (1154.7, 1020, 2735, 4142, 14050), (211.1, 129, 424, 601, 1000), 5.530, 1.09),
    (Mooncake(trace="conversation"), "mooncake/conversation_trace.jsonl", 12031,
     (12035, 6909, 27367, 85400, 126195), (342.6, 350, 597, 1119, 2000), 3.402, None),
    (Mooncake(trace="synthetic"), "mooncake/synthetic_trace.jsonl", 3993,
     (15325.5, 11587, 38611, 66456, 191378), (149.1, 69, 389, 768, 893), 3.907, 1.01),
]  # fmt: skip


@pytest.mark.parametrize(("workload", "file", "rows", "prompt", "output", "rate", "cv"), FIGURES)
def test_real_traces_have_their_published_figures(
    workload: RecordedWorkload,
    file: str,
    rows: int,
    prompt: tuple[float, ...],
    output: tuple[float, ...],
    rate: float,
    cv: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not (REAL / file).is_file():
        pytest.skip(f"{file} is not at hand: point $BATON_DATA to the folder that has it")
    monkeypatch.setenv("BATON_DATA", str(REAL))
    requests = workload.build(0)
    assert len(requests) == rows
    for tokens, (mean, *quantiles) in ((requests.prompt_tokens, prompt), (requests.output_tokens, output)):
        assert tokens.mean() == pytest.approx(mean, abs=0.5)
        assert np.quantile(tokens, [0.5, 0.9, 0.99, 1.0]) == pytest.approx(quantiles, rel=0.001, abs=1)
    assert rows / requests.arrival_s[-1] == pytest.approx(rate, rel=0.002)
    assert requests.arrival_s[0] == 0
    gaps = np.diff(requests.arrival_s)
    if cv is not None:
        assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.01)
    else:
        assert pd.Series(requests.arrival_s).is_unique


def test_real_burstgpt_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REAL / "burstgpt").is_dir():
        pytest.skip("burstgpt is not at hand: point $BATON_DATA to the folder that has it")
    monkeypatch.setenv("BATON_DATA", str(REAL))
    requests = BurstGPT().build(0)
    assert (requests.prompt_tokens[0], requests.output_tokens[0], requests.arrival_s[1]) == (472, 18, 40.0)
