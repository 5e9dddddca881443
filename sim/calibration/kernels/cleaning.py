"""From several dirty measurements of a kernel to one clean curve."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]


def typical(versions: pd.DataFrame) -> pd.Series:
    """Return the median over engines and versions; of two, the lower: nothing disturbs a kernel into being fast."""
    ordered = np.sort(versions.to_numpy(dtype=np.float64), axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    middle = np.maximum(count - 1, 0) // 2
    return pd.Series(ordered[np.arange(len(ordered)), middle], index=versions.index).dropna()


def comparable(versions: pd.DataFrame) -> pd.Series:
    """Return the typical times of shapes that every version measured: two of them then differ by their shape alone."""
    return typical(versions.dropna())


def ascending(values: Array) -> Array:
    """Return the closest curve that never falls: least squares of the logarithms, pool adjacent violators."""
    levels: list[float] = []
    sizes: list[int] = []
    for value in np.log(values):
        levels.append(float(value))
        sizes.append(1)
        while len(levels) > 1 and levels[-2] > levels[-1]:
            size = sizes[-2] + sizes[-1]
            levels[-2:] = [(levels[-2] * sizes[-2] + levels[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.asarray(np.exp(np.repeat(levels, sizes)))


def ascending_both(values: Array) -> Array:
    """Return a table that never falls along either axis: curves made to ascend in turn until none falls any more."""
    for _ in range(100):
        before = values
        values = np.apply_along_axis(ascending, 0, np.apply_along_axis(ascending, 1, values))
        if np.allclose(values, before, rtol=1e-9):
            break
    return np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)


def rounded(values: Array, digits: int = 3) -> list[float]:
    """Return values with so many significant digits, never below what they were by more than half a digit."""
    return [float(f"{value:.{digits}g}") for value in values]


def errors(measured: Array, predicted: Array, keep: int = 96) -> dict[str, object]:
    """Return how far predictions lie from measurements: median, p90, and some log-ratios in the order of the shapes."""
    ratios = np.log(measured / predicted)
    relative = np.abs(predicted / measured - 1)
    spread = np.linspace(0, len(ratios) - 1, min(keep, len(ratios))).round().astype(int)
    return {
        "median_error": float(f"{np.median(relative):.3f}"),
        "p90_error": float(f"{np.quantile(relative, 0.9):.3f}"),
        "residuals": [float(f"{ratio:.3f}") for ratio in ratios[spread]],
    }


def log_interpolate(places: Sequence[float] | Array, at: Array, values: Array) -> Array:
    """Return a curve at other places: straight between its points on logarithmic axes, as steep beyond the last two."""
    x, known, heights = np.log(np.asarray(places, dtype=np.float64)), np.log(at), np.log(values)
    inside = np.interp(x, known, heights)
    if len(known) > 1:
        last = (heights[-1] - heights[-2]) / (known[-1] - known[-2])
        inside = np.where(x > known[-1], heights[-1] + last * (x - known[-1]), inside)
    return np.asarray(np.exp(inside))
