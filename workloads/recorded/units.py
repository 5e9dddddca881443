"""Units of time: by name, and as times since 1970 show them by their size."""

import math
from datetime import UTC, datetime

import numpy as np

from workloads.requests import FloatArray

PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""How many of each unit are a second."""

NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

EPOCH_S = (1.4e9, 4.1e9)
"""Seconds since 1970 from 2014 to 2099: the times of such a clock. The ranges of the four units lie far apart."""

LONGEST_S = 1e9
"""No recording is longer than this, 31 years; one that seems so is in another unit, or mixes two clocks."""


def epoch_unit(time: float) -> str | None:
    """Return the unit in which a number is a time since 1970, between 2014 and 2099; None if there is none."""
    return next((unit for unit, per in PER_SECOND.items() if EPOCH_S[0] <= time / per <= EPOCH_S[1]), None)


def in_seconds(times: FloatArray, unit: str) -> FloatArray:
    """Return times of a unit, `s`, `ms`, `us` or `ns`, in seconds."""
    seconds: FloatArray = np.asarray(times, dtype=np.float64) / PER_SECOND[unit]
    return seconds


def factor_unit(ratio: float) -> str | None:
    """Return what seconds were taken for if two like durations differ by about a thousand, a million or a billion.

    Args:
        ratio: one divided by the other, either way.

    Returns:
        `ms`, `us`, `ns`, or None if the ratio is not within a factor of 3 of one of these.
    """
    if not np.isfinite(ratio) or ratio <= 0:
        return None
    apart = abs(math.log10(ratio))
    larger = {unit: math.log10(per) for unit, per in PER_SECOND.items() if per > 1}
    return next((unit for unit, digits in larger.items() if abs(apart - digits) < math.log10(3)), None)


def date(seconds: float) -> str:
    """Return seconds since 1970 as a date and time, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """Return a duration in words, such as `3.2 s`, `41 min` or `12 days`: three digits of the unit that suits it."""
    for size, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if seconds >= 2 * size or size == 1e-3 or (size == 1.0 and seconds >= 1):
            return f"{_digits(seconds / size)} {word}"
    raise AssertionError("unreachable")


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
