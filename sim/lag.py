"""Whether a run kept up with requests that arrive by the clock, from when they arrived and when they were answered.

A server that is offered r times what it can serve answers a request that arrives at time t about (r - 1) t late: its
end-to-end latency grows by r - 1 seconds per second of arrivals. One that keeps up answers the last request as soon as
the first.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.request_table import Columns

Array = npt.NDArray[np.float64]

CLOSE = 0.05
"""Relative difference from the arrivals' rate within which a throughput is theirs; growth up to which it is none."""
SURE = 2.0
"""Standard errors by which a latency must grow to be said to."""
SERVICES = 2.0
"""How many times as long as a request is served the arrivals of the second half must last to tell."""
FEWEST = 8
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
            told.
    """

    offered_rate: float | None = None
    drain_s: float | None = None
    growth: float | None = None
    falls_behind: bool | None = None


def lag(columns: Columns, end_s: float, throughput: float | None, by_the_clock: bool) -> Lag:
    """Return how far the answers of a run fell behind.

    A request that can never be served is not counted. With requests left unfinished nothing can be told.

    Args:
        columns: Of n requests, in order of arrival, as `sim.request_table` gives them.
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
    growth, error = _growth(arrival, latency, float(np.median(_service(columns)[served][: len(arrival) // 4 or 1])))
    if throughput >= (1 - CLOSE) * offered:
        return Lag(offered, drain_s, growth, falls_behind=False)
    return Lag(offered, drain_s, growth, None if growth is None else growth > max(CLOSE, SURE * error))


def _service(columns: Columns) -> Array:
    """Seconds from the first prefill of each request to its end."""
    service: Array = columns["e2e_s"] - columns["queue_s"]
    return service


def _growth(arrival: Array, latency: Array, service_s: float) -> tuple[float | None, float]:
    """Slope of latency over arrival, by least squares over the second half of the arrivals, and its standard error."""
    late = arrival >= (arrival[0] + arrival[-1]) / 2
    lasted = float(arrival[-1] - arrival[0]) / 2
    if late.sum() < FEWEST or lasted < SERVICES * service_s:
        return None, 0.0
    time = arrival[late] - arrival[late].mean()
    spread = float(time @ time)
    if not spread > 0:
        return None, 0.0
    slope = float(time @ latency[late]) / spread
    rest = latency[late] - latency[late].mean() - slope * time
    return slope, float(np.sqrt(rest @ rest / (len(time) - 2) / spread))
