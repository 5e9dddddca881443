"""Hostile traces and options: each becomes requests of which something is said, or one line that refuses it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.checks import InputError
from sim.config.settings import build
from workloads.requests import Requests, Workload

CONF = Path(__file__).parents[3] / "conf/workload"
KINDS = {
    "trace": ("arrival_s", "prompt_tokens", "output_tokens", "hash_ids"),
    "azure_conv": ("TIMESTAMP", "ContextTokens", "GeneratedTokens", "priority"),
    "mooncake_synthetic": ("timestamp", "input_length", "output_length", "hash_ids"),
    "qwen_bailian": ("timestamp", "input_length", "output_length", "hash_ids"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens", "prefix_id"),
}
"""Workloads, and columns that each reads."""

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"

NUMBERS = st.sampled_from(
    [0, 1, -1, 2.5, 1e300, 10**400, 2**31, 2**63, 1.79e9, 1_790_000_000_000, float("nan"), float("inf"), True, None, "",
     "x", "1_0", "0x1", "\u0661", "1,5", "NaN", [], [1], {}, {"a": [{"b": None}]}, "2026-01-01", "2026-01-01 00:00:00Z"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["arrival_s", "prompt_tokens", "output_tokens", "TIMESTAMP", "ContextTokens", "GeneratedTokens", "timestamp",
     "input_length", "output_length", "hash_ids", "Timestamp", "Request tokens", "Response tokens", "prefix_id",
     "prefix_tokens", "priority", "chat_id", "parent_chat_id", "ttft_s", "e2e_s", "", " ", "\u00e9"]
)  # fmt: skip
FORMS = ["csv", "csv", "tsv", "ragged", "jsonl", "jsonl", "json", "columns", "binary", "pointer"]
VALUES = NUMBERS | st.sampled_from(["ms", "poisson", "trace", 16, 512, {"arrival_s": "t"}, {"unit": "s"}, ["a"]])


@st.composite
def options_of(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Options of a workload, at most two of them."""
    known = sorted(yaml.safe_load((CONF / f"{kind}.yaml").read_text()).keys() - {"_target_", "path"})
    return draw(st.dictionaries(st.sampled_from([*known, "nonsense"]), VALUES, max_size=draw(st.sampled_from([0, 2]))))


@st.composite
def contents(draw: st.DrawFn, columns: tuple[str, ...]) -> bytes:
    """Bytes of a trace that somebody may give for one with these columns."""
    names = draw(st.sampled_from([columns, columns[:3]]) | st.lists(NAMES, max_size=5))
    whole = st.sampled_from([0, 1, 600, 512, 17])
    cells = [whole, whole, whole, st.sampled_from([[1], [1, 2], []])]
    if "TIMESTAMP" in columns:
        cells[0] = st.sampled_from(["2026-01-01 00:00:07", "2026-01-01 00:00:07.5", "2026-01-01 00:00:09"])
    cells = [*cells, whole] if draw(st.booleans()) else [each | NUMBERS for each in [*cells, whole]]
    rows = draw(st.lists(st.tuples(*cells[: len(names)]).map(list), max_size=6))
    form = draw(st.sampled_from(FORMS))
    text = ""
    if form in ("csv", "tsv", "ragged"):
        rows = [row[: draw(st.integers(0, len(row)))] for row in rows] if form == "ragged" else rows
        quoted = [[f'"{cell}"' if "," in str(cell) else str(cell) for cell in line] for line in [names, *rows]]
        text = "\n".join(("\t" if form == "tsv" else ",").join(line) for line in quoted)
    elif form == "jsonl":
        text = "\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows)
    elif form == "json":
        text = json.dumps(
            [dict(zip(names, row, strict=False)) for row in rows], indent=draw(st.sampled_from([None, 1]))
        )
    elif form == "columns":
        text = json.dumps({name: [row[place] for row in rows] for place, name in enumerate(names)}, indent=1)
    elif form == "binary":
        return draw(st.binary(max_size=60)) + draw(st.sampled_from([b"", b"PAR1", b"\x1f\x8b", b"BZh9", b"PK\x03\x04"]))
    else:
        return POINTER
    data = draw(st.sampled_from(["", "\ufeff", "\n\n"])).encode() + text.encode(errors="replace")
    wrap = draw(st.sampled_from(["plain"] * 5 + ["gz", "cut", "utf-16", "latin-1"]))
    if wrap in ("gz", "cut"):
        data = gzip.compress(data, mtime=0)
        return data if wrap == "gz" else data[: draw(st.integers(0, len(data)))]
    return data if wrap == "plain" else data.decode().encode(wrap, errors="replace")


def read(kind: str, path: Path, options: dict[str, Any]) -> Requests:
    """Build a workload as the command line does, and its requests."""
    config = yaml.safe_load((CONF / f"{kind}.yaml").read_text()) | {"path": str(path)} | options
    workload: Workload = build(config, "workload")
    return workload.build(0)


@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(KINDS)), st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t.gz", "t"]))
def test_requests_or_one_line(tmp_path: Path, data: st.DataObject, kind: str, name: str) -> None:
    content, options = data.draw(contents(KINDS[kind])), data.draw(options_of(kind))
    path = tmp_path / name
    path.write_bytes(content)
    try:
        requests = read(kind, path, options)
    except InputError as refused:
        said = str(refused)
        assert "\n" not in said and len(said) < 1000
        assert any(word in said for word in ("workload.", "measured", str(path)))
    else:
        assert len(requests) == 1 or requests.notes
    assert [file.name for file in tmp_path.iterdir()] == [name]
    path.unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.gz"])
def test_a_pointer_is_named_in_every_kind_of_file(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(POINTER) if name == "t.gz" else POINTER)
    with pytest.raises(InputError, match="is a Git LFS pointer, not the file itself: run git lfs pull"):
        read(kind, tmp_path / name, {})
