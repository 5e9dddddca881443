"""The options that every workload takes, and how they turn lengths into requests."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.errors import InputError
from workloads.arrivals import PROCESSES, Arrivals
from workloads.checks import whole_number
from workloads.declared import Declaration
from workloads.demand import Demand
from workloads.requests import IntArray, Requests
from workloads.streams import stream

MAX_REQUESTS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options common to all workloads. An option that the others make useless must be None.

    Attributes:
        num_requests: requests to build; None for all rows of a trace.
        arrival: `poisson`, `gamma`, `constant`, `all_at_once`, `closed_loop` or, for a trace, `trace`; None is
            `poisson` if a rate is given, else `trace` for a trace and `all_at_once` for the rest.
        rate: mean requests per second (poisson, gamma, constant).
        cv: coefficient of variation of the gaps (gamma).
        concurrency: clients (closed_loop).
        rate_multiplier: times faster than recorded (trace); None is 1.
        max_new_tokens: how the output length is declared to the scheduler: `max`, `pow2` or `oracle`.
        max_new_cap: longest output that may be declared, in tokens; None is the longest possible one.

    Raises:
        InputError: if an option is out of range, missing or contradicts another.
    """

    num_requests: int | None = None
    arrival: str | None = None
    rate: float | None = None
    cv: float | None = None
    concurrency: int | None = None
    rate_multiplier: float | None = None
    max_new_tokens: str = "max"
    max_new_cap: int | None = None

    recorded: ClassVar[bool] = False
    """Whether the workload has arrivals of its own."""

    def __post_init__(self) -> None:
        """Check all options at once, before any work is done."""
        if self.num_requests is not None or not self.recorded:
            whole_number("workload.num_requests", self.num_requests, 1, MAX_REQUESTS)
        if self.arrival == "trace" and not self.recorded:
            choices = ", ".join(process for process in PROCESSES if process != "trace")
            raise InputError(f"workload.arrival=trace needs a recorded trace, this is none: choose {choices}")
        self.arrivals()
        self.declaration()

    def arrivals(self) -> Arrivals:
        """Return the arrival process that the options describe."""
        process = self.arrival
        if process is None:
            unsaid = "trace" if self.recorded else "all_at_once"
            process = "poisson" if self.rate is not None else unsaid
        return Arrivals(process, self.rate, self.cv, self.concurrency, self.rate_multiplier)

    def declaration(self) -> Declaration:
        """Return how output lengths are declared."""
        return Declaration(self.max_new_tokens, self.max_new_cap)

    def requests(self, seed: int, name: str, demand: Demand, longest_output: int) -> Requests:
        """Give every demand its arrival and its declaration.

        Args:
            seed: the seed of the run.
            name: the workload's name.
            demand: what the requests ask for, in order of arrival.
            longest_output: the longest output that the workload can have, in tokens.

        Raises:
            InputError: if an output exceeds `workload.max_new_cap`.
        """
        n = len(demand)
        arrivals, declaration = self.arrivals(), self.declaration()
        return Requests(
            arrival_s=arrivals.times(stream(seed, "arrivals"), n, demand.recorded_s),
            prompt_tokens=demand.prompt_tokens,
            output_tokens=demand.output_tokens,
            max_new_tokens=declaration.declare(demand.output_tokens, longest_output),
            priority=_or_full(demand.priority, n, 0),
            prefix_id=_or_full(demand.prefix_id, n, -1),
            prefix_tokens=_or_full(demand.prefix_tokens, n, 0),
            prefix_hashes=demand.prefix_hashes,
            hash_tokens=demand.hash_tokens,
            concurrency=arrivals.concurrency,
            name=name,
            notes=demand.notes,
            declared=declaration.label(longest_output),
            arrivals=str(arrivals),
        )


def _or_full(values: IntArray | None, n: int, value: int) -> IntArray:
    return np.full(n, value, dtype=np.int64) if values is None else values
