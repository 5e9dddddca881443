"""Measured runs: what load generators save is read as it was meant, and bad files are told apart in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.checks import InputError
from workloads.recorded.measured import Measured, MeasuredRun

VLLM: dict[str, Any] = {
    "request_rate": 2.0,
    "max_concurrency": None,
    "input_lens": [10, 20, 30, 40],
    "output_lens": [3, 1, 0, 2],
    "ttfts": [0.5, 0.25, 0.0, 0.1],
    "itls": [[0.1, 0.3], [], [], [0.05]],
    "start_times": [101.0, 100.0, 100.5, 103.0],
    "errors": ["", "", "Internal Server Error", ""],
}


def vllm(folder: Path, **changes: Any) -> Path:
    path = folder / "vllm.json"
    content = VLLM | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return path


def record(start_ns: int, prompt: int = 550, output: int = 9, **changes: Any) -> dict[str, Any]:
    """One line of AIPerf's profile_export.jsonl."""
    return {
        "metadata": {"session_num": 0, "request_start_ns": start_ns, "benchmark_phase": "profiling",
                     "was_cancelled": False, "turn_index": 0},
        "metrics": {"input_sequence_length": {"value": prompt, "unit": "tokens"},
                    "output_sequence_length": {"value": output, "unit": "tokens"},
                    "time_to_first_token": {"value": 250.0, "unit": "ms"},
                    "request_latency": {"value": 0.65, "unit": "s"}},
        "error": None,
    } | changes  # fmt: skip


def aiperf(folder: Path, *records: Any) -> Path:
    path = folder / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in records))
    return path


def read(path: Path) -> MeasuredRun:
    return Measured(path=str(path)).run()


def test_vllm_saves_lists_in_seconds(tmp_path: Path) -> None:
    run = read(vllm(tmp_path))
    assert run.demand.recorded_s is not None
    assert run.demand.recorded_s.tolist() == [0, 1, 3]
    assert run.demand.prompt_tokens.tolist() == [20, 10, 40]
    assert run.demand.output_tokens.tolist() == [1, 3, 2]
    np.testing.assert_allclose(run.ttft_s, [0.25, 0.5, 0.1])
    np.testing.assert_allclose(run.e2e_s, [0.25, 0.9, 0.15])
    np.testing.assert_allclose(run.tpot_s, [np.nan, 0.2, 0.05])
    assert run.gaps_s is not None
    assert run.gaps_s.tolist() == [0.1, 0.3, 0.05]
    assert "1 request that failed left out" in run.demand.notes


def test_an_answer_in_one_piece_has_no_first_token(tmp_path: Path) -> None:
    run = read(vllm(tmp_path, itls=[[], [], [], [0.05]]))
    assert np.isnan(run.ttft_s).tolist() == [False, True, False]
    np.testing.assert_allclose(run.e2e_s, [0.25, 0.5, 0.15])
    assert any(note.startswith("1 answer came in one piece") for note in run.demand.notes)


def test_an_old_vllm_saves_no_times_of_sending(tmp_path: Path) -> None:
    run = read(vllm(tmp_path, start_times=..., request_rate="inf"))
    assert run.demand.recorded_s is not None
    assert not run.demand.recorded_s.any()


def test_a_newer_vllm_says_itself_how_long_an_answer_took(tmp_path: Path) -> None:
    run = read(vllm(tmp_path, latencies=[0.95, 0.3, 0.0, 0.2], itls=[[], [], [], [0.05]], queue_times=[0.0] * 4))
    np.testing.assert_allclose(run.e2e_s, [0.3, 0.95, 0.2])
    np.testing.assert_allclose(run.ttft_s, [0.25, np.nan, 0.1])


def test_a_closed_loop_is_said_to_be_one(tmp_path: Path) -> None:
    assert any("held 8 requests in flight" in note for note in read(vllm(tmp_path, max_concurrency=8)).demand.notes)


def test_aiperf_saves_records_with_units(tmp_path: Path) -> None:
    now = 1_759_813_207_532_900_363
    run = read(
        aiperf(
            tmp_path,
            record(now + 1_500_000_000, prompt=7),
            record(now),
            record(now, error={"code": 499, "message": "cancelled"}, metrics={}),
            record(now - 10**9, metadata={"request_start_ns": 1, "benchmark_phase": "warmup"}),
            record(now, metadata={"request_start_ns": 1, "was_cancelled": True}),
        )
    )
    assert run.demand.recorded_s is not None
    assert run.demand.recorded_s.tolist() == [0, 1.5]
    assert run.demand.prompt_tokens.tolist() == [550, 7]
    np.testing.assert_allclose(run.ttft_s, 0.25)
    np.testing.assert_allclose(run.tpot_s, 0.05)
    assert run.demand.notes == ("3 requests that failed or were not profiled left out",)


def streamed(start_ns: int, gaps: Any, **changes: Any) -> dict[str, Any]:
    """A line as AIPerf 0.10 writes it: nothing that is null, the times between pieces, what the server counted."""
    line = record(start_ns, **changes)
    del line["error"]
    line["metadata"] |= {"credit_issued_ns": start_ns - 9, "request_end_ns": start_ns + 650_000_000, "agent_depth": 0}
    line["metrics"] |= {
        "inter_chunk_latency": {"value": gaps, "unit": "ms"},
        "usage_prompt_cache_read_tokens": {"value": 400, "unit": "tokens"},
        "osl_mismatch_diff_pct": {"value": 0.0, "unit": "%"},
    }
    return line


def test_a_streamed_run_has_its_gaps_and_says_what_the_server_had_cached(tmp_path: Path) -> None:
    failed = record(7, error={"code": 500, "type": "E", "message": "m"}, metrics={"error_isl": {"value": 9}})
    one_token = record(9, output=1)
    run = read(aiperf(tmp_path, streamed(8, [50, 350]), failed, streamed(5, [10.5]), one_token))
    assert run.gaps_s is not None
    np.testing.assert_allclose(run.gaps_s, [0.0105, 0.05, 0.35])
    assert run.demand.notes == (
        "1 request that failed or were not profiled left out",
        "the server found 800 prompt tokens in its prefix cache; here all are computed",
    )
    assert read(aiperf(tmp_path, streamed(8, [50]), record(9))).gaps_s is None, "one of them was not streamed"


def test_without_streaming_aiperf_knows_no_first_token(tmp_path: Path) -> None:
    each = record(5)
    del each["metrics"]["time_to_first_token"]
    run = read(aiperf(tmp_path, each))
    assert np.isnan(run.ttft_s).all()
    np.testing.assert_allclose(run.e2e_s, 0.65)


def test_a_table_may_say_what_was_shared_and_what_did_not_finish(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(
        "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s,prefix_id,prefix_tokens,status\n"
        "0,10,2,0.5,0.7,a,4,finished\n1,10,2,,,,,unfinished\n2,10,2,0.1,0.2,,,finished\n"
    )
    run = read(path)
    assert run.demand.prefix_tokens is not None
    assert run.demand.prefix_tokens.tolist() == [4, 0]
    np.testing.assert_allclose(run.e2e_s, [0.7, 0.2])


def test_its_requests_are_a_workload(tmp_path: Path) -> None:
    requests = Measured(path=str(vllm(tmp_path)), num_requests=2, max_new_tokens="oracle").build(0)
    assert requests.arrival_s.tolist() == [0, 1]
    assert requests.max_new_tokens.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttfts": ..., "itls": ...}, "no ttfts, itls: save each request, vllm bench serve --save-result --save-deta"),
        ({"start_times": ...}, "no start_times, so it is not known when requests were sent"),
        ({"ttfts": [0.5]}, "lists of different lengths (input_lens 4, output_lens 4, ttfts 1, "),
        ({"ttfts": [0.5, "x", 0, 0]}, "request 1, column ttfts: is 'x', not a time from 0"),
        ({"itls": [[], [], [], 3]}, "request 3, column itls: is 3, not a list of times"),
        ({"input_lens": [1.5, 1, 1, 1]}, "request 0, column input_lens: is 1.5, not a whole number"),
        ({"errors": ["no"] * 4}, "no request was answered"),
        ({name: [] for name, values in VLLM.items() if isinstance(values, list)}, "no request was sent"),
    ],
)
def test_a_bad_vllm_file_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = vllm(tmp_path, **changes)
    with pytest.raises(InputError) as refusal:
        read(path)
    assert str(refusal.value).startswith(f"{path}")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def latency_of(value: Any, unit: str = "ms") -> dict[str, Any]:
    each = record(5)
    each["metrics"]["request_latency"] = {"value": value, "unit": unit}
    return each


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"a": 1}], "no column metadata, metrics"),
        ([record(5), record(5, metrics=3)], "line 2, column metrics: is 3, not an object"),
        ([record(5, metadata={"request_start_ns": "x"})], "line 1, column request_start_ns: is 'x', not a whole numb"),
        ([record(5, metrics={})], "line 1, column input_sequence_length: is blank, not a whole number"),
        ([record(5), latency_of("slow")], "line 2, column request_latency: is 'slow', not a time"),
        ([latency_of(5, "furlongs")], "line 1, column request_latency: is '5 furlongs', not a time"),
        ([streamed(5, 7)], "line 1, column inter_chunk_latency: is {'value': 7, 'unit': 'ms'}, not a list of times"),
        ([streamed(5, [7, -1])], "line 1, column inter_chunk_latency: is [0.007, -0.001], not a list of times"),
        ([record(5, error={"code": 500})], "no request was answered"),
    ],
)
def test_a_bad_aiperf_file_is_one_line(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        read(aiperf(tmp_path, *records))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, text, message in (
        ("two.json", '{"a": 1}\n{"a": 2}', "--append-result puts several runs into one file"),
        ("list.json", "[1]", "holds no JSON object"),
        ("run.txt", "x", "unknown kind of file"),
        ("empty.json", "", "is empty"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
    with pytest.raises(InputError, match=r"measured=gone\.json: there is no such file"):
        read(Path("gone.json"))
    with pytest.raises(InputError, match="measured is missing"):
        Measured()
