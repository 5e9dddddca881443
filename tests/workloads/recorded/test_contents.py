"""What a file holds is told by its first bytes, whatever its name; what cannot be read is named for what it is."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.checks import InputError
from workloads.recorded.contents import recognised

TABLE = b"arrival_s,prompt_tokens,output_tokens\n0,5,1\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"cd" * 32 + b"\nsize 1234\n"


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a", "a.parquet"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (TABLE, "csv"),
        (b"\xef\xbb\xbf" + TABLE, "csv"),
        (b'\n{"a": 1}\n{"a": 2}\n', "jsonl"),
        (b'{"a": 1}', "jsonl"),
        (b'{\n  "a": 1\n}\n', "json"),
        (b'[{"a": 1}]', "json"),
        (b"PAR1....PAR1", "parquet"),
    ],
)
def test_content_decides_not_the_name(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert recognised(tmp_path / name).format == kind


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_as_what_is_in_them(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "t"
    path.write_bytes(compress(TABLE))
    contents = recognised(path)
    assert contents.format == "csv"
    with contents.text() as file:
        assert file.read() == TABLE.decode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(TABLE, mtime=0)[:12], "cannot be decompressed"),
        (b"\x1f\x8b\x08\x00", "cannot be decompressed"),
        (gzip.compress(POINTER, mtime=0), "is a Git LFS pointer"),
        (POINTER, "run git lfs pull"),
        (b"PK\x03\x04xx", "ZIP archive or an Excel file"),
        (TABLE.decode().encode("utf-16"), "is UTF-16 text"),
        (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        (b"a,b\n\x00\x01", "is binary"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError) as refused:
        recognised(tmp_path / "t.csv")
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", [[{"a": 1}, {"a": 2}], {"a": 1}])
def test_json_is_objects_however_it_is_laid_out(tmp_path: Path, value: object, indent: int | None) -> None:
    path = tmp_path / "t"
    path.write_text(json.dumps(value, indent=indent))
    assert [found for _, found in recognised(path).objects()] == (value if isinstance(value, list) else [value])
    with recognised(path).text() as file:
        assert json.load(file) == value


def test_objects_know_their_place(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n[]\n')
    objects = recognised(path).objects()
    assert [next(objects), next(objects)] == [("line 2", {"a": 1}), ("line 4", {"a": 2})]
    with pytest.raises(InputError, match="line 5: not a JSON object"):
        next(objects)


def test_a_file_that_ends_early_is_refused_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"a": %d}\n' % (7**i) for i in range(600)))[:-9000])
    with pytest.raises(InputError, match="cannot be decompressed"):
        list(recognised(path).objects())
