"""The options that every workload takes: arrivals, and the output length that a request declares to the scheduler."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np

from policies.checks import Checked, InputError, Number, Whole
from workloads.arrivals import PROCESSES, Arrivals, Process
from workloads.demand import Demand
from workloads.requests import MAX_TOKENS, IntArray, Requests
from workloads.streams import stream

Rule = Literal["max", "pow2", "oracle"]

RULES = get_args(Rule)


@dataclass(frozen=True)
class Declaration:
    """How `max_new_tokens` follows from the true output length.

    Attributes:
        rule: `max`, every request declares the cap; `pow2`, the output rounded up to a power of two, at most the
            cap (a good predictor); `oracle`, the output itself (a perfect one).
        cap: the longest output that may be declared, in tokens; None is the longest the workload can have.
    """

    rule: Rule
    cap: int | None = None

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

COUNT = Whole(1, MAX_REQUESTS)
RATE = Number(1e-6, 1e9)


@dataclass(frozen=True, kw_only=True)
class Options(Checked, option="workload"):
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

    num_requests: Annotated[int | None, COUNT] = None
    arrival: Process | None = None
    rate: Annotated[float | None, RATE] = None
    cv: Annotated[float | None, Number(0.001, 1000)] = None
    concurrency: Annotated[int | None, Whole(1, 10**9)] = None
    rate_multiplier: Annotated[float | None, RATE] = None
    max_new_tokens: Rule = "max"
    max_new_cap: Annotated[int | None, Whole(1, MAX_TOKENS)] = None

    recorded: ClassVar[bool] = False
    """Whether the workload has arrivals of its own."""

    def __post_init__(self) -> None:
        """Check all options at once, before any work is done."""
        super().__post_init__()
        if not self.recorded:
            COUNT("workload.num_requests", self.num_requests)
        if self.arrival == "trace" and not self.recorded:
            choices = ", ".join(process for process in PROCESSES if process != "trace")
            raise InputError(f"workload.arrival=trace needs a recorded trace, this is none: choose {choices}")
        self.arrivals()

    def arrivals(self) -> Arrivals:
        """Return the arrival process that the options describe."""
        unsaid: Process = "poisson" if self.rate is not None else "trace" if self.recorded else "all_at_once"
        return Arrivals(self.arrival or unsaid, self.rate, self.cv, self.concurrency, self.rate_multiplier)

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
