"""Reading CSV, JSON and Parquet files into tables."""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import pyarrow.csv  # type: ignore[import-untyped,unused-ignore]
import pyarrow.parquet  # type: ignore[import-untyped,unused-ignore]

from policies.checks import InputError
from workloads.recorded.columns import format_of
from workloads.recorded.contents import Contents, one_line, recognised
from workloads.recorded.table import Place, Table

_NO_ROWS = "has columns but no rows: give at least one request"


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Read the named columns of a CSV, JSON or Parquet file; its content tells which.

    JSON is an object in each line, or a list of objects. What is compressed with gzip, bzip2 or xz is read too.

    Raises:
        InputError: if the file is missing, unreadable, empty, something else, or lacks a required column.
    """
    contents = recognised(path)
    readers = {"csv": _read_csv, "jsonl": _read_objects, "json": _read_objects, "parquet": _read_parquet}
    try:
        return readers[contents.format](contents, required, optional)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8") from None
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as {contents.format}: {one_line(error)}: mend the file") from None


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns; of JSON those of its first object.

    Raises:
        InputError: as `read_table`.
    """
    contents = recognised(path)
    try:
        if contents.format == "csv":
            return [name.strip() for name in _header(contents)]
        if contents.format != "parquet":
            return list(next(contents.objects(), ("", {}))[1])
        with contents.binary() as file, pa.parquet.ParquetFile(file) as parquet:
            return list(parquet.schema_arrow.names)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8") from None
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as {contents.format}: {one_line(error)}: mend the file") from None


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
    with recognised(path).text() as file:
        text = file.read()
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not one JSON object ({one_line(error)}); {hint}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds no JSON object; {hint}")
    return record


def _read_csv(contents: Contents, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    path, header = contents.path, _header(contents)
    stripped = [name.strip() for name in header]
    found = _find_columns(path, stripped, required, optional)
    try:
        with contents.binary() as file:
            cells = pa.csv.read_csv(
                path if contents.is_plain else file,
                parse_options=pa.csv.ParseOptions(newlines_in_values=True, delimiter=_delimiter(contents)),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    include_columns=[header[stripped.index(name)] for name in found],
                ),
            )
    except pa.ArrowInvalid:
        if next(islice(_csv_rows(contents), 1, None), None) is None:
            raise InputError(f"{path}: {_NO_ROWS}") from None
        _refuse_ragged(contents, len(header))
        raise
    columns = dict(zip(found, (column.to_pandas() for column in cells.columns), strict=True))

    def place(row: int) -> str:
        line, _ = next(islice(_csv_rows(contents), row + 1, None))
        return f"line {line}"

    return _table(path, stripped, columns, True, place)


def _header(contents: Contents) -> list[str]:
    return next((row for _, row in _csv_rows(contents)), [])


def _delimiter(contents: Contents) -> str:
    """Return what stands between cells: a tab if the first line has some and no comma."""
    with contents.text() as file:
        first = next((line for line in file if line.strip()), "")
    return "\t" if "\t" in first and "," not in first else ","


def _csv_rows(contents: Contents) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, the header among them, each with the number of its last line."""
    delimiter = _delimiter(contents)
    with contents.text(newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        for row in reader:
            if row:
                yield reader.line_num, row


def _refuse_ragged(contents: Contents, width: int) -> None:
    for line, row in _csv_rows(contents):
        if len(row) != width:
            raise InputError(
                f"{contents.path}, line {line}: {len(row)} fields, but the header has {width}: make them equal"
            )


def _read_objects(contents: Contents, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    names: dict[str, None] = {}
    columns: dict[str, list[object]] = {name: [] for name in required + optional}
    places: list[str] = []
    for place, record in contents.objects():
        if not record.keys() <= names.keys():
            names.update(dict.fromkeys(record))
        places.append(place)
        for name, cells in columns.items():
            cells.append(record.get(name))
    found = _find_columns(contents.path, list(names), required, optional)
    series = {name: pd.Series(columns[name], dtype=object) for name in found}
    return _table(contents.path, list(names), series, False, places.__getitem__)


def _read_parquet(contents: Contents, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    with contents.binary() as source, pa.parquet.ParquetFile(source) as file:
        names = file.schema_arrow.names
        found = _find_columns(contents.path, names, required, optional)
        cells = file.read(columns=found)
        cells.validate(full=True)
    columns = {name: cells.column(name).to_pandas() for name in found}
    return _table(contents.path, names, columns, False, lambda row: f"row {row + 1}")


def _find_columns(path: Path, names: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    """Return the wanted columns that are there."""
    missing = [name for name in required if name not in names]
    if missing:
        listed = ", ".join(" ".join(name.split())[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
        known = format_of(names)
        there = known or (f"it has {listed}" if names else "it has none")
        raise InputError(f"{path}: no column {', '.join(missing)}: add or rename it; {there}")
    found = [name for name in required + optional if name in names]
    for name in found:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are called {name}: rename or remove all but one")
    return found


def _table(path: Path, names: list[str], columns: dict[str, pd.Series], is_text: bool, place: Place) -> Table:
    table = Table(path, tuple(name for name in names if name not in columns), columns, is_text, place)
    if not len(table):
        raise InputError(f"{path}: {_NO_ROWS}")
    return table
