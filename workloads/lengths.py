"""Distributions of prompt and output lengths, in tokens."""

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np

from policies.checks import InputError, Number, Whole, check_options
from workloads.requests import MAX_TOKENS, FloatArray, IntArray

ZIPF_LONGEST = 1_000_000
"""Longest length of a Zipf distribution: its table of probabilities has one entry per length."""

TOKENS = Whole(1, MAX_TOKENS)


@runtime_checkable
class LengthDistribution(Protocol):
    """A distribution of whole token counts, all at least 1."""

    @property
    def longest(self) -> int:
        """The longest length that can be drawn, in tokens."""
        ...

    def check(self, option: str) -> None:
        """Raise InputError, naming the options below `option`, if the parameters make no distribution."""
        ...

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Draw n lengths, int64 [n]; a larger draw from the same state starts with the same values."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Every length is `tokens`."""

    tokens: Annotated[int, TOKENS]

    @property
    def longest(self) -> int:
        """The one length, in tokens."""
        return self.tokens

    def check(self, option: str) -> None:
        """Raise InputError unless `tokens` is a token count."""
        check_options(self, option)

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Return int64 [n], all `tokens`; draws nothing."""
        return np.full(n, self.tokens, dtype=np.int64)


@dataclass(frozen=True)
class Uniform:
    """Every whole length from `low` to `high`, both included, is equally likely."""

    low: Annotated[int, TOKENS]
    high: Annotated[int, TOKENS]

    @property
    def longest(self) -> int:
        """The longest length, in tokens."""
        return self.high

    def check(self, option: str) -> None:
        """Raise InputError unless 1 <= low <= high."""
        _check_range(self, option)

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Draw int64 [n]."""
        return rng.integers(self.low, self.high, size=n, endpoint=True, dtype=np.int64)


@dataclass(frozen=True)
class LogNormal:
    """The logarithm is normal; values are rounded, and those outside `low` to `high` moved to the nearer bound.

    Attributes:
        median: tokens, exp of the mean of ln(length).
        sigma: standard deviation of ln(length), at most 10.
        low: shortest length, tokens.
        high: longest length, tokens.
    """

    median: Annotated[float, Number(1, MAX_TOKENS)]
    sigma: Annotated[float, Number(0, 10)]
    low: Annotated[int, TOKENS]
    high: Annotated[int, TOKENS]

    @property
    def longest(self) -> int:
        """The longest length, in tokens."""
        return self.high

    def check(self, option: str) -> None:
        """Raise InputError unless 1 <= low <= high, median is at least 1 and sigma is from 0 to 10."""
        _check_range(self, option)

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Draw int64 [n]."""
        lengths: FloatArray = np.rint(self.median * np.exp(self.sigma * rng.standard_normal(n)))
        return np.clip(lengths, self.low, self.high).astype(np.int64)


@dataclass(frozen=True)
class Zipf:
    """Bounded Zipf: length k from `low` to `high` has a probability proportional to k**-exponent."""

    exponent: Annotated[float, Number(0, 10)]
    low: Annotated[int, Whole(1, ZIPF_LONGEST)]
    high: Annotated[int, Whole(1, ZIPF_LONGEST)]

    @property
    def longest(self) -> int:
        """The longest length, in tokens."""
        return self.high

    def check(self, option: str) -> None:
        """Raise InputError unless 1 <= low <= high <= 1,000,000 and the exponent is from 0 to 10."""
        _check_range(self, option)

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Draw int64 [n]."""
        cumulative = np.cumsum(np.arange(self.low, self.high + 1, dtype=np.float64) ** -self.exponent)
        rank = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        lengths: IntArray = np.minimum(self.low + rank, self.high)
        return lengths


def _check_range(lengths: Uniform | LogNormal | Zipf, option: str) -> None:
    check_options(lengths, option)
    if lengths.low > lengths.high:
        raise InputError(
            f"{option}.low is {lengths.low}, above {option}.high={lengths.high}: lower the one or raise the other"
        )
