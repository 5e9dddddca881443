"""The highest arrival rate at which a policy meets a service-level objective, found by simulation.

Rates lie on a grid, each `precision` below the one above, from the throughput of a saturated run down: no higher rate
can be served for long. At every rate the same replications are simulated, the same gaps between arrivals scaled to it,
as many as it takes to tell whether the attainment is above or below what is asked; a rate for which the most are not
enough is undecided. Looking several times is paid for: each look has a confidence so high that all together have 95 %.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from policies.checks import InputError
from sim.metrics.interval import CONFIDENCE, Interval, interval
from sim.metrics.metrics import Summary

FEWEST = 8
"""Replications of a rate before anything is said of it."""
NEAR = 0.1
"""Distance from the capacity, in the logarithm of the rate, within which a curve is drawn with care."""
LOWEST = 1e-3
"""The lowest rate that is tried, as a share of the saturated throughput."""

MEETS, UNDECIDED, MISSES = 1, 0, -1

_UNDECIDED = 5
"""Rates that are first taken to need the most replications."""


def looks(most: int) -> list[int]:
    """Return after how many replications a rate is judged: 8, 16, 32 and so on up to `most`."""
    counts = [min(FEWEST, most)]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


@dataclass
class TriedRate:
    """A rate that was tried.

    Attributes:
        rate: Requests/s.
        runs: Metrics of its replications.
        verdict: `MEETS`, `UNDECIDED` or `MISSES`.
    """

    rate: float
    runs: list[Summary] = field(default_factory=list)
    verdict: int = UNDECIDED

    @property
    def attainments(self) -> list[float]:
        """Share of requests that met the SLO, of each replication."""
        return [float(run["slo_attainment"] or 0) for run in self.runs]

    def metric(self, name: str) -> float | None:
        """Mean of a metric across replications; None where one has none."""
        values = [run.get(name) for run in self.runs]
        numbers = [float(value) for value in values if value is not None]
        return float(np.mean(numbers)) if len(numbers) == len(values) and numbers else None


@dataclass(frozen=True)
class Capacity:
    """The capacity of a policy.

    Attributes:
        rate: Highest rate of the grid whose mean attainment is high enough, in requests/s; 0 if none was.
        low: Highest rate that surely meets the SLO; 0 if none does.
        high: Lowest rate that surely misses it; infinity if none that can be served does, 0 if every rate does.
        saturated: Requests/s of a saturated run, the highest rate that was tried; 0 if it served nobody.
        points: All that was tried, by rate; none if there is no rate to try.
    """

    rate: float
    low: float
    high: float
    saturated: float
    points: list[TriedRate]

    @property
    def limited_by_throughput(self) -> bool:
        """Whether the SLO is surely met at every rate that can be served."""
        return 0 < self.low == self.saturated

    @property
    def at_capacity(self) -> TriedRate | None:
        """What was tried at the capacity; None if there is none."""
        here = (tried for tried in self.points if tried.rate == self.rate)
        return max(here, key=lambda tried: len(tried.runs), default=None)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "requests_per_s": self.rate,
            "low": self.low,
            "high": self.high if math.isfinite(self.high) else None,
            "saturated_request_throughput": self.saturated,
            "limited_by_throughput": self.limited_by_throughput,
        }


class Search:
    """Finds the capacity of one policy.

    Attributes:
        runs: Simulations made so far.
        expected: Those that it is likely to take in all.
    """

    def __init__(
        self,
        simulate: Callable[[float, int], Summary],
        saturated: float,
        attainment: float,
        precision: float,
        replications: int,
        counted: int,
        resampled: bool = False,
    ) -> None:
        """Prepare the search.

        Args:
            simulate: Metrics at a rate, in requests/s, of a replication.
            saturated: Throughput of a saturated run, in requests/s: the top of the grid.
            attainment: Share of requests that must meet the SLO.
            precision: Step of the grid, relative.
            replications: Most of a rate.
            counted: Requests of a replication that count.
            resampled: Whether they are resampled from one trace.
        """
        self.runs = self.expected = 0
        self._simulate = simulate
        self._saturated = saturated
        self._attainment = attainment
        self._precision = precision
        self._looks = looks(replications)
        self._resampled = resampled
        self._chance = math.sqrt(attainment * (1 - attainment) / counted)
        self._rates: dict[int, TriedRate] = {}

    @cached_property
    def _bottom(self) -> int:
        return math.ceil(-math.log(LOWEST) / math.log1p(self._precision))

    def _rate(self, place: int) -> float:
        """Rates from the top of the grid down."""
        return float(self._saturated * (1 + self._precision) ** -place)

    def judge(self, place: int) -> int:
        """Simulate a rate until it is told whether it meets the SLO, or the most replications are made."""
        if place in self._rates:
            return self._rates[place].verdict
        tried = self._rates[place] = TriedRate(self._rate(place))
        for count in self._looks:
            self._extend(tried, count)
            attainment = self.interval(tried)
            if attainment.low >= self._attainment or attainment.high < self._attainment:
                tried.verdict = MEETS if attainment.low >= self._attainment else MISSES
                break
        return tried.verdict

    def _extend(self, tried: TriedRate, count: int) -> None:
        for replication in range(len(tried.runs), count):
            tried.runs.append(self._simulate(tried.rate, replication))
            self.runs += 1

    def interval(self, tried: TriedRate) -> Interval:
        """The attainment at a rate, with the confidence of one look.

        Replications that all agree do not show their spread: it is taken to be at least that of requests which met the
        SLO independently of each other, as often as is asked.
        """
        confidence = 1 - (1 - CONFIDENCE) / len(self._looks)
        return interval(tried.attainments, self._resampled, confidence, least_std=self._chance)

    def _first(self, low: int, high: int, holds: Callable[[int], bool]) -> int:
        """The first place in [low, high] from which on `holds`; high + 1 if nowhere."""
        while low <= high:
            bisections = (high - low + 1).bit_length()
            self.expected = max(self.expected, self.runs + self._looks[0] * bisections + self._looks[-1] * _UNDECIDED)
            middle = (low + high) // 2
            low, high = (low, middle - 1) if holds(middle) else (middle + 1, high)
        return low

    def run(self) -> Capacity:
        """Search: bisect for the highest rate that meets the SLO, then for the lowest that misses it."""
        meets = self._first(0, self._bottom, lambda place: self.judge(place) == MEETS)
        missing = [place for place, tried in self._rates.items() if tried.verdict == MISSES and place < meets]
        misses = self._first(max(missing, default=-1) + 1, meets - 1, lambda place: self.judge(place) != MISSES) - 1
        best = self._first(misses + 1, min(meets, self._bottom), self._mean_meets)
        return Capacity(
            rate=self._rate(best) if best <= self._bottom else 0.0,
            low=self._rate(meets) if meets <= self._bottom else 0.0,
            high=self._rate(misses) if misses >= 0 else math.inf,
            saturated=self._saturated,
            points=sorted(self._rates.values(), key=lambda tried: tried.rate),
        )

    def _mean_meets(self, place: int) -> bool:
        self.judge(place)
        return float(np.mean(self._rates[place].attainments)) >= self._attainment

    def fill(self, rate: float, around: float) -> TriedRate:
        """Try a further rate, for a curve: with the most replications within `NEAR` of the rate `around`.

        A rate that the search has tried is not tried again: it gets the replications that it lacks.
        """
        there = (tried for tried in self._rates.values() if math.isclose(tried.rate, rate))
        tried = next(there, None) or TriedRate(rate)
        self._extend(tried, self._looks[-1 if is_near(rate, around) else 0])
        return tried


def is_near(rate: float, around: float) -> bool:
    """Return whether a rate is so close to another that a curve needs the most replications there."""
    return bool(abs(math.log(rate / around)) <= NEAR)


def unit_rate(workload: object) -> object:
    """Return a workload whose requests arrive at 1 request/s, by the same process; all at once becomes poisson.

    A trace with its own arrivals is left as it is: its rate is known once it is read.

    Raises:
        InputError: if its requests do not arrive at a rate.
    """
    arrivals = getattr(workload, "arrivals", None)
    if arrivals is None:
        raise InputError("workload: capacity is a rate, which this workload has none of; choose another")
    process = arrivals().process
    if process == "closed_loop":
        raise InputError("workload.arrival=closed_loop has no rate, which capacity is: choose poisson")
    if process == "trace":
        return replace(workload, rate_multiplier=None)  # type: ignore[type-var]
    if process == "all_at_once":
        return replace(workload, arrival="poisson", rate=1.0)  # type: ignore[type-var]
    return replace(workload, rate=1.0)  # type: ignore[type-var]
