"""Whether a run kept up with requests that arrive by the clock, from when they arrived and when they were answered.

A server that is offered r times what it can serve answers a request that arrives at time t about (r - 1) t late: its
end-to-end latency grows by r - 1 seconds per second of arrivals. One that keeps up answers the last request as soon as
the first.

Latencies of neighbours are alike, so a line through single requests looks far surer than it is. Its slope is taken from
means of a few consecutive batches instead, which depend on each other little (batch means: Law, Simulation Modeling and
Analysis, 5th ed., 2015, section 9.5.3), and nothing is said that the interval of the slope leaves open.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.metrics.interval import t_quantile
from sim.metrics.request_columns import Columns

Array = npt.NDArray[np.float64]

CLOSE = 0.05
"""Relative difference from the arrivals' rate within which a throughput is theirs; growth up to which it is none."""
BATCHES = 5
"""Batches of consecutive requests that the growth of latency is estimated from."""
SURE = 0.99
"""Confidence of the interval of that growth: what is left of the dependence between batches narrows it."""
SERVICES = 2.0
"""How many times as long as a request is served the arrivals of the second half must last to tell."""
FEWEST = 2 * BATCHES
"""Fewest requests in that half to tell."""


@dataclass(frozen=True)
class Lag:
    """How far answers fell behind arrivals.

    Attributes:
        offered_rate: Requests/s that arrived; None if they did not arrive one after the other.
        drain_s: Time from the last arrival to the end; None of no request.
        growth: Seconds by which the end-to-end latency grew per second of arrivals, over the second half of them: the
            first is left out, since the system fills up in it. None where it cannot be told.
        falls_behind: Whether it grew, and the throughput is below the rate of the arrivals; None where that cannot be
            told, be it that the interval of the growth holds both.
    """

    offered_rate: float | None = None
    drain_s: float | None = None
    growth: float | None = None
    falls_behind: bool | None = None


def lag(columns: Columns, end_s: float, throughput: float | None, by_the_clock: bool) -> Lag:
    """Return how far the answers of a run fell behind.

    A request that can never be served is not counted. With requests left unfinished nothing can be told.

    Args:
        columns: Of n requests, in order of arrival, as `sim.metrics.request_columns` gives them.
        end_s: When the run ended.
        throughput: Requests/s that were completed.
        by_the_clock: Whether requests arrive whatever becomes of those before; else there is nothing to fall behind.
    """
    served = columns["status"] != "rejected"
    arrival, latency = columns["arrival_s"][served], columns["e2e_s"][served]
    if not len(arrival):
        return Lag()
    drain_s, span = max(end_s - float(arrival[-1]), 0.0), float(arrival[-1] - arrival[0])
    if not by_the_clock or not span > 0:
        return Lag(drain_s=drain_s)
    offered = (len(arrival) - 1) / span
    if np.isnan(latency).any() or throughput is None:
        return Lag(offered, drain_s)
    growth, half = _growth(arrival, latency, float(np.median(_service(columns)[served][: len(arrival) // 4 or 1])))
    keeps = throughput >= (1 - CLOSE) * offered
    return Lag(offered, drain_s, growth, False if keeps else _falls_behind(growth, half))


def _falls_behind(growth: float | None, half: float) -> bool | None:
    """Whether latency grows, of its growth and the half width of that's interval; None where it may or may not."""
    if growth is None:
        return None
    if growth + half <= CLOSE:
        return False
    return True if growth > CLOSE and growth > half else None


def _service(columns: Columns) -> Array:
    """Seconds from the first prefill of each request to its end."""
    service: Array = columns["e2e_s"] - columns["queue_s"]
    return service


def _growth(arrival: Array, latency: Array, service_s: float) -> tuple[float | None, float]:
    """Slope of latency over arrival in the second half of the arrivals, and the half width of its interval.

    A line by least squares through the means of `BATCHES` batches of as many consecutive requests; Student's t with two
    degrees of freedom fewer.
    """
    late = arrival >= (arrival[0] + arrival[-1]) / 2
    lasted = float(arrival[-1] - arrival[0]) / 2
    if late.sum() < FEWEST or lasted < SERVICES * service_s:
        return None, 0.0
    time, level = _batch_means(arrival[late]), _batch_means(latency[late])
    time -= time.mean()
    spread = float(time @ time)
    if not spread > 0:
        return None, 0.0
    slope = float(time @ level) / spread
    rest = level - level.mean() - slope * time
    error = float(np.sqrt(rest @ rest / (BATCHES - 2) / spread))
    return slope, t_quantile(SURE, BATCHES - 2) * error


def _batch_means(values: Array) -> Array:
    return np.array([batch.mean() for batch in np.array_split(values, BATCHES)])
