"""Arrival processes: when each request comes."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from policies.checks import InputError
from workloads.requests import FloatArray

Process = Literal["poisson", "gamma", "constant", "all_at_once", "closed_loop", "trace"]

PROCESSES = get_args(Process)
_USED_BY = {
    "rate": ("poisson", "gamma", "constant"),
    "cv": ("gamma",),
    "concurrency": ("closed_loop",),
    "rate_multiplier": ("trace",),
}
_OPTIONAL = ("rate_multiplier",)


@dataclass(frozen=True)
class Arrivals:
    """One arrival process with its parameters; those that it does not use must be None.

    Attributes:
        process: one of PROCESSES.
        rate: mean arrivals per second (poisson, gamma, constant).
        cv: coefficient of variation of the gaps between arrivals (gamma); 1 is poisson, above 1 is bursty.
        concurrency: clients that each wait for their answer before sending again (closed_loop).
        rate_multiplier: how many times faster than recorded (trace); None is 1.

    Raises:
        InputError: if a parameter is missing, or given to a process that does not use it.
    """

    process: Process
    rate: float | None = None
    cv: float | None = None
    concurrency: int | None = None
    rate_multiplier: float | None = None

    def __post_init__(self) -> None:
        """Check that exactly the parameters of the process are given."""
        for option, processes in _USED_BY.items():
            value, used = getattr(self, option), self.process in processes
            if value is None and used and option not in _OPTIONAL:
                raise InputError(
                    f"workload.arrival={self.process} needs workload.{option}: give workload.{option}=NUMBER"
                )
            if value is not None and not used:
                raise InputError(
                    f"workload.{option}={value} has no use with workload.arrival={self.process}: "
                    f"set workload.{option}=null, or workload.arrival={'|'.join(processes)}"
                )

    def times(self, rng: np.random.Generator, n: int, recorded_s: FloatArray | None) -> FloatArray:
        """Return the arrival of each request, float64 [n], in seconds, ascending.

        Random gaps are drawn at rate 1 and then scaled, so that another rate stretches the same pattern.

        Args:
            rng: the stream of arrivals.
            n: the number of requests.
            recorded_s: float64 [n], the trace's own arrivals; needed by process `trace` only.
        """
        if self.process == "trace":
            assert recorded_s is not None
            return recorded_s / (self.rate_multiplier or 1.0)
        if self.rate is None:
            return np.zeros(n, dtype=np.float64)
        return self._unit_times(rng, n) / self.rate

    def _unit_times(self, rng: np.random.Generator, n: int) -> FloatArray:
        if self.process == "constant":
            return np.arange(n, dtype=np.float64)
        if self.cv is None:
            return np.cumsum(rng.standard_exponential(n))
        shape = self.cv**-2
        return np.cumsum(rng.standard_gamma(shape, n) / shape)

    def __str__(self) -> str:
        """Return the process and its parameters in words."""
        words = [self.process.replace("_", " ")]
        if self.rate is not None:
            words.append(f"{self.rate:g} requests/s")
        if self.cv is not None:
            words.append(f"CV {self.cv:g}")
        if self.concurrency is not None:
            words.append(f"{self.concurrency} clients")
        if self.rate_multiplier not in (None, 1):
            words.append(f"{self.rate_multiplier:g} times as fast")
        return ", ".join(words)
