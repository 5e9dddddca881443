"""Curves and colours as data, for pictures and page alike."""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sim.metrics.metrics import Summary
from sim.metrics.occupancy import Series

Array = npt.NDArray[np.float64]


class Timed(Protocol):
    """What a distribution needs to know of a run."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """Columns of `requests.parquet`: equally long arrays, seconds, NaN where undefined."""


class Outcome(Timed, Protocol):
    """What a picture needs to know of a policy's run."""

    @property
    def summary(self) -> Summary:
        """Metrics by name, as `sim.metrics.metrics`."""

    @property
    def occupancy(self) -> Series:
        """What the batch held over time."""


Outcomes = Mapping[str, Outcome]

Thinning = Callable[[Array, Array, int], tuple[Array, Array]]
"""Makes of edges and a series of bins between them those of fewer bins, at most as many as given."""

# Okabe and Ito's colours, told apart by the colour-blind; the dashes tell lines apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (9, 2, 2, 2)))

# From dark to light, hatched in turn: the causes can be told apart in grey.
CAUSE_STYLES = (
    ("#000000", ""),
    ("#009E73", ""),
    ("#CC79A7", "////"),
    ("#E69F00", "...."),
    ("#F0E442", "\\\\\\\\"),
    ("#D55E00", "xxxx"),
    ("#56B4E9", "++++"),
)
"""Colour and hatching of the causes of idle time, in the order of `sim.reporting.labels.CAUSES`."""

_QUANTILES = np.linspace(0, 1, 501)


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the line style of each policy."""
    looks = cycle(zip(_COLOURS, _DASHES, strict=True))
    return {name: {"color": colour, "linestyle": dash} for name, (colour, dash) in zip(names, looks, strict=False)}


def value(summary: Summary, key: str) -> float:
    """Return a metric for drawing: 0 where it is not defined."""
    number = summary.get(key)
    return float(number) if number is not None and np.isfinite(number) else 0.0


def distribution(values: npt.NDArray[Any]) -> tuple[Array, Array]:
    """Return at most 501 points (value, share of values at most that); empty if no value is defined."""
    defined = np.asarray(values, dtype=np.float64)
    defined = np.sort(defined[np.isfinite(defined)])
    if not len(defined):
        return defined, defined
    if len(defined) < len(_QUANTILES):
        return np.append(defined[0], defined), np.arange(len(defined) + 1) / len(defined)
    ranks = np.rint(_QUANTILES * (len(defined) - 1)).astype(np.int64)
    return defined[ranks], (ranks + 1) / len(defined)


def is_wide(values: Array, times: float = 100) -> bool:
    """Whether the largest of some positive values is so many times the least that it asks for a logarithmic axis."""
    return bool(values.min() > 0 and values.max() > times * values.min())


def time_unit(outcomes: Outcomes) -> tuple[float, str]:
    """Return the seconds in, and the name of, the unit of time that suits the longest run."""
    longest = max(outcome.occupancy.edges_s[-1] for outcome in outcomes.values())
    return (3600, "h") if longest > 4 * 3600 else (60, "min") if longest > 600 else (1, "s")


def thinned(edges: Array, means: Array, points: int) -> tuple[Array, Array]:
    """Return edges and time-weighted means over at most `points` runs of bins."""
    group = max(1, -(-len(means) // points))
    starts = np.arange(0, len(means), group)
    if not len(starts):
        return edges, means
    wide = np.append(edges[starts], edges[-1])
    return wide, np.add.reduceat(means * np.diff(edges), starts) / np.diff(wide)


def thinned_peaks(edges: Array, peaks: Array, points: int) -> tuple[Array, Array]:
    """Return edges and the most over at most `points` runs of bins: extremes stay."""
    starts = np.arange(0, len(peaks), max(1, -(-len(peaks) // points)))
    if not len(starts):
        return edges, peaks
    return np.append(edges[starts], edges[-1]), np.maximum.reduceat(peaks, starts)
