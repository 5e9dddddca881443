"""What intervals allow one to say of a statement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sim.claims.interval import Interval

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
    """

    factors: Mapping[str, Factor]
    found: Interval


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement, and what was found of it.

    Attributes:
        text: What is stated.
        source: Who states it: `abstract` or `design`.
        quantity: What is measured of it, and how.
        bound: What the statement says of the quantity.
        findings: The quantity in every setting that was tried, at least one.
    """

    text: str
    source: str
    quantity: str
    bound: Bound
    findings: Sequence[Finding]

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
        """When it holds, in words: the values of each factor without which it was never seen to hold; may be empty.

        Settings with these values, in which it was not seen to hold, are counted.
        """
        holding = self.holding
        allowed: dict[str, list[Factor]] = {}
        for name in self.findings[0].factors:
            every = dict.fromkeys(finding.factors[name] for finding in self.findings)
            good = {finding.factors[name] for finding in holding}
            if good and len(good) < len(every):
                allowed[name] = [value for value in every if value in good]
        if not holding or self.verdict is Verdict.HOLDS:
            return ""
        like = [
            finding
            for finding in self.findings
            if all(finding.factors[name] in values for name, values in allowed.items())
        ]
        words = "; ".join(f"{name} {_listed(values)}" for name, values in allowed.items())
        return f"{words or 'in some settings'} ({len(holding)} of {len(like)} such settings)"


def _listed(values: Sequence[Factor]) -> str:
    return " or ".join(value if isinstance(value, str) else f"{value:g}" for value in values)


def in_words(found: Interval, digits: int = 2) -> str:
    """Return a quantity with its interval, as in `1.31 (1.27 to 1.35)`."""
    if found.low == found.high:
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
