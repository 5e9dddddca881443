"""The user's own trace: what is read, what is said about it, and every way in which it can be wrong."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.checks import InputError
from workloads import Requests, Trace

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"


def build(path: Path, content: str | bytes | None = None, **options: Any) -> Requests:
    """Write the content, if any, and build the requests of the trace."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Trace(path=str(path), **options).build(0)


def refusal(path: Path, content: str | bytes | None = None, **options: Any) -> str:
    """Return the one line with which a trace is refused."""
    with pytest.raises(InputError) as refused:
        build(path, content, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestReading:
    """Sound traces."""

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".CSV"])
    def test_all_formats_give_the_same_requests(self, tmp_path: Path, suffix: str) -> None:
        rows = pd.DataFrame(
            {
                "arrival_s": [0.0, 0.25, 7.0],
                "prompt_tokens": [5, 6, 7],
                "output_tokens": [1, 2, 3],
                "priority": [0, -1, 2],
                "prefix_id": ["system", None, "system"],
                "prefix_tokens": [4, 0, 4],
            }
        )
        path = tmp_path / f"trace{suffix}"
        write: dict[str, Callable[[Path], object]] = {
            ".csv": lambda path: rows.to_csv(path, index=False),
            ".jsonl": lambda path: path.write_text(rows.to_json(orient="records", lines=True)),
            ".parquet": lambda path: rows.to_parquet(path),
        }
        write[suffix.lower()](path)
        requests = build(path)
        assert requests.arrival_s.tolist() == [0.0, 0.25, 7.0]
        assert requests.prompt_tokens.tolist() == [5, 6, 7]
        assert requests.output_tokens.tolist() == [1, 2, 3]
        assert requests.max_new_tokens.tolist() == [3, 3, 3]
        assert requests.priority.tolist() == [0, -1, 2]
        assert requests.prefix_id.tolist() == [0, -1, 0]
        assert requests.prefix_tokens.tolist() == [4, 0, 4]
        assert requests.notes == ("recorded: 3 requests in 7 s, 0.286 requests/s",) and requests.share_prefixes
        assert requests.name == path.name

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
    def test_hashes_come_in_lists(self, tmp_path: Path, suffix: str) -> None:
        rows = pd.DataFrame(
            {
                "arrival_s": [0.0, 1.0, 2.0],
                "prompt_tokens": [600, 1024, 5],
                "output_tokens": [1, 2, 3],
                "hash_ids": [[7], [7, 0], []],
            }
        )
        path = tmp_path / f"trace{suffix}"
        write: dict[str, Callable[[Path], object]] = {
            ".csv": lambda path: rows.to_csv(path, index=False),
            ".jsonl": lambda path: path.write_text(rows.to_json(orient="records", lines=True)),
            ".parquet": lambda path: rows.to_parquet(path),
        }
        write[suffix](path)
        requests = build(path)
        assert requests.prefix_hashes is not None
        assert requests.prefix_hashes.tolist() == [(7,), (7, 0), ()]

    def test_optional_columns_have_defaults(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "0,5,1\n")
        assert (requests.priority.tolist(), requests.prefix_id.tolist(), requests.prefix_tokens.tolist()) == (
            [0], [-1], [0],
        )  # fmt: skip

    def test_byte_order_mark_spaces_blank_lines_and_whole_floats_are_fine(self, tmp_path: Path) -> None:
        content = "\ufeff arrival_s , prompt_tokens,output_tokens\r\n\r\n0, 5.0 ,1\r\n\r\n1e0,6,2\r\n\r\n"
        requests = build(tmp_path / "t.csv", content)
        assert requests.arrival_s.tolist() == [0.0, 1.0]
        assert requests.prompt_tokens.tolist() == [5, 6]

    def test_unsorted_rows_are_sorted_and_it_is_said(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "0,1,1\n9,2,2\n3,3,3\n4,4,4\n")
        assert requests.prompt_tokens.tolist() == [1, 3, 4, 2]
        assert requests.notes[0] == "2 rows out of order: all rows sorted by arrival time"

    def test_duplicate_times_are_kept_in_file_order_and_it_is_said(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "0,1,1\n2,3,1\n2,2,1\n2,4,1\n")
        assert requests.prompt_tokens.tolist() == [1, 3, 2, 4]
        assert requests.notes[0] == "3 requests share their arrival time with another (kept)"

    def test_arrivals_are_shifted_to_start_at_zero_and_it_is_said(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "100.5,1,1\n102,2,2\n")
        assert requests.arrival_s.tolist() == [0.0, 1.5]
        assert requests.notes[0] == "arrivals shifted by -100.500 s so that the first is at 0"

    def test_other_columns_are_ignored_and_named(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", 'arrival_s,user,prompt_tokens,output_tokens,text\n0,"a,b",1,1,"x\ny"\n')
        assert requests.notes == ("2 columns ignored: user, text",)

    def test_blank_or_minus_one_means_no_prefix(self, tmp_path: Path) -> None:
        header = "arrival_s,prompt_tokens,output_tokens,prefix_id,prefix_tokens\n"
        requests = build(tmp_path / "t.csv", header + "0,9,1,,\n1,9,1,-1,0\n2,9,1,17,3\n3,9,1,0,9\n")
        assert requests.prefix_id.tolist() == [-1, -1, 0, 1]
        assert requests.prefix_tokens.tolist() == [0, 0, 3, 9]

    def test_num_requests_takes_the_first_by_arrival_but_the_cap_of_all(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "5,5,50\n0,1,1\n1,2,2\n", num_requests=2)
        assert requests.prompt_tokens.tolist() == [1, 2]
        assert requests.max_new_tokens.tolist() == [50, 50]

    def test_a_rate_multiplier_speeds_arrivals_up(self, tmp_path: Path) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "0,1,1\n3,2,2\n", rate_multiplier=2.0)
        assert requests.arrival_s.tolist() == [0.0, 1.5]
        assert requests.arrivals == "trace, 2 times as fast"

    @pytest.mark.parametrize(
        "options",
        [{"arrival": "poisson", "rate": 2.0}, {"arrival": "all_at_once"}, {"arrival": "closed_loop", "concurrency": 2}],
    )
    def test_other_arrivals_keep_the_lengths_in_order(self, tmp_path: Path, options: dict[str, Any]) -> None:
        requests = build(tmp_path / "t.csv", HEADER + "0,1,4\n3,2,5\n8,3,6\n", **options)
        assert requests.prompt_tokens.tolist() == [1, 2, 3]
        assert requests.output_tokens.tolist() == [4, 5, 6]
        assert requests.arrival_s.tolist() != [0.0, 3.0, 8.0]
        assert requests.notes[-1] == f"recorded arrivals replaced: {requests.arrivals}"


# (the third row of a trace, what the refusal says of it)
BAD_CELLS = [
    ("2,,1", "column prompt_tokens: is blank, not a whole number from 1"),
    ("2,nan,1", "column prompt_tokens: is 'nan'"),
    ("2,inf,1", "column prompt_tokens: is 'inf'"),
    ("2,0,1", "column prompt_tokens: is '0', not a whole number from 1 to 2147483647: correct it or remove the row"),
    ("2,-3,1", "column prompt_tokens: is '-3'"),
    ("2,2.5,1", "column prompt_tokens: is '2.5'"),
    ("2,many,1", "column prompt_tokens: is 'many'"),
    ("2,True,1", "column prompt_tokens: is 'True'"),
    ("2,1_000,1", "column prompt_tokens: is '1_000'"),
    ("2,2147483648,1", "column prompt_tokens: is '2147483648'"),
    ("2," + "9" * 400 + ",1", "column prompt_tokens: is '9999"),
    ("2,5,0", "column output_tokens: is '0'"),
    ("2,5,", "column output_tokens: is blank"),
    ("-1,5,1", "column arrival_s: is '-1', not a time from 0 to 1e+15"),
    (",5,1", "column arrival_s: is blank"),
    ("nan,5,1", "column arrival_s: is 'nan'"),
    ("inf,5,1", "column arrival_s: is 'inf'"),
    ("1e300,5,1", "column arrival_s: is '1e300'"),
    ("noon,5,1", "column arrival_s: is 'noon'"),
]
BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"prompt_tokens": None}, "column prompt_tokens: is blank"),
    ({"prompt_tokens": "5"}, "column prompt_tokens: is '5'"),
    ({"prompt_tokens": True}, "column prompt_tokens: is True"),
    ({"prompt_tokens": 0}, "column prompt_tokens: is 0"),
    ({"prompt_tokens": [5]}, "column prompt_tokens: is [5]"),
    ({"prompt_tokens": 10**400}, "column prompt_tokens: is 1000"),
    ({"output_tokens": 1.5}, "column output_tokens: is 1.5"),
    ({"arrival_s": float("nan")}, "column arrival_s: is nan"),
    ({"arrival_s": float("inf")}, "column arrival_s: is inf"),
    ({"arrival_s": -0.5}, "column arrival_s: is -0.5"),
    ({"priority": None}, "column priority: is blank"),
    ({"priority": "high"}, "column priority: is 'high'"),
    ({"prefix_tokens": 6}, "column prefix_tokens: is 6, not at most prompt_tokens"),
    ({"prefix_tokens": None}, "column prefix_tokens: is blank"),
    ({"prefix_id": None}, "column prefix_tokens: is 2, not 0 or blank"),
    ({"prefix_id": 1.5}, "column prefix_id: is 1.5, not a whole number or a name"),
    ({"prefix_id": float("inf")}, "column prefix_id: is inf"),
    ({"prefix_id": True}, "column prefix_id: is True"),
    ({"prefix_id": {"a": 1}}, "column prefix_id: is {'a': 1}"),
    ({"hash_ids": [1, -1]}, "column hash_ids: is [1, -1], not a list of whole numbers"),
    ({"hash_ids": [1.5]}, "column hash_ids: is [1.5]"),
    ({"hash_ids": 7}, "column hash_ids: is 7"),
    ({"hash_ids": "[1"}, "column hash_ids: is '[1'"),
]
GOOD_VALUE = {
    "arrival_s": 0.5, "prompt_tokens": 5, "output_tokens": 1, "priority": 0, "prefix_id": "p", "prefix_tokens": 2,
}  # fmt: skip

FRAGMENTS = [
    HEADER, '{"arrival_s": 0, "prompt_tokens": 5, "output_tokens": 1}', "prefix_id,prefix_tokens", "0,5,1", "-1",
    "1e999", "nan", '"', ",", "\n", "\r", "\0", "{", "}", "[", ":", "\ufeff", "\u0661", " ",
]  # fmt: skip


class TestRefusals:
    """Everything that can be wrong is said in one line: what, where, and how to mend it."""

    @pytest.mark.parametrize(("row", "message"), BAD_CELLS)
    def test_csv_cells(self, tmp_path: Path, row: str, message: str) -> None:
        said = refusal(tmp_path / "t.csv", HEADER + f"0,5,1\n\n1,5,1\n{row}\n3,5,1\n")
        assert f"t.csv, line 5, {message}" in said

    @pytest.mark.parametrize(("change", "message"), BAD_VALUES)
    def test_jsonl_values(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        rows = [GOOD_VALUE, GOOD_VALUE | change, GOOD_VALUE]
        if "hash_ids" in change:
            rows = [{key: row[key] for key in row if not key.startswith("prefix")} for row in rows]
        said = refusal(tmp_path / "t.jsonl", "\n" + "\n".join(json.dumps(row) for row in rows))
        assert f"t.jsonl, line 3, {message}" in said

    def test_jsonl_key_missing_in_one_line(self, tmp_path: Path) -> None:
        content = json.dumps(GOOD_VALUE) + "\n" + '{"arrival_s": 1, "prompt_tokens": 3}\n'
        assert "t.jsonl, line 2, column output_tokens: is blank" in refusal(tmp_path / "t.jsonl", content)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([5, None], "row 2, column prompt_tokens: is nan"),
            ([5, -1], "row 2, column prompt_tokens: is -1"),
            ([True, False], "row 1, column prompt_tokens: is True"),
            (["5", "6"], "row 1, column prompt_tokens: is '5'"),
            ([pd.Timestamp(0), pd.Timestamp(1)], "row 1, column prompt_tokens: is Timestamp"),
            ([[1], [2]], "row 1, column prompt_tokens: is array"),
            ([2**40, 1], "row 1, column prompt_tokens: is 1099511627776"),
        ],
    )
    def test_parquet_values(self, tmp_path: Path, values: list[Any], message: str) -> None:
        path = tmp_path / "t.parquet"
        pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": values, "output_tokens": [1, 1]}).to_parquet(path)
        assert message in refusal(path)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", "", "t.csv: is empty"),
            ("t.csv", "\n\n", "no column arrival_s, prompt_tokens, output_tokens: add or rename it; it has none"),
            ("t.csv", HEADER, "t.csv: has columns but no rows"),
            ("t.csv", HEADER.strip(), "t.csv: has columns but no rows"),
            ("t.csv", "arrival_s,prompt\n0,1\n", "no column prompt_tokens, output_tokens: add or rename it"),
            ("t.csv", HEADER.replace(",", ";") + "0;1;1\n", "it has arrival_s;prompt_tokens;output_tokens"),
            ("t.csv", "0.0,5,1\n1.0,5,1\n", "no column arrival_s"),
            ("t.csv", "arrival_s,arrival_s,prompt_tokens,output_tokens\n0,0,1,1\n", "2 columns are called arrival_s"),
            ("t.csv", HEADER + "0,1,1\n1,1,1,1\n", "t.csv, line 3: 4 fields, but the header has 3"),
            ("t.csv", HEADER + "0,1,1\n1,1\n", "t.csv, line 3: 2 fields, but the header has 3"),
            ("t.csv", PNG, "t.csv: is binary, and no Parquet"),
            ("t.csv", HEADER.encode() + b"0,1,1\n" * 5000 + b"0,\0,1\n", "line 5002, column prompt_tokens: is '\\x00'"),
            ("t.csv", HEADER.encode() + b"0,caf\xe9,1\n", "t.csv: not UTF-8 text"),
            ("t.csv", b"caf\xe9," + HEADER.encode() + b"0,0,1,1\n", "t.csv: not UTF-8 text"),
            ("t.csv", (HEADER + "0,1,1\n").encode("utf-16"), "t.csv: is UTF-16 text"),
            ("t.csv", HEADER + '0,"1,1\n1,1,1\n', "t.csv"),
            ("t.csv", HEADER[:-1] + ",prefix_id\n0,1,1,a\n", "prefix_id and prefix_tokens need each other"),
            ("t.csv", HEADER[:-1] + ",prefix_tokens\n0,1,1,1\n", "prefix_id and prefix_tokens need each other"),
            ("t.jsonl", "", "t.jsonl: is empty"),
            ("t.jsonl", "\n", "t.jsonl: no column arrival_s"),
            ("t.jsonl", "{}\n", "t.jsonl: no column arrival_s, prompt_tokens, output_tokens"),
            ("t.jsonl", '{"arrival_s": 0, "output": 1}\n', "add or rename it; it has arrival_s, output"),
            ("t.jsonl", '\n{"arrival_s": 0,\n', "t.jsonl, line 2: not valid JSON"),
            ("t.jsonl", '{"arrival_s": ' + "9" * 5000 + "}\n", "t.jsonl, line 1: not valid JSON"),
            ("t.jsonl", "[" * 100_000 + "\n", "t.jsonl: not valid JSON"),
            ("t.jsonl", "[1, 2]\n", "t.jsonl, entry 1: not a JSON object"),
            ("t.jsonl", "7\n", "t.jsonl: no column arrival_s, prompt_tokens, output_tokens"),
            ("t.jsonl", PNG, "t.jsonl: is binary"),
            ("t.jsonl", b'{"arrival_s": "\xe9"}\n', "t.jsonl: not UTF-8 text"),
            ("t.parquet", b"", "t.parquet: is empty"),
            ("t.parquet", PNG, "t.parquet: is binary, and no Parquet"),
            ("t.parquet", b"PAR1" + b"\xff" * 64 + b"PAR1", "t.parquet: cannot be read as parquet"),
            ("t.json", "{}", "t.json: no column arrival_s"),
            ("t.csv.gz", b"\x1f\x8b\x08\x00", "t.csv.gz: cannot be decompressed"),
            ("trace", "x", "trace: no column arrival_s"),
        ],
    )  # fmt: skip
    def test_files(self, tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
        assert message in refusal(tmp_path / name, content)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        content=st.binary(max_size=100)
        | st.lists(st.sampled_from(FRAGMENTS)).map(lambda parts: "".join(parts).encode()),
        suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]),
    )
    def test_any_bytes_make_requests_or_a_refusal(self, tmp_path: Path, content: bytes, suffix: str) -> None:
        for start in ("", HEADER + "0,5,1\n"):
            with contextlib.suppress(InputError):
                build(tmp_path / f"t{suffix}", start.encode() + content)

    def test_damaged_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pd.DataFrame(
            {"arrival_s": np.arange(9000.0), "prompt_tokens": 1 + np.arange(9000), "output_tokens": 1}
        ).to_parquet(path)
        whole = path.read_bytes()
        assert "cannot be read as parquet" in refusal(path, whole[: len(whole) // 2])
        assert "cannot be read as parquet" in refusal(path, whole[:4] + b"\xff" * 5000 + whole[5004:])

    def test_parquet_without_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pd.DataFrame({"arrival_s": [], "prompt_tokens": [], "output_tokens": []}).to_parquet(path)
        assert "has columns but no rows" in refusal(path)

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").mkdir()
        assert "t.csv: is a folder" in refusal(tmp_path / "t.csv")

    def test_a_pipe_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "t.csv")
        assert "t.csv: is not a regular file" in refusal(tmp_path / "t.csv")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert "there is no such file: correct the path" in refusal(tmp_path / "t.csv")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_a_forbidden_file(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text(HEADER)
        (tmp_path / "t.csv").chmod(0)
        assert "Permission denied" in refusal(tmp_path / "t.csv")

    @pytest.mark.parametrize("name", ["\0.csv", "x" * 5000 + ".csv"])
    def test_impossible_names(self, tmp_path: Path, name: str) -> None:
        assert "there is no such file" in refusal(tmp_path / name)

    @pytest.mark.parametrize("path", [5, "", ["a.csv"]])
    def test_a_path_that_is_none(self, path: Any) -> None:
        with pytest.raises(InputError, match=r"workload\.path is"):
            Trace(path=path).build(0)

    def test_no_path(self) -> None:
        with pytest.raises(InputError, match=r"workload\.path is missing: give workload\.path=FILE"):
            Trace()

    def test_more_requests_than_rows(self, tmp_path: Path) -> None:
        said = refusal(tmp_path / "t.csv", HEADER + "0,1,1\n", num_requests=2)
        assert said.startswith("workload.num_requests is 2, but t.csv has 1: ask for at most 1")
