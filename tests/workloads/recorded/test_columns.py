"""Columns by their own names: those of known formats are recognised, others can be told."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from policies.checks import InputError
from workloads import Frame, Requests, Trace

HEADERS = {
    "Azure": ("TIMESTAMP,ContextTokens,GeneratedTokens", ("2026-01-02 03:04:05", "2026-01-02 03:04:07.5")),
    "BurstGPT": ("Timestamp,Request tokens,Response tokens", (3, 5.5)),
    "Mooncake": ("timestamp,input_length,output_length", (3000, 5500)),
    "Vidur": ("arrived_at,num_prefill_tokens,num_decode_tokens", (0.0, 2.5)),
    "Splitwise": ("arrival_timestamp,prompt_size,token_size", (0.25, 2.75)),
    "LLMServingSim": ("arrival_time_ns,input_toks,output_toks", (0, 2_500_000_000)),
}


def table(header: str, times: tuple[object, ...]) -> str:
    """Return two requests under a header."""
    return header + "\n" + "".join(f"{time},{9 + place},{2 + place}\n" for place, time in enumerate(times))


def assert_two(requests: Requests) -> None:
    assert requests.arrival_s.tolist() == [0.0, 2.5]
    assert (requests.prompt_tokens.tolist(), requests.output_tokens.tolist()) == ([9, 10], [2, 3])


@pytest.mark.parametrize("title", HEADERS)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "trace"])
def test_known_headers_are_recognised_and_it_is_said(tmp_path: Path, title: str, name: str) -> None:
    content = table(*HEADERS[title]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    requests = Trace(path=str(tmp_path / name)).build(0)
    assert_two(requests)
    assert any(note.startswith(f"read as {title}'s: ") for note in requests.notes)


def test_tabs_may_stand_between_cells(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(table(*HEADERS["LLMServingSim"]).replace(",", "\t"))
    assert_two(Trace(path=str(tmp_path / "t.tsv")).build(0))


def test_a_list_of_objects_is_a_trace(tmp_path: Path) -> None:
    rows = [{"arrived_at": 0, "num_prefill_tokens": 9, "num_decode_tokens": 2}]
    rows.append({"arrived_at": 2.5, "num_prefill_tokens": 10, "num_decode_tokens": 3})  # type: ignore[dict-item]
    (tmp_path / "t.json").write_text(json.dumps(rows, indent=1))
    assert_two(Trace(path=str(tmp_path / "t.json")).build(0))


def test_bailians_columns_are_told_from_mooncakes(tmp_path: Path) -> None:
    row = {"input_length": 30, "output_length": 2, "hash_ids": [1, 2]}
    bailian = [{"chat_id": n, "parent_chat_id": -1, "timestamp": 2.5 * n} | row for n in range(2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, bailian)))
    requests = Trace(path=str(tmp_path / "t.jsonl")).build(0)
    assert (requests.arrival_s.tolist(), requests.hash_tokens) == ([0, 2.5], 16)


def test_names_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("when_ms,in,out,who\n100,9,2,a\n2600,10,3,b\n")
    columns = {"arrival_s": "when_ms", "prompt_tokens": "in", "output_tokens": "out"}
    requests = Trace(path=str(path), columns=columns).build(0)
    assert_two(requests)
    assert "1 column ignored: who" in requests.notes
    assert_two(Frame(frame=pd.read_csv(path), columns=columns).build(0))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"arrival": "t"},
            r"workload\.columns has 'arrival': did you mean arrival_s\? its keys are arrival_s, prompt_tokens",
        ),
        ({"unit": "ms"}, r"workload\.columns has 'unit'"),
        ({"arrival_s": 5}, r"workload\.columns is .*: give names"),
        ("arrival_s", r"workload\.columns is 'arrival_s': give names"),
        ({"priority": "urgency"}, "no column urgency: add or rename it; it has"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, columns: Any, said: str) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(InputError, match=said):
        Trace(path=str(tmp_path / "t.csv"), columns=columns).build(0)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"input_lens": [3], "output_lens": [4], "ttfts": [0.1]}, "vLLM's results"),
        ({"metadata": {}, "metrics": {}}, "AIPerf's records: workload=measured"),
        ({"session_id": "a", "arrival_time_ns": 0, "sub_requests": []}, "sessions with tools"),
        ({"id": "a", "conversations": []}, "conversations in words"),
        ({"model_type": "llama"}, "model=hf model.path=FOLDER"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_no_trace_is_named_with_what_reads_it(
    tmp_path: Path, record: dict[str, Any], said: str, indent: int | None
) -> None:
    (tmp_path / "t.csv").write_text(json.dumps(record, indent=indent))
    with pytest.raises(InputError, match=said):
        Trace(path=str(tmp_path / "t.csv")).build(0)


def test_another_format_is_named_to_a_workload_of_one(tmp_path: Path) -> None:
    from workloads import Azure

    (tmp_path / "t.csv").write_text(table(*HEADERS["BurstGPT"]))
    with pytest.raises(InputError, match=r"no column TIMESTAMP.*BurstGPT's columns: workload=trace reads them"):
        Azure(path=str(tmp_path / "t.csv")).build(0)
