"""Functions given by a few measured points: of one variable, piecewise linear; of two, log-log."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.cost.device import Array


class Line:
    """A piecewise linear function: the first value before its points, the last slope (never falling) after them.

    Attributes:
        at: Its points, ascending.
        values: Its value at each.
    """

    __slots__ = ("_slopes", "at", "values")

    def __init__(self, at: Sequence[float] | Array, values: Sequence[float] | Array) -> None:
        """Take the points [n], n >= 1, and the values there [n]."""
        self.at = [float(place) for place in at]
        self.values = [float(value) for value in values]
        places, heights = np.array(self.at), np.array(self.values)
        slopes: list[float] = (np.diff(heights) / np.diff(places)).tolist()
        self._slopes = [0.0, *slopes, max(0.0, slopes[-1]) if slopes else 0.0]

    def __call__(self, place: float) -> float:
        """Return the value at one place."""
        after = bisect_right(self.at, place)
        if not after:
            return self.values[0]
        return self.values[after - 1] + (place - self.at[after - 1]) * self._slopes[after]

    def each(self, places: Array) -> Array:
        """Return the values at many places."""
        after = np.searchsorted(self.at, places, side="right")
        start = np.maximum(after - 1, 0)
        return np.asarray(np.array(self.values)[start] + (places - np.array(self.at)[start]) * self.slopes[after])

    @property
    def slopes(self) -> Array:
        """Slope before the first point, after it, after the second, and so on [n + 1]."""
        return np.array(self._slopes)

    def piece(self, place: float) -> tuple[float, float, float]:
        """Return the value at a place, the slope just after it, and where that ends: infinity after the last point."""
        at = self.at
        after = bisect_right(at, place)
        slope = self._slopes[after]
        value = self.values[after - 1] + (place - at[after - 1]) * slope if after else self.values[0]
        return value, slope, at[after] if after < len(at) else math.inf


class Surface:
    """A function of two positive variables, bilinear in their logarithms and its own: exact for products of powers.

    Below its first points it is constant; beyond its last ones it grows with the variable.
    """

    def __init__(self, at: Sequence[float], by: Sequence[float], values: Sequence[Sequence[float]]) -> None:
        """Take the points [m] and [n], at least two of each, and the positive values there [m, n]."""
        self._x = [math.log(place) for place in at]
        self._y = [math.log(place) for place in by]
        self._z = [[math.log(value) for value in row] for row in values]

    def __call__(self, x: float, y: float) -> float:
        """Return the value at one pair of places."""
        i, a, above = _cell(self._x, math.log(x))
        j, b, beyond = _cell(self._y, math.log(y))
        low, high = self._z[i], self._z[i + 1]
        near = low[j] + b * (low[j + 1] - low[j])
        far = high[j] + b * (high[j + 1] - high[j])
        return math.exp(near + a * (far - near) + above + beyond)

    def each(self, x: Array, y: Array) -> Array:
        """Return the values at many pairs of places."""
        i, a, above = _cells(self._x, np.log(x))
        j, b, beyond = _cells(self._y, np.log(y))
        z = np.array(self._z)
        near = z[i, j] + b * (z[i, j + 1] - z[i, j])
        far = z[i + 1, j] + b * (z[i + 1, j + 1] - z[i + 1, j])
        return np.asarray(np.exp(near + a * (far - near) + above + beyond))


def _cell(points: Sequence[float], place: float) -> tuple[int, float, float]:
    """Return the interval in which a place lies, its share of it, and how far it lies beyond the last point."""
    if place >= points[-1]:
        return len(points) - 2, 1.0, place - points[-1]
    if place <= points[0]:
        return 0, 0.0, 0.0
    start = bisect_right(points, place) - 1
    return start, (place - points[start]) / (points[start + 1] - points[start]), 0.0


def _cells(points: Sequence[float], places: Array) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """`_cell` of many places."""
    ends = np.array(points)
    start = np.clip(np.searchsorted(ends, places, side="right") - 1, 0, len(ends) - 2)
    share = np.clip((places - ends[start]) / (ends[start + 1] - ends[start]), 0.0, 1.0)
    return start, share, np.maximum(places - ends[-1], 0.0)
