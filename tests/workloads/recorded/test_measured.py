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


HEADER = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s"


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
        ({"latencies": [0.4, 0.3, 0, 0.2]}, "request 0, column ttfts: is 0.5, not at most the 0.4 s after which the"),
        (
            {"latencies": [0.6, 0.3, 0, 0.2], "itls": [[9, 9], [], [], []]},
            "request 0, column latencies: is 0.6, not a ",
        ),
        ({"latencies": 7}, "latencies is 7, not a list with an entry for each request"),
        ({"itls": [[float("inf"), 0.1], [], [], []]}, "request 0, column itls: is [inf, 0.1], not a list of times"),
        ({"ttfts": [float("nan"), 0, 0, 0]}, "request 0, column ttfts: is nan, not a time from 0"),
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


def test_a_file_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InputError, match=r"measured=gone\.json: there is no such file"):
        read(Path("gone.json"))
    with pytest.raises(InputError, match="measured is missing"):
        Measured()


def test_what_failed_may_have_no_times_and_is_counted(tmp_path: Path) -> None:
    nulls = {name: [*VLLM[name][:2], None, VLLM[name][3]] for name in ("ttfts", "itls", "start_times", "output_lens")}
    run = read(vllm(tmp_path, **nulls, latencies=[0.95, 0.3, None, 0.2]))
    np.testing.assert_allclose(run.e2e_s, [0.3, 0.95, 0.2])
    assert "1 request that failed left out" in run.demand.notes
    table = tmp_path / "run.csv"
    table.write_text(f"{HEADER}\n0,10,2,0.1,0.3\n1,10,2,,\n2,10,2,0.1,0.4\n")
    assert read(table).demand.notes == ("1 request that failed left out",)


def test_prompts_of_no_token_are_left_out_and_counted(tmp_path: Path) -> None:
    run = read(vllm(tmp_path, input_lens=[10, 0, 0, 40]))
    assert run.demand.prompt_tokens.tolist() == [10, 40]
    assert "1 request with a prompt of 0 tokens (input_lens) left out" in run.demand.notes
    with pytest.raises(InputError, match="request 0, column input_lens: is 0, not a whole number from 1"):
        read(vllm(tmp_path, input_lens=[0] * 4))
    kept = read(aiperf(tmp_path, record(5, prompt=0), record(6)))
    assert kept.demand.prompt_tokens.tolist() == [550]


def test_without_gaps_but_with_latencies_itl_alone_is_missing(tmp_path: Path) -> None:
    run = read(vllm(tmp_path, itls=..., latencies=[0.95, 0.3, 0.0, 0.2]))
    np.testing.assert_allclose(run.ttft_s, [0.25, 0.5, 0.1])
    assert run.gaps_s is None
    assert run.remarks == ("the file has no times between tokens of every answer: ITL is not compared",)


@pytest.mark.parametrize(("gaps", "remarked"), [([0.1, 0.1, 0.1], True), ([0.2], True), ([0.1, 0.2], False)])
def test_pieces_that_are_no_tokens_are_remarked(tmp_path: Path, gaps: list[float], remarked: bool) -> None:
    told = f"1 answer of 3 came in other pieces than tokens ({len(gaps)} gaps for 3 tokens)"
    assert [remark.startswith(told) for remark in read(vllm(tmp_path, itls=[gaps, [], [], [0.05]])).remarks] == (
        [True] if remarked else []
    )
    pieces = read(aiperf(tmp_path, streamed(5, [10.0] * len(gaps), output=3))).remarks
    assert bool(pieces) is remarked


def test_the_file_may_say_what_answered(tmp_path: Path) -> None:
    said = read(vllm(tmp_path, model_id="org/some-70b", tensor_parallel_size="4", pipeline_parallel_size=2))
    assert (said.model, said.gpus, said.client) == ("org/some-70b", 8, "vLLM")
    unsaid = read(vllm(tmp_path))
    assert (unsaid.model, unsaid.gpus, unsaid.client) == (None, None, "vLLM")
    table = tmp_path / "run.csv"
    table.write_text(f"{HEADER},model,num_gpus\n0,10,2,0.1,0.3,mine-7b,2\n")
    assert (read(table).model, read(table).gpus, read(table).client) == ("mine-7b", 2, None)


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", ["vllm", "table"])
def test_times_since_1970_are_read_in_their_unit(tmp_path: Path, kind: str, per_second: int) -> None:
    sent = [int(1_771_000_000.25 * per_second), int(1_771_000_001.5 * per_second)]
    if kind == "vllm":
        lists = {name: [values[0], values[3]] for name, values in VLLM.items() if isinstance(values, list)}
        path = vllm(tmp_path, **lists | {"start_times": sent})
    else:
        path = tmp_path / "run.csv"
        path.write_text(f"{HEADER}\n{sent[0]},9,2,0.1,0.2\n{sent[1]},9,2,0.1,0.2\n")
    demand = read(path).demand
    assert demand.recorded_s is not None
    np.testing.assert_allclose(demand.recorded_s, [0, 1.25 if per_second > 1 else 1], atol=1e-6)
    assert any("seconds since 1970: the first is 2026-02-13" in note for note in demand.notes) is (per_second > 1)


def test_two_clocks_in_one_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    for times, message in (
        ((1.771e12, 1.771e12, 5), "column arrival_s: is '5', not a time in milliseconds since 1970, as the others are"),
        ((0, 1, 1.771e9), "column arrival_s: is '1771000000.0', not a time of the same clock as the others"),
    ):
        path.write_text("\n".join([HEADER, *(f"{time},9,2,0.1,0.2" for time in times)]))
        with pytest.raises(InputError, match=message):
            read(path)


def test_aiperf_of_autumn_2025_is_read(tmp_path: Path) -> None:
    def old(start_ns: int, phase: str, **changes: Any) -> dict[str, Any]:
        line = record(start_ns)
        line["metadata"] = {"turn_index": 0, "timestamp_ns": start_ns, "credit_phase": phase, "worker_id": "w"}
        line["metrics"]["ttft"] = line["metrics"].pop("time_to_first_token")
        return line | changes

    run = read(aiperf(tmp_path, old(3, "warmup"), old(10**9, "profiling"), old(2 * 10**9, "profiling")))
    assert run.demand.recorded_s is not None
    assert run.demand.recorded_s.tolist() == [0, 1]
    np.testing.assert_allclose(run.ttft_s, 0.25)
    assert run.demand.notes == ("1 request that failed or were not profiled left out",)
    reasoned = old(5, "profiling")
    del reasoned["metrics"]["output_sequence_length"]
    reasoned["metrics"] |= {
        name: {"value": 7, "unit": "tokens"} for name in ("output_token_count", "reasoning_token_count")
    }
    assert read(aiperf(tmp_path, reasoned)).demand.output_tokens.tolist() == [14], "shown, and of reasoning"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,9,2,0.5,0.25", "line 3, column ttft_s: is '0.5', not at most the 0.25 s after which the answer ended"),
        ("0,9,2,inf,inf", "line 3, column ttft_s: is 'inf', not a time from 0"),
        ("0,9,2,0.1,-1", "line 3, column e2e_s: is '-1', not a time from 0"),
        ("inf,9,2,0.1,0.2", "line 3, column arrival_s: is 'inf', not a time from 0"),
        ("0,9,2,0.1,", "line 3, column e2e_s: is blank, not a time from 0"),
        ("0,9,0,0.1,0.2", "line 3, column output_tokens: is '0', not a whole number from 1"),
    ],
)
def test_times_that_cannot_be_are_refused_with_their_row(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(f"{HEADER}\n0,9,2,0.1,0.2\n{row}\n")
    with pytest.raises(InputError) as refusal:
        read(path)
    assert message in str(refusal.value)


def test_equal_times_may_differ_by_their_rounding(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(f"{HEADER}\n0,9,1,0.1000001,0.1\n")
    assert read(path).ttft_s.tolist() == [0.1000001]
