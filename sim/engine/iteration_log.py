"""The iteration log: packed while the simulation runs, handed on in slices."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.work import DecodeWork, Work

HEAD = ("start_s", "duration_s", "first_s", "steps", "waiting", "kv_tokens", "live_rows", "fixed_window")
"""Columns before the fields of `Work`.

A record is `steps` like iterations in a row: the first took `first_s`, each later one a constant longer than the one
before, all together `duration_s`. `kv_read` and `kv_held` are those of the first; they grow by `rows` and `held_rows`
with each. Where `fixed_window` is 1 they all read the same window, as captured steps do: `kv_read` grows by `rows`,
`kv_padding` falls by as much, `kv_held` stays. As the record began, `waiting` requests were in the queue, `kv_tokens`
of KV memory were taken, and the batch had `live_rows`, whether this record decodes them or not.
"""

COLUMNS = HEAD + Work._fields
DTYPE = np.dtype([(name, "<f8" if name.endswith("_s") else "<i8") for name in COLUMNS])
_SIZE = DTYPE.itemsize
SLICE = 65_536
"""Records per slice (16 MB)."""
_CACHED = 1024
"""Records that a processor's cache holds."""

Head = tuple[float, float, float, int, int, int, int, bool]
"""The columns of `HEAD`."""

Slice = npt.NDArray[np.void]
"""Structured array of `DTYPE`."""

Fields = Mapping[str, npt.NDArray[Any]]
"""The same by column."""

Sink = Callable[[Slice], None]


class IterationLog:
    """Packs records into a buffer and gives every full slice to its sinks.

    A sink that keeps the slice must copy it: the buffer is used again.
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._record = struct.Struct("<3d5q" + "q" * len(Work._fields))
        columns = "".join("q" if name in DecodeWork._fields else "8x" for name in Work._fields)
        self._decode_record = struct.Struct("<3d5q" + columns)
        assert self._record.size == self._decode_record.size == _SIZE
        self._pack_decode = self._decode_record.pack_into
        self._buffer = bytearray(SLICE * self._record.size)
        self._end = len(self._buffer)
        self._pack = self._record.pack_into
        self._place = 0

    def append(self, head: Head, work: Work) -> None:
        """Record a stretch of iterations: the columns of `HEAD`, and the first one's work."""
        self._pack(*((self._buffer, self._place) + head + work))  # noqa: RUF005 (unpacked: 1.3 times the time)
        self._place += _SIZE
        if self._place == self._end:
            self.flush()

    def append_decode(self, head: Head, work: DecodeWork) -> None:
        """Record a stretch that only decodes, on lane 0."""
        self._pack_decode(*((self._buffer, self._place) + head + work))  # noqa: RUF005
        self._place += _SIZE
        if self._place == self._end:
            self.flush()

    def flush(self) -> None:
        """Give what is buffered to the sinks."""
        if self._place:
            part = np.frombuffer(self._buffer, dtype=DTYPE, count=self._place // DTYPE.itemsize)
            for sink in self._sinks:
                sink(part)
            self._place = 0


def columns_of(records: Slice) -> Fields:
    """Return the columns by name, each contiguous: many times faster to compute with than fields of records."""
    rows = np.ascontiguousarray(records).view(np.int64).reshape(len(records), len(COLUMNS))
    words = np.empty((len(COLUMNS), len(records)), dtype=np.int64)
    for start in range(0, len(records), _CACHED):
        words[:, start : start + _CACHED] = rows[start : start + _CACHED].T
    return {name: column.view(DTYPE[name]) for name, column in zip(COLUMNS, words, strict=True)}


def work_of(records: Slice | Fields) -> Work:
    """Return the `Work` of records, each field an array."""
    return Work._make(records[name] for name in Work._fields)


def expand(records: Slice) -> Slice:
    """Return one record per iteration: what the log would hold had nothing been stretched.

    `waiting`, `kv_tokens` and `live_rows` repeat the value at the start of the stretch.
    """
    steps = records["steps"]
    out = np.repeat(records, steps)
    index = np.arange(len(out)) - np.repeat(np.cumsum(steps) - steps, steps)
    pairs = np.maximum(out["steps"] * (out["steps"] - 1) / 2, 1)
    growth = (out["duration_s"] - out["steps"] * out["first_s"]) / pairs
    out["start_s"] += index * out["first_s"] + growth * index * (index - 1) / 2
    out["duration_s"] = out["first_s"] = out["first_s"] + growth * index
    fixed = out["fixed_window"]
    out["kv_read"] += index * out["rows"]
    out["kv_padding"] -= index * out["rows"] * fixed
    out["kv_held"] += index * out["held_rows"] * (1 - fixed)
    out["inserted_rows"][index > 0] = 0
    out["steps"] = 1
    return out
