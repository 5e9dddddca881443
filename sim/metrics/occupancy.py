"""What the batch and the queue held over time, in bounded memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Slice

Array = npt.NDArray[np.float64]

BINS = 1024
"""The most points of a series."""

_MEASURES = ("live_rows", "held_rows", "prefill_rows", "waiting", "kv_tokens")
_COLUMNS = ("start_s", "duration_s", *_MEASURES)
_LANES = 2


@dataclass(frozen=True, eq=False)
class Series:
    """What was held in n equal bins of time (the last may be shorter): means over time, and the most KV memory.

    Each is float64 [n], but the edges.

    Attributes:
        edges_s: float64 [n + 1], bin edges; [0] for a run without iterations.
        live_rows: Rows of the batch with an answer still to give.
        held_rows: Finished rows that were computed all the same.
        prefill_rows: Prompts in prefill.
        waiting: Requests in the queue.
        kv_tokens: KV memory taken, in tokens.
        kv_peak_tokens: The most that was taken at any time of the bin, however short.
    """

    edges_s: Array
    live_rows: Array
    held_rows: Array
    prefill_rows: Array
    waiting: Array
    kv_tokens: Array
    kv_peak_tokens: Array


class Occupancy:
    """A log sink that sums what was held over time, in bins whose width doubles as the run grows longer.

    A stretched record counts with the values of its first iteration; between iterations everything counts as zero.
    Where two lanes overlap, lane 0 says what the batch and the queue held, and lane 1 what was in prefill; lane 1
    speaks for the rest of a bin as far as lane 0 leaves time for it.
    """

    def __init__(self) -> None:
        """Begin a run."""
        self._width = 2.0**-20
        self._end = 0.0
        # [lane, measure, bin]: seconds covered, then each measure times seconds.
        self._sums = np.zeros((_LANES, 1 + len(_MEASURES), BINS))
        self._kv_peaks = np.zeros(BINS)

    def __call__(self, records: Slice) -> None:
        """Add a slice."""
        self._end = max(self._end, float((records["start_s"] + records["duration_s"]).max()))
        while self._end > BINS * self._width:
            self._double()
        for lane in range(_LANES):
            mine = records["lane"] == lane
            if mine.any():
                columns = {name: records[name][mine] for name in _COLUMNS}
                self._add(columns, self._sums[lane])
                self._raise_peaks(columns["start_s"], columns["duration_s"], columns["kv_tokens"])

    def _double(self) -> None:
        self._width *= 2
        pairs = self._sums.reshape(_LANES, -1, BINS // 2, 2).sum(axis=3)
        self._sums = np.concatenate([pairs, np.zeros_like(pairs)], axis=2)
        self._kv_peaks = np.append(self._kv_peaks.reshape(-1, 2).max(axis=1), np.zeros(BINS // 2))

    def _add(self, columns: dict[str, Array], sums: Array) -> None:
        """Add the records of one lane, which do not overlap: integrate up to each edge, then take differences."""
        start, length = columns["start_s"], columns["duration_s"]
        edges = np.arange(BINS + 1) * self._width
        last = np.maximum(np.searchsorted(start, edges, side="right") - 1, 0)
        beyond = length[last] - np.clip(edges - start[last], 0, length[last])
        for total, name in zip(sums, (None, *_MEASURES), strict=True):
            values = np.ones(len(start)) if name is None else columns[name]
            total += np.diff(np.cumsum(values * length)[last] - values[last] * beyond)

    def _raise_peaks(self, start: Array, length: Array, values: Array) -> None:
        """Raise the most of each bin to that of the records of one lane that touch it."""
        edges = np.arange(BINS + 1) * self._width
        first = np.searchsorted(start, edges)
        within = np.maximum.reduceat(np.append(values, 0), first[:-1])
        begun = np.where(first[1:] > first[:-1], within, 0)
        before = np.maximum(first[:-1] - 1, 0)
        runs_on = (first[:-1] > 0) & (start[before] + length[before] > edges[:-1])
        self._kv_peaks = np.maximum.reduce([self._kv_peaks, begun, np.where(runs_on, values[before], 0)])

    def series(self) -> Series:
        """Return the series so far."""
        used = int(np.ceil(self._end / self._width))
        edges = np.minimum(np.arange(used + 1) * self._width, self._end)
        width = np.diff(edges)
        first, second = self._sums[:, :, :used]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nan_to_num(np.clip((width - first[0]) / second[0], 0, 1))
        means = {
            name: (first[place] + second[place] * (1 if name == "prefill_rows" else share)) / width
            for place, name in enumerate(_MEASURES, start=1)
        }
        return Series(edges, **means, kv_peak_tokens=self._kv_peaks[:used])
