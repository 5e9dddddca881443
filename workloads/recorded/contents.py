"""What a file holds, told by its first bytes: a suffix may say anything."""

import bz2
import gzip
import json
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from policies.checks import InputError

LFS = b"version https://git-lfs.github.com/spec/"
HEAD_BYTES = 64 * 1024
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_STRANGERS = {
    LFS: "is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download the file",
    b"PK\x03\x04": "is a ZIP archive or an Excel file: unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: decompress it first, zstd -d",
    b"ARROW1": "is an Arrow (Feather) file: convert it to Parquet or CSV",
    b"Obj\x01": "is an Avro file: convert it to Parquet or CSV",
    b"\x89HDF": "is an HDF5 file: convert it to Parquet or CSV",
    b"SQLite format 3": "is an SQLite database: export the table as CSV",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
}
"""First bytes of what cannot be read, and what to do about it."""


@dataclass(frozen=True)
class Contents:
    """A file and what it holds.

    Attributes:
        path: the file.
        format: `csv`, `jsonl` (one JSON object in each line), `json` (one value over several lines, or a list) or
            `parquet`.
        opener: opens it and decompresses what is compressed.
    """

    path: Path
    format: str
    opener: Any = open

    @property
    def is_plain(self) -> bool:
        """Whether the file is not compressed."""
        return self.opener is open

    @contextmanager
    def binary(self) -> Iterator[IO[bytes]]:
        """Open the file, decompressed, as bytes.

        Raises:
            InputError: if it cannot be read or decompressed, now or while it is read.
        """
        with _told(self.path), self.opener(self.path, "rb") as file:
            yield file

    @contextmanager
    def text(self, newline: str | None = None) -> Iterator[IO[str]]:
        """Open the file, decompressed, as UTF-8 text with or without a byte order mark.

        Raises:
            InputError: if it cannot be read, decompressed or decoded, now or while it is read.
        """
        with self.binary() as file, TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
            yield text

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each JSON object with its place: each line's, each entry's of a list, or the only one.

        Raises:
            InputError: if something is no JSON object.
        """
        with self.text() as file:
            if self.format == "json":
                value = self._parsed("", file.read())
                for number, entry in enumerate(value if isinstance(value, list) else [value], start=1):
                    yield self._object(f"entry {number}", entry)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"line {number}"
                    yield self._object(place, self._parsed(f", {place}", line))

    def _parsed(self, where: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}{where}: not valid JSON ({one_line(error)}): mend it") from None

    def _object(self, place: str, value: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(value, dict):
            raise InputError(
                f"{self.path}, {place}: not a JSON object: write one {{...}} per line, with a key per column"
            )
        return place, value


def recognised(path: Path) -> Contents:
    """Look into a file and say what it holds, whatever its name.

    Raises:
        InputError: if it is no readable file, is empty, or holds what is known to be something else: a Git LFS
            pointer, a web page, an archive, other binary data.
    """
    _check_regular(path)
    head, opener = _head(path, open), open
    for magic, compressed in _COMPRESSED.items():
        if head.startswith(magic):
            head, opener = _head(path, compressed), compressed  # type: ignore[assignment]
    if not head:
        raise InputError(f"{path}: is empty: give a file with at least one request")
    for magic, told in _STRANGERS.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {told}")
    if head.startswith(b"PAR1"):
        return Contents(path, "parquet", opener)
    if b"\0" in head[:8192]:
        raise InputError(f"{path}: is binary, and no Parquet: export it as CSV, JSON lines or Parquet")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:9].lower() in (b"<!doctype", b"<html>") or start[:5].lower() == b"<html":
        raise InputError(f"{path}: is a web page: download the raw file instead of the page that shows it")
    first_line = start.split(b"\n", 1)[0].strip()
    if first_line == b"{" or first_line.startswith(b"["):
        return Contents(path, "json", opener)
    return Contents(path, "jsonl" if first_line.startswith(b"{") else "csv", opener)


def refuse_pointer(path: Path) -> None:
    """Refuse a file that Git LFS left as a pointer; whether it can be read at all is for others to say.

    Raises:
        InputError: if it is one.
    """
    head = b""
    with suppress(OSError, ValueError), open(path, "rb") as file:
        head = file.read(len(LFS))
    if head == LFS:
        raise InputError(f"{path}: {_STRANGERS[LFS]}")


def one_line(error: Exception) -> str:
    """Return an error's text as one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _check_regular(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder: name a file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file: copy its content to a file first")


def _head(path: Path, opener: Any) -> bytes:
    try:
        with _told(path), opener(path, "rb") as file:
            head: bytes = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be decompressed ({one_line(error)}): get or write the file again") from None
    return head


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what reading a file can raise into one line."""
    try:
        yield
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cannot be decompressed ({one_line(error)}): get or write the file again") from None
    except OSError as error:
        if error.errno is None:  # what is in the file, not the file
            raise
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
    return InputError(f"{path}: cannot be read: {reason}: check the path and its permissions")
