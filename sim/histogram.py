"""Percentiles of very many positive values in bounded memory."""

import math

import numpy as np
import numpy.typing as npt

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
