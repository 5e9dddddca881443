"""The options that every workload takes: arrivals, and the output length that a request declares to the scheduler."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.checks import InputError, choice, whole_number
from workloads.arrivals import PROCESSES, Arrivals
from workloads.demand import Demand
from workloads.requests import MAX_TOKENS, IntArray, Requests
from workloads.streams import stream

RULES = ("max", "pow2", "oracle")


@dataclass(frozen=True)
class Declaration:
    """How `max_new_tokens` follows from the true output length.

    Attributes:
        rule: `max`, every request declares the cap; `pow2`, the output rounded up to a power of two, at most the
            cap (a good predictor); `oracle`, the output itself (a perfect one).
        cap: the longest output that may be declared, in tokens; None is the longest the workload can have.

    Raises:
        InputError: if the rule is unknown or the cap is no token count.
    """

    rule: str
    cap: int | None = None

    def __post_init__(self) -> None:
        """Check the two options."""
        choice("workload.max_new_tokens", self.rule, RULES)
        if self.cap is not None:
            whole_number("workload.max_new_cap", self.cap, 1, MAX_TOKENS)

    def declare(self, output_tokens: IntArray, longest: int) -> IntArray:
        """Return what each request declares, int64 [n], never less than its output.

        Args:
            output_tokens: int64 [n], the true output lengths.
            longest: the longest output that the workload can have, in tokens.

        Raises:
            InputError: if an output is longer than the cap.
        """
        cap = longest if self.cap is None else self.cap
        if (found := int(output_tokens.max())) > cap:
            raise InputError(
                f"workload.max_new_cap is {cap}, but request {int(np.argmax(output_tokens))} has an output of {found} "
                f"tokens: raise workload.max_new_cap (to {longest}, or null for the longest possible)"
            )
        if self.rule == "max":
            return np.full_like(output_tokens, cap)
        if self.rule == "pow2":
            # frexp gives the number of bits of output - 1, exactly, where log2 would round.
            rounded = np.left_shift(np.int64(1), np.frexp(output_tokens - 1)[1].astype(np.int64))
            return rounded if self.cap is None else np.minimum(rounded, cap)
        return output_tokens.copy()

    def label(self, longest: int) -> str:
        """Return the rule in words, such as `max (cap 2048)`."""
        if self.rule == "max":
            return f"max (cap {longest if self.cap is None else self.cap})"
        if self.rule == "pow2" and self.cap is not None:
            return f"pow2 (cap {self.cap})"
        return self.rule


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
