"""The time between a request's tokens, of all requests together, and the histogram that holds it in bounded memory."""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Fields, Slice
from sim.engine.request_log import RequestLog

Array = npt.NDArray[np.float64]

WIDTH = 1e-4
"""Width of a bin relative to its values; a quantile is off by at most half of it."""
LOWEST, HIGHEST = 1e-9, 1e9
"""The range that is told apart, in seconds; values outside count in the bins at its ends."""

_BINS = math.ceil(math.log(HIGHEST / LOWEST) / WIDTH)


class LogHistogram:
    """Counts weighted values in bins of equal relative width (3 MB).

    Attributes:
        count: Sum of the weights.
        total: Sum of value times weight, exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, values: Array, weights: npt.NDArray[np.int64]) -> None:
        """Count values (float64 [n], seconds) with weights (int64 [n], 0 or more)."""
        logs = np.log(np.clip(values, LOWEST, HIGHEST) / LOWEST)
        np.add.at(self._counts, np.minimum((logs / WIDTH).astype(np.int64), _BINS - 1), weights)
        self.count += int(weights.sum())
        self.total += float((values * weights).sum())

    def quantiles(self, shares: tuple[float, ...]) -> list[float]:
        """Return the values at these shares (each in [0, 1]) of the counted ones, which must be some.

        Between two values it interpolates linearly, as numpy's default does.
        """
        cumulative = np.cumsum(self._counts)
        ranks = np.array(shares) * (self.count - 1)
        below = np.floor(ranks)
        low, high = (self._middle(np.searchsorted(cumulative, rank, "right")) for rank in (below, np.ceil(ranks)))
        return [float(value) for value in low + (high - low) * (ranks - below)]

    @staticmethod
    def _middle(bins: npt.NDArray[np.int64]) -> Array:
        return np.asarray(LOWEST * np.exp((bins + 0.5) * WIDTH), dtype=np.float64)


Ints = npt.NDArray[np.int64]

_GROUPS = 1 << 20
"""Most groups of steps looked at together, to bound memory."""


class InterTokenLatency:
    """A log sink that counts every gap between two tokens of a request.

    All rows share one decode clock, so a decode step closes one gap per row. For a row that decoded in the step
    before, the gap is the time between the ends of the two steps, whatever came between them. For a row that has
    just joined it runs from the token before, which its request remembers, to the end of its first step; these are
    added in `finished`. Steps of one record whose lengths differ by less than a histogram bin are counted together.
    """

    def __init__(self, begin: Callable[[], float] = lambda: 0.0) -> None:
        """Count the gaps that end after `begin` seconds: asked for with every slice, infinite while unknown."""
        self._begin = begin
        self._gaps = LogHistogram()
        self._clock = 0
        self._decoded_s = 0.0
        self._joins: list[tuple[Ints, Array]] = []

    def __call__(self, records: Slice | Fields) -> None:
        """Count the gaps of a slice."""
        decodes = np.flatnonzero((records["rows"] > 0) & (records["lane"] == 0))
        if not len(decodes):
            return
        start, duration, first, steps, rows, inserted = (
            records[name][decodes] for name in ("start_s", "duration_s", "first_s", "steps", "rows", "inserted_rows")
        )
        end, first_end = start + duration, start + first
        counted = start >= self._begin()
        stayed = np.where(counted, np.maximum(rows - inserted, 0), 0)
        self._gaps.add(first_end - np.concatenate([[self._decoded_s], end[:-1]]), stayed)
        joined, long = inserted > 0, (steps > 1) & counted
        clocks = self._clock + np.cumsum(steps) - steps
        self._joins.append((clocks[joined], first_end[joined]))
        self._add_later_steps(duration[long], first[long], steps[long], rows[long])
        self._clock += int(steps.sum())
        self._decoded_s = float(end[-1])

    def _add_later_steps(self, duration: Array, first: Array, steps: Ints, rows: Ints) -> None:
        """Count all steps of records but the first of each: `first` and once, twice, ... the same growth."""
        later = steps - 1
        growth = (duration - steps * first) / (steps * later / 2)
        with np.errstate(divide="ignore"):
            size = np.clip(np.floor(WIDTH * first / np.abs(growth)), 1, later).astype(np.int64)
        groups = -(-later // size)
        cuts = np.searchsorted(np.cumsum(groups), np.arange(_GROUPS, int(groups.sum()), _GROUPS))
        for part in np.split(np.arange(len(steps)), cuts):
            record = np.repeat(part, groups[part])
            place = np.arange(len(record)) - np.repeat(np.cumsum(groups[part]) - groups[part], groups[part])
            low = place * size[record] + 1
            high = np.minimum(low + size[record] - 1, later[record])
            self._gaps.add(first[record] + growth[record] * (low + high) / 2, rows[record] * (high - low + 1))

    def finished(self, answers: RequestLog) -> LogHistogram:
        """Return all gaps, in seconds, once the run is over."""
        gaps = copy.deepcopy(self._gaps)
        joined = np.asarray(answers.join_clock)
        once = joined >= 0
        _, again_clock, again_s = _columns(answers.rejoins)
        clocks = np.concatenate([joined[once], again_clock.astype(np.int64)])
        token_s = np.concatenate([np.asarray(answers.first_token_s)[once], again_s])
        starts = np.concatenate([np.zeros(0, np.int64), *(clock for clock, _ in self._joins)])
        ends = np.concatenate([np.zeros(0), *(end for _, end in self._joins)])
        place = np.searchsorted(starts, clocks)
        logged = place < len(starts)
        joined_s = ends[place[logged]]
        _, before, after = _columns(answers.recomputed)
        for ended, extra in ((joined_s, joined_s - token_s[logged]), (after, after - before)):
            gaps.add(extra, (ended > self._begin()).astype(np.int64))
        return gaps


def _columns(rows: Sequence[tuple[float, float, float]]) -> npt.NDArray[np.float64]:
    """Return a list of triples as float64 [3, n]."""
    return np.array(rows, dtype=np.float64).reshape(-1, 3).T
