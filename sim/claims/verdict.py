"""What intervals allow one to say of a statement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isinf

from sim.metrics.interval import Interval

Factor = str | int | float


class Verdict(StrEnum):
    """What is said of a statement."""

    HOLDS = "holds"
    SOMETIMES = "holds when"
    FAILS = "does not hold"
    OPEN = "not distinguished"


@dataclass(frozen=True)
class Bound:
    """What a statement says of a quantity: that it is at most, or at least, this value."""

    value: float
    least: bool = False

    def met(self, found: Interval) -> bool | None:
        """Return whether a quantity is within the bound: True or False if all of its interval says so, else None."""
        inside = found.low >= self.value if self.least else found.high <= self.value
        outside = found.high < self.value if self.least else found.low > self.value
        return True if inside else False if outside else None

    def __str__(self) -> str:
        """Return it in words."""
        return f"at {'least' if self.least else 'most'} {self.value:g}"


@dataclass(frozen=True)
class Finding:
    """A quantity in one setting.

    Attributes:
        factors: What the setting is, by name.
        found: The quantity and its confidence interval.
        predicted: Of a quantity that was measured: what was predicted for the same setting; None: nothing.
        repeats: Of a quantity that was measured: what was repeated, in words.
    """

    factors: Mapping[str, Factor]
    found: Interval
    predicted: float | None = None
    repeats: str = ""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement, and what was found of it.

    Attributes:
        text: What is stated.
        source: Who states it: `abstract` or `design`.
        quantity: What is measured of it, and how.
        bound: What the statement says of the quantity.
        findings: The quantity in every setting that was tried, at least one.
        metric: What the quantity is called where it is measured; empty: it is not.
        to: The policy that it is a ratio to; None: it is none.
        measured: The same statement of what was measured; None: nothing was.
    """

    text: str
    source: str
    quantity: str
    bound: Bound
    findings: Sequence[Finding]
    metric: str = ""
    to: str | None = None
    measured: "Statement | None" = None

    @property
    def holding(self) -> list[Finding]:
        """Where it holds."""
        return [finding for finding in self.findings if self.bound.met(finding.found)]

    @property
    def verdict(self) -> Verdict:
        """What the intervals say of it, over all settings."""
        met = [self.bound.met(finding.found) for finding in self.findings]
        if all(met):
            return Verdict.HOLDS
        if any(met):
            return Verdict.SOMETIMES
        return Verdict.OPEN if None in met else Verdict.FAILS

    @property
    def lowest(self) -> Finding:
        """Where the quantity is smallest."""
        return min(self.findings, key=lambda finding: finding.found.estimate)

    @property
    def highest(self) -> Finding:
        """Where the quantity is largest."""
        return max(self.findings, key=lambda finding: finding.found.estimate)

    @property
    def condition(self) -> str:
        """When it holds, in words; empty if it holds everywhere or nowhere.

        Values of single factors that were enough, if they explain every setting where it holds; else the values without
        which it was never seen to hold, and how many of the settings with these values it holds in.
        """
        if self.verdict is not Verdict.SOMETIMES:
            return ""
        holding = self.holding
        enough = {name: self._values(name, lambda at: all(one in holding for one in at)) for name in self._factors}
        if all(any(one.factors[name] in values for name, values in enough.items()) for one in holding):
            return ", or ".join(f"{name} {_listed(values)}" for name, values in enough.items() if values)
        needed = {name: self._values(name, lambda at: any(one in holding for one in at)) for name in self._factors}
        like = [one for one in self.findings if all(one.factors[name] in needed[name] for name in needed)]
        restricting = [name for name in needed if len(needed[name]) < len(self._values(name, bool))]
        words = "; ".join(f"{name} {_listed(needed[name])}" for name in restricting)
        return f"{words or 'it depends'} ({len(holding)} of {len(like)} such settings)"

    @property
    def _factors(self) -> list[str]:
        return list(self.findings[0].factors)

    def _values(self, name: str, wanted: Callable[[list[Finding]], bool]) -> list[Factor]:
        """Return the values of a factor of which all settings that have it are as wanted, numbers in order."""
        every = dict.fromkeys(one.factors[name] for one in self.findings)
        found = [value for value in every if wanted([one for one in self.findings if one.factors[name] == value])]
        return found if any(isinstance(value, str) for value in found) else sorted(found)


def _listed(values: Sequence[Factor]) -> str:
    return " or ".join(value if isinstance(value, str) else f"{value:g}" for value in values)


def in_words(found: Interval, digits: int = 2) -> str:
    """Return a quantity with its interval, as in `1.31 (1.27 to 1.35)`; without one if nothing bounds it."""
    if isinf(found.high):
        return f"{found.estimate:.{digits}f} (no interval)"
    if found.low == found.high:
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
