"""Reading CSV, JSONL and Parquet files into tables."""

import csv
import json
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import pyarrow.csv  # type: ignore[import-untyped,unused-ignore]
import pyarrow.parquet  # type: ignore[import-untyped,unused-ignore]

from policies.checks import InputError
from workloads.recorded.table import Place, Table


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Read the named columns of a .csv, .jsonl or .parquet file; its suffix tells which.

    Raises:
        InputError: if the file is missing, unreadable, empty, not what its suffix says, or lacks a required column.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of file: convert it to {', '.join(readers)} and name it so")
    check_regular(path)
    try:
        return reader(path, required, optional)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8, or name it by what it is") from None
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {_one_line(error)}: mend the file") from None


def frame_table(frame: pd.DataFrame, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Read the named columns of a DataFrame; messages call it so, and count its rows from 0.

    Raises:
        InputError: if it has no rows or lacks a required column.
    """
    path, names = Path("DataFrame"), [str(name) for name in frame.columns]
    found = _find_columns(path, names, required, optional)
    columns = {name: frame[name] for name in found}
    return _table(path, names, columns, False, lambda row: f"row {row}")


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        hint: What a person may have done if it holds something else.

    Raises:
        InputError: if the file is missing, unreadable, or holds something else.
    """
    check_regular(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8, or name it by what it is") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not one JSON object ({_one_line(error)}); {hint}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds no JSON object; {hint}")
    return record


def check_regular(path: Path) -> None:
    """Refuse what is no readable text or Parquet file.

    Raises:
        InputError: in one line.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a folder: name a file in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is not a regular file: copy its content to a file first")
        with open(path, "rb") as file:
            head = file.read(8192)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be read: {reason}: check the path and its permissions") from None
    if not head:
        raise InputError(f"{path}: is empty: give a file with at least one request")
    if b"\0" in head and path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: is binary, not {path.suffix[1:]} text: name it by what it is or export it as text")


def _read_csv(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    rows = _csv_rows(path)
    header = next((row for _, row in rows), [])
    stripped = [name.strip() for name in header]
    found = _find_columns(path, stripped, required, optional)
    try:
        cells = pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=[header[stripped.index(name)] for name in found],
            ),
        )
    except pa.ArrowInvalid:
        _refuse_ragged(path, len(header))
        raise
    columns = dict(zip(found, (column.to_pandas() for column in cells.columns), strict=True))

    def place(row: int) -> str:
        line, _ = next(islice(_csv_rows(path), row + 1, None))
        return f"line {line}"

    return _table(path, stripped, columns, True, place)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, the header among them, each with the number of its last line."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if row:
                yield reader.line_num, row


def _refuse_ragged(path: Path, width: int) -> None:
    for line, row in _csv_rows(path):
        if len(row) != width:
            raise InputError(f"{path}, line {line}: {len(row)} fields, but the header has {width}: make them equal")


def _read_jsonl(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    names: dict[str, None] = {}
    columns: dict[str, list[object]] = {name: [] for name in required + optional}
    lines: list[int] = []
    with open(path, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            record = _parse_object(path, line, text)
            if not record.keys() <= names.keys():
                names.update(dict.fromkeys(record))
            lines.append(line)
            for name, cells in columns.items():
                cells.append(record.get(name))
    found = _find_columns(path, list(names), required, optional)
    series = {name: pd.Series(columns[name], dtype=object) for name in found}
    return _table(path, list(names), series, False, lambda row: f"line {lines[row]}")


def _parse_object(path: Path, line: int, text: str) -> dict[str, object]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {line}: not valid JSON ({_one_line(error)}): mend the line") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}, line {line}: not a JSON object: write one {{...}} per line, with a key per column")
    return record


def _read_parquet(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    with pa.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        found = _find_columns(path, names, required, optional)
        cells = file.read(columns=found)
        cells.validate(full=True)
    columns = {name: cells.column(name).to_pandas() for name in found}
    return _table(path, names, columns, False, lambda row: f"row {row + 1}")


def _find_columns(path: Path, names: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    """Return the wanted columns that are there."""
    missing = [name for name in required if name not in names]
    if missing:
        listed = ", ".join(" ".join(name.split())[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
        there = f"it has {listed}" if names else "it has none"
        raise InputError(f"{path}: no column {', '.join(missing)}: add or rename it; {there}")
    found = [name for name in required + optional if name in names]
    for name in found:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are called {name}: rename or remove all but one")
    return found


def _table(path: Path, names: list[str], columns: dict[str, pd.Series], is_text: bool, place: Place) -> Table:
    table = Table(path, tuple(name for name in names if name not in columns), columns, is_text, place)
    if not len(table):
        raise InputError(f"{path}: has columns but no rows: give at least one request")
    return table


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."
