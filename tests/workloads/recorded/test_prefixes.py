"""Hashes of prefixes agree with lengths, and stand for all that comes before them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import InputError
from tests.runs import object_array
from workloads import Mooncake, QwenBailian, Requests, Trace
from workloads.recorded.prefixes import chained, lengths


def build(folder: Path, rows: list[tuple[int, list[int] | None]], **options: Any) -> Requests:
    """Build the requests of a trace of prompts with hashes."""
    path = folder / "t.jsonl"
    lines = [
        {"arrival_s": place, "prompt_tokens": tokens, "output_tokens": 1, "hash_ids": hashes}
        for place, (tokens, hashes) in enumerate(rows)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return Trace(path=str(path), **options).build(0)


@pytest.mark.parametrize("hashes", [[4], [4, 5]])
def test_the_last_block_may_have_a_hash_or_none(tmp_path: Path, hashes: list[int]) -> None:
    assert build(tmp_path, [(700, hashes)]).hash_tokens == 512


@pytest.mark.parametrize("size", [16, 32, 128, 1024])
def test_tokens_per_hash_are_told_by_their_numbers(tmp_path: Path, size: int) -> None:
    requests = build(tmp_path, [(9 * size + 3, list(range(10))), (2 * size, [0, 1])])
    assert requests.hash_tokens == size
    assert any(f"one per {size} tokens" in note for note in requests.notes)


def test_512_is_taken_where_others_fit_too_and_it_is_said(tmp_path: Path) -> None:
    requests = build(tmp_path, [(900, [4])])
    assert requests.hash_tokens == 512
    assert any("1024" in note and "workload.hash_tokens" in note for note in requests.notes)


def test_what_is_said_holds(tmp_path: Path) -> None:
    assert build(tmp_path, [(900, [4])], hash_tokens=1024).hash_tokens == 1024
    with pytest.raises(InputError, match=r"line 1, column hash_ids: is \[4\], not 56 or 57 hashes"):
        build(tmp_path, [(900, [4])], hash_tokens=16)


def test_several_sizes_without_512_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one per 16 or 32 tokens: say which, workload\.hash_tokens=N"):
        build(tmp_path, [(33, [1, 2])])


def test_an_unusual_size_is_asked_for(tmp_path: Path) -> None:
    rows: list[tuple[int, list[int] | None]] = [(480, list(range(10)))]
    with pytest.raises(InputError, match=r"one per 48 tokens: say which, workload\.hash_tokens=N"):
        build(tmp_path, rows)
    assert build(tmp_path, rows, hash_tokens=48).hash_tokens == 48


@pytest.mark.parametrize(
    "rows", [[(700, [1]), (700, list(range(8)))], [(700, [1, 2, 3]), (700, [4])], [(5, list(range(5)))]]
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, rows: list[tuple[int, list[int] | None]]) -> None:
    with pytest.raises(InputError, match=r"line \d, column hash_ids: is .* hashes, one per 512 of its"):
        build(tmp_path, rows)


def test_a_prompt_without_hashes_shares_nothing_and_it_is_said(tmp_path: Path) -> None:
    requests = build(tmp_path, [(600, [1, 2]), (600, None), (9, [])])
    assert any(note.startswith("1 prompt without hashes") for note in requests.notes)


@pytest.mark.parametrize("size", [0, 8, 17, -16, 16.0, True, "16", 1 << 20])
def test_a_size_is_a_multiple_of_16(tmp_path: Path, size: Any) -> None:
    with pytest.raises(InputError, match=r"workload\.hash_tokens is .*: give a multiple of 16"):
        build(tmp_path, [(600, [1])], hash_tokens=size)


def test_formats_know_their_size(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 40, "output_length": 3, "turn": 1}
    path.write_text(json.dumps(row | {"hash_ids": [1, 2, 3]}))
    assert QwenBailian(path=str(path)).build(0).hash_tokens == 16
    with pytest.raises(InputError, match=r"not 0 or 1 hashes, one per 512 of its 40 tokens, but 3"):
        Mooncake(path=str(path)).build(0)


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8))
def test_chained_hashes_are_equal_where_all_before_them_are(hashes: list[list[int]]) -> None:
    column = object_array([tuple(each) for each in hashes])
    found = chained(column, lengths(column))
    ids = column if found is None else found
    prefixes: dict[int, tuple[int, ...]] = {}
    for each, numbers in zip(hashes, ids, strict=True):
        assert len(numbers) == len(each)
        for place, number in enumerate(numbers):
            prefix = tuple(each[: place + 1])
            if found is None:
                assert prefixes.setdefault(number, prefix[-2:]) == prefix[-2:]
            else:
                assert prefixes.setdefault(number, prefix) == prefix
    if found is not None:
        assert len(prefixes) == len(set(prefixes.values()))


def test_hashes_of_blocks_alone_are_chained_and_it_is_said(tmp_path: Path) -> None:
    requests = build(tmp_path, [(1024, [7, 8]), (1024, [9, 8])], hash_tokens=512)
    assert requests.prefix_hashes is not None
    one, other = requests.prefix_hashes
    assert np.intersect1d(one, other).size == 0
    assert any("taken together with those before it" in note for note in requests.notes)
