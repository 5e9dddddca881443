"""How long at least one lane of a GPU was busy."""

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Fields, Slice

Array = npt.NDArray[np.float64]

_TOUCHING_S = 1e-9
"""Intervals closer than this touch: their ends were rounded differently."""


class BusyTime:
    """A log sink that measures the union of the iterations of all lanes, in bounded memory.

    The records of a lane come in order, so what lies before the end of every lane's last one is settled. Lane 0 always
    appears; a lane that prefills beside it appears first, since the batch has nothing to decode yet.
    """

    def __init__(self) -> None:
        self._settled_s = 0.0
        self._open = np.zeros((2, 0))
        self._lane_end = {0: 0.0}

    def __call__(self, records: Slice | Fields) -> None:
        """Add a slice."""
        start, end = records["start_s"], records["start_s"] + records["duration_s"]
        for lane in set(records["lane"].tolist()):
            self._lane_end[lane] = float(end[records["lane"] == lane].max())
        merged = _merge(np.concatenate([self._open, [start, end]], axis=1))
        settled = merged[1] < min(self._lane_end.values()) - _TOUCHING_S
        self._settled_s += _length(merged[:, settled])
        self._open = merged[:, ~settled]

    @property
    def seconds(self) -> float:
        """Length of the union so far."""
        return self._settled_s + _length(self._open)


def _merge(intervals: Array) -> Array:
    """Return the union of intervals [2, n] as disjoint ones in order."""
    start, end = intervals[:, np.argsort(intervals[0], kind="stable")]
    end = np.maximum.accumulate(end)
    opens = np.flatnonzero(start[1:] > end[:-1] + _TOUCHING_S) + 1
    first = np.concatenate([[0], opens])
    last = np.concatenate([opens - 1, [len(start) - 1]])
    return np.stack([start[first], end[last]])


def _length(intervals: Array) -> float:
    return float((intervals[1] - intervals[0]).sum())
