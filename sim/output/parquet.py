"""The tables of a run: `iterations.parquet` and `requests.parquet`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.checks import InputError
from sim.engine.iteration_log import DTYPE, Slice, columns_of
from sim.output.writing import Draft, SinkFile, writing

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


class IterationWriter(SinkFile):
    """A log sink that writes `iterations.parquet`, one row group per slice.

    Columns and units are those of `sim.engine.iteration_log.COLUMNS`.

    As a context manager it completes the file when the block ends, and drops it on any exception.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            InputError: if it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(path)
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Complete the file, or drop it if the block failed."""
        if kind is not None:
            self.abort()
        else:
            self.complete()


def write_requests(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write `requests.parquet`, one row per request.

    Args:
        path: The file.
        columns: Equally long arrays by name, as `sim.metrics.metrics` gives them; text is written as categories, NaN
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


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a table, whose columns are their keys; None is null.

    Raises:
        InputError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows))
    with writing(path), Draft(path) as part:
        pq.write_table(table, part)


def _numbers(values: npt.NDArray[Any]) -> "pa.Array":
    """Return numbers as a column, NaN as null.

    `pyarrow.array` does the same, but imports pandas, which takes longer than a small simulation.
    """
    import pyarrow as pa

    values = np.ascontiguousarray(values)
    missing = np.isnan(values)
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, pa.py_buffer(values)])


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
