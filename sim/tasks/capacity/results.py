"""The highest arrival rate at which each of several policies meets the SLO, and the rates that were tried for it."""

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from policies.checks import InputError
from sim.metrics.interval import Interval, interval
from sim.metrics.metrics import Summary
from sim.metrics.slo import SLO
from sim.output.progress import Progress
from sim.simulation.draws import Draws, at_rate
from sim.simulation.results import short
from sim.tasks.capacity.search import Capacity, Search, TriedRate, is_near, unit_rate
from sim.tasks.trial import Trial
from workloads.requests import Requests

if TYPE_CHECKING:
    from pandas import DataFrame

_CURVE = (0.3, 0.5, 0.7, 0.85, 0.93, 1.07, 1.15, 1.3)
"""Rates that are tried for the curve alone, as shares of the capacity."""

_FLOODS = 4
"""Saturated runs whose mean throughput is the highest rate."""


class Capacities(dict[str, Capacity]):
    """The capacities of policies, by name, in the order in which they were tried.

    Attributes:
        slo: What requests must meet.
        attainment: The share of them that must.
        resampled: Whether replications were resampled from one trace.
        notes: Plain sentences on what was simulated, and on what a reader must know.
    """

    def __init__(self, slo: SLO, attainment: float, resampled: bool = False) -> None:
        super().__init__()
        self.slo = slo
        self.attainment = attainment
        self.resampled = resampled
        self.notes: list[str] = []

    @property
    def limits(self) -> str:
        """The limits of the SLO in words."""
        asked = {"TTFT": self.slo.ttft_s, "TPOT": self.slo.tpot_s}
        return " and ".join(f"{name} at most {limit:g} s" for name, limit in asked.items() if limit is not None)

    @property
    def summary(self) -> "DataFrame":
        """A DataFrame with a row per policy, all rates in requests/s.

        `requests_per_s` is the capacity (0 if no rate meets the SLO); the SLO is surely met up to `low` and surely
        missed from `high` on (NaN: nowhere, 0: everywhere); `saturated_request_throughput` is the highest rate that was
        tried.
        """
        import pandas as pd

        frame = pd.DataFrame([each.facts() for each in self.values()], index=list(self))
        frame.index.name = "policy"
        return frame.astype({"high": float})

    @property
    def points(self) -> "DataFrame":
        """A DataFrame with a row per policy and rate that was tried, by rate.

        Columns are `replications`, `attainment`, the ends `attainment_low` and `attainment_high` of its 95 % interval,
        and the mean of every metric across the replications, NaN where one has none.
        """
        import pandas as pd

        frame = pd.DataFrame(
            [
                {"policy": name, "rate": tried.rate, **self._row(tried)}
                for name, each in self.items()
                for tried in each.points
            ]
        )
        return frame.set_index(["policy", "rate"])

    def attained(self, tried: TriedRate) -> Interval:
        """Return the attainment at a rate, with its 95 % interval."""
        return interval(tried.attainments, self.resampled)

    def _row(self, tried: TriedRate) -> dict[str, float | None]:
        share = self.attained(tried)
        ends = {"attainment": share.estimate, "attainment_low": share.low, "attainment_high": share.high}
        numeric = [name for name, value in tried.runs[0].items() if not isinstance(value, bool)]
        return {"replications": len(tried.runs), **ends, **{name: tried.metric(name) for name in numeric}}

    def __repr__(self) -> str:
        """Show the rates as text."""
        return str(self.summary.T.map(short).to_string())

    def _repr_html_(self) -> str:
        """Show the rates in a notebook."""
        return str(self.summary.T.map(short).to_html())


def near(capacity: Capacity) -> list[TriedRate]:
    """Return the rates up to a third above the capacity; close to it, those with the most replications."""
    middle = capacity.rate or capacity.saturated
    most = max((len(tried.runs) for tried in capacity.points), default=0)
    return [
        tried
        for tried in capacity.points
        if tried.rate <= 1.35 * middle and (len(tried.runs) == most or not is_near(tried.rate, middle))
    ]


class CapacitySearch:
    """The search for the capacity of every policy of a trial, on the same requests.

    Attributes:
        capacities: Those found so far.
    """

    def __init__(self, trial: Trial, attainment: float, precision: float, replications: int) -> None:
        """Check that the requests are enough.

        Args:
            trial: What is tried; its requests come at 1 request/s, or as they were recorded, see `unit_draws`.
            attainment: Share of the requests that must meet the SLO of the setting.
            precision: Step between the rates that are tried, relative.
            replications: Most of a rate.

        Raises:
            InputError: if the setting has no SLO, or there are so few requests that a single one decides.
        """
        self._trial = trial
        self._precision = precision
        self._replications = replications
        self.capacities = Capacities(trial.setting.slo, attainment, trial.draws.resampled)
        self._counted = trial.requests - trial.left_out
        self._check_size()
        self._unit = cache(self._build)

    def _check_size(self) -> None:
        attainment = self.capacities.attainment
        needed = math.ceil(1 / (1 - attainment) - 1e-9)
        if self._counted < needed:
            raise InputError(
                f"slo.attainment={attainment:g} of {self._counted:,} requests that count allows none to miss: give "
                f"workload.num_requests={math.ceil(needed / (1 - self._trial.warm_up))}, or as many rows, or more"
            )

    def _build(self, replication: int) -> Requests:
        """Return the requests of a replication at 1 request/s, whatever rate they were recorded at."""
        draws = self._trial.draws
        requests, recorded = draws(replication), draws.first.arrival_s
        if requests.arrival_s[-1] == 0:
            raise InputError("workload: all requests arrive at once, there is no rate to scale; choose another arrival")
        if requests.arrivals.startswith("trace"):
            return at_rate(requests, recorded[-1] / max(len(recorded) - 1, 1))
        return requests

    def __call__(self) -> Capacities:
        """Search for every policy, with progress; return what was found, its notes included.

        Raises:
            InputError: if a policy cannot be run, or none serves any request; `capacities` holds what is finished.
            KeyboardInterrupt: on Ctrl-C; `capacities` holds the policies that are finished.
        """
        for name in self._trial.policies:
            self.capacities[name] = self._search(name)
        if not any(capacity.saturated for capacity in self.capacities.values()):
            names = " and ".join(self.capacities)
            raise InputError(f"{names}: no request of this workload is served: give more kv_tokens or shorter ones")
        self.capacities.notes = self.notes()
        return self.capacities

    def _search(self, name: str) -> Capacity:
        def simulate(rate: float, replication: int) -> Summary:
            summary = self._trial.run(name, at_rate(self._unit(replication), rate))
            progress.total = max(search.expected, search.runs + 1)
            progress.update(search.runs)
            return summary

        saturated = self._saturated(name)
        if not saturated:
            return Capacity(rate=0.0, low=0.0, high=0.0, saturated=0.0, points=[])
        with Progress(name, 0, unit="runs") as progress:
            search = Search(
                simulate,
                saturated,
                self.capacities.attainment,
                self._precision,
                self._replications,
                counted=self._counted,
                resampled=self.capacities.resampled,
            )
            capacity = search.run()
            middle = capacity.rate or capacity.saturated
            curve = [search.fill(share * middle, middle) for share in _CURVE]
        more = [tried for tried in curve if all(tried is not other for other in capacity.points)]
        return replace(capacity, points=sorted([*capacity.points, *more], key=lambda tried: tried.rate))

    def _saturated(self, name: str) -> float:
        """Return the requests/s that a policy serves when all are there from the start; 0 if it serves none."""
        rates = []
        for replication in range(min(_FLOODS, self._replications)):
            requests = self._unit(replication)
            summary = self._trial.run(name, replace(requests, arrival_s=np.zeros(len(requests))))
            key = "saturated_request_throughput" if summary["saturated"] else "request_throughput"
            rates.append(float(summary[key] or 0))
        return float(np.mean(rates))

    def notes(self) -> list[str]:
        """Return sentences on what was simulated so far, and on what a reader of it must know."""
        trial = self._trial
        notes = trial.notes()
        notes.append(
            f"every rate: up to {self._replications} replications of {trial.requests:,} requests, the same gaps scaled"
            + (f"; the first {trial.left_out:,} of each do not count" if trial.left_out else "")
        )
        for name, capacity in self.capacities.items():
            if not capacity.saturated:
                notes.append(f"{name}: no request was served even with all there from the start: the capacity is 0")
            elif not capacity.rate:
                best = capacity.points[0]
                share = float(np.mean(best.attainments))
                notes.append(f"{name}: no rate meets the SLO; at {best.rate:.3g} requests/s {share:.1%} of requests do")
            elif capacity.limited_by_throughput:
                notes.append(f"{name}: the SLO is met at every rate that can be served; its capacity is its throughput")
            elif capacity.rate == capacity.saturated:
                notes.append(
                    f"{name}: at its throughput the SLO is met on average, but not surely: more replications tell"
                )
        if any(capacity.rate for capacity in self.capacities.values()):
            notes.append(
                "p99 at the capacity: the mean over replications of each one's p99; the SLO is judged by the share of "
                "the requests that meet it, so it need not be the limit"
            )
        tried = {name: each for name, each in self.capacities.items() if each.points}
        runs = {name: [run for rate in near(each) for run in rate.runs] for name, each in tried.items()}
        return [*notes, *trial.warnings(runs)]


def unit_draws(workload: object, slo: SLO, seed: int, replications: int) -> Draws:
    """Return the requests of every replication at 1 request/s; of a trace with its own arrivals, as recorded.

    Raises:
        InputError: if there is no SLO to search by, or the workload has no rate.
    """
    if slo.ttft_s is None and slo.tpot_s is None:
        raise InputError("capacity needs an SLO: give slo.ttft_s=SECONDS, slo.tpot_s=SECONDS or both")
    return Draws(unit_rate(workload), seed, replications)
