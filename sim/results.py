"""The files of a run: complete under their final names, or not there at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from policies.errors import InputError
from sim.log import DTYPE, Slice, columns_of

if TYPE_CHECKING:
    import pyarrow as pa


def _encoding(schema: "pa.Schema") -> dict[str, Any]:
    """Whole numbers as differences, which takes half the time of compressing them and the same space."""
    import pyarrow as pa

    counts = [field.name for field in schema if pa.types.is_integer(field.type)]
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return {
        "compression": {name: "none" if name in counts else "lz4" for name in schema.names},
        "column_encoding": dict.fromkeys(counts, "DELTA_BINARY_PACKED"),
        "use_dictionary": texts or False,
    }


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line.

    Raises:
        InputError: if the file or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); choose a folder with hydra.run.dir=FOLDER") from error


def make_folder(path: Path) -> Path:
    """Make a folder, and its parents, where files can be written; return it.

    Raises:
        InputError: if it cannot be made, or no file can be written in it.
    """
    probe = path / f".{os.getpid()}.part"
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    return path


class Draft:
    """A file that has a temporary name beside its final one until it is complete.

    As a context manager it gives the temporary path, keeps the file when the block ends and drops it on any exception.

    Attributes:
        part: The temporary path.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is made by whoever writes to `part`."""
        self.part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._path = path

    def keep(self) -> None:
        """Give the file its final name."""
        with writing(self._path):
            os.replace(self.part, self._path)

    def drop(self) -> None:
        """Remove the file, if it is still a draft."""
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> Path:
        """Return the temporary path."""
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Keep the file, or drop it if the block failed."""
        if kind is not None:
            self.drop()
        else:
            self.keep()


class IterationWriter:
    """A log sink that writes `iterations.parquet`, one row group per slice; columns and units as `sim.log.COLUMNS`.

    As a context manager it closes the file when the block ends and aborts it on any exception.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            InputError: if it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._draft = Draft(path)
        self._batch = pa.record_batch
        self._schema = pa.schema([(name, pa.from_numpy_dtype(DTYPE[name])) for name in DTYPE.names or ()])
        try:
            with writing(path):
                self._file = pq.ParquetWriter(self._draft.part, self._schema, **_encoding(self._schema))
        except InputError:  # the file's first bytes may have failed after it was made
            self._draft.drop()
            raise

    def __call__(self, records: Slice) -> None:
        """Write a slice."""
        columns = [_numbers(values) for values in columns_of(records).values()]
        with writing(self._path):
            self._file.write_batch(self._batch(columns, schema=self._schema))

    def close(self) -> None:
        """Complete the file."""
        with writing(self._path):
            self._file.close()
        self._draft.keep()

    def abort(self) -> None:
        """Leave no file; harmless after `close`."""
        with suppress(OSError):  # a full disk fails again as the footer is written
            self._file.close()
        self._draft.drop()

    def __enter__(self) -> Self:
        """Return the sink."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the file, or abort it if the block failed."""
        if kind is not None:
            self.abort()
        else:
            self.close()


def write_requests(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write `requests.parquet`, one row per request.

    Args:
        path: The file.
        columns: Equally long arrays by name, as `sim.metrics` gives them; text is written as categories, NaN
            (a time that is not defined) as null.

    Raises:
        InputError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        name: _categories(values) if values.dtype.kind == "U" else _numbers(values) for name, values in columns.items()
    }
    table = pa.table(arrays)
    with writing(path), Draft(path) as part:
        pq.write_table(table, part, **_encoding(table.schema))


def _numbers(values: npt.NDArray[Any]) -> "pa.Array":
    """Return numbers as a column, NaN as null.

    `pyarrow.array` does the same, but imports pandas, which takes longer than a small simulation.
    """
    import pyarrow as pa

    values = np.ascontiguousarray(values)
    missing = np.isnan(values)
    known = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [known, pa.py_buffer(values)])


def _categories(texts: npt.NDArray[Any]) -> "pa.DictionaryArray":
    """Return texts, of which few are different, as codes: one comparison per category is faster than a hash each."""
    import pyarrow as pa

    codes = np.full(len(texts), -1, dtype=np.int32)
    names: list[str] = []
    while (codes < 0).any():
        names.append(str(texts[np.argmin(codes)]))
        codes[texts == names[-1]] = len(names) - 1
    ends = np.cumsum([0, *(len(name.encode()) for name in names)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer("".join(names).encode())]
    return pa.DictionaryArray.from_arrays(_numbers(codes), pa.Array.from_buffers(pa.string(), len(names), buffers))


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`.

    Args:
        path: The file.
        summary: `{"policies": {NAME: {metric: value}}, "workload": ..., "hardware": ..., ...}`; no NaN, no infinity.

    Raises:
        InputError: if the file cannot be written.
        ValueError: if a value is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(summary, indent=2, allow_nan=False)
    with writing(path), Draft(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
