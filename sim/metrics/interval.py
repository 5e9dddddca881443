"""Confidence intervals over replications, of a metric and of the ratio between two policies, and what they say.

A replication is one value: a metric of one run, its p99 included, never a request. Replications with seeds of their own
are independent, so Student's t holds for their mean. Replications resampled from one trace are not new evidence: their
spread is the bootstrap's estimate of how far the trace itself may be off, however many are drawn (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993, chapters 6 and 12).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CONFIDENCE = 0.95
"""Of every interval, unless another is asked for."""
CONFIDENCE_TEXT = f"{CONFIDENCE:.0%}".replace("%", " %")
EQUAL = 0.02
"""Two policies are called equal if all of the interval of their ratio is within this of 1."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; ends are infinite where nothing bounds them."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2


@cache
def t_quantile(confidence: float, freedom: int) -> float:
    """Return t such that |T| <= t with this probability, T of Student's distribution with `freedom` degrees."""
    low, high = 0.0, 1.0
    while central_probability(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if central_probability(middle, freedom) < confidence else (low, middle)
    return high


def central_probability(t: float, freedom: int) -> float:
    """Return P(|T| <= t): the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, cosine if freedom > 1 else 0.0) if odd else (1.0, 1.0)
    for place in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (place - 1) / place
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def interval(
    values: Sequence[float], resampled: bool = False, confidence: float = CONFIDENCE, least_std: float = 0.0
) -> Interval:
    """Return the mean of replications and the interval of what they estimate.

    Args:
        values: One value per replication, at least one; of a single one nothing is known but itself.
        resampled: Whether they were resampled from one trace: their standard deviation is then the standard error of
            the trace's own value, to which that of their mean is added; it does not shrink as more are drawn.
        confidence: Probability that the interval holds the true value.
        least_std: What the standard deviation is taken to be at least.
    """
    sample = np.asarray(values, dtype=np.float64)
    count, mean = len(sample), float(sample.mean())
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    error = max(float(sample.std(ddof=1)), least_std) * math.sqrt(resampled + 1 / count)
    half = t_quantile(confidence, count - 1) * error
    return Interval(mean, mean - half, mean + half)


def ratio_interval(
    values: Sequence[float], base: Sequence[float], resampled: bool = False, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return the geometric mean of paired ratios, and its interval: paired t on their logarithms.

    Args:
        values: A policy's metric, one value per replication.
        base: Another policy's, of the same replications in the same order.
        resampled: As `interval`.
        confidence: As `interval`.

    Returns:
        None if a value is not positive: there is no ratio then.
    """
    above, below = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if not (above > 0).all() or not (below > 0).all():
        return None
    logs = interval((np.log(above) - np.log(below)).tolist(), resampled, confidence)
    return Interval(math.exp(logs.estimate), math.exp(logs.low), _exp(logs.high))


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf


def verdict(ratio: Interval) -> str:
    """Return what the interval of a ratio allows one to say.

    `equal within 2 %` only if all of it is within 2 % of 1; else `not distinguished` if it holds 1; else `higher` or
    `lower`.
    """
    if ratio.low >= 1 - EQUAL and ratio.high <= 1 + EQUAL:
        return f"equal within {EQUAL:.0%}".replace("%", " %")
    if ratio.low <= 1 <= ratio.high:
        return "not distinguished"
    return "higher" if ratio.low > 1 else "lower"


def in_words(ratio: Interval) -> str:
    """Return a ratio as it is reported: `1.31, 95 % CI 1.27 to 1.35`, and the verdict where it tells no direction."""
    judged, text = verdict(ratio), ", ".join(estimate_and_ends(ratio))
    return text if judged in ("higher", "lower") else f"{text}: {judged}"


def estimate_and_ends(ratio: Interval) -> tuple[str, str]:
    """Return `1.31` and `95 % CI 1.27 to 1.35`.

    They have two decimals, or as many as show two digits of the interval's length.
    """
    width = ratio.high - ratio.low
    digits = 2 if width >= 0.02 or not width else min(1 - math.floor(math.log10(width)), 5)
    ends = f"{CONFIDENCE_TEXT} CI {ratio.low:.{digits}f} to {ratio.high:.{digits}f}"
    return f"{ratio.estimate:.{digits}f}", ends


def mean_text(mean: Interval | None, scale: float = 1.0) -> str:
    """Return a mean as `1,234 ± 12`: as many decimals as the half width has for two digits, at most four."""
    if mean is None:
        return "-"
    half, value = mean.half_width * scale, mean.estimate * scale
    size = half if half > 0 else abs(value) / 100
    digits = min(max(1 - math.floor(math.log10(size)), 0), 4) if size > 0 and math.isfinite(size) else 0
    return f"{value:,.{digits}f} ± {half:,.{digits}f}"
