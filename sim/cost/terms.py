"""The terms that the cost of a profiled layout is a sum of."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from policies.checks import Choice, InputError, check_options
from sim.cost.device import Array, computed_rows, computed_slots, decode_kv
from sim.cost.rules import is_number
from sim.cost.work import Work

PHASES = ("decode", "prefill", "mixed", "any")
"""When a term counts: in iterations that only decode, only prefill, do both, or whatever they do."""

COUNTS: dict[str, Callable[[Any], Any]] = {
    "iterations": lambda work: work.rows * 0 + 1,
    "rows": computed_rows,
    "slots": computed_slots,
    "prompts": lambda work: work.prefill_rows,
    "kv": decode_kv,
    "pairs": lambda work: work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs,
    "launches": lambda work: work.attention_launches,
    "inserted_rows": lambda work: work.inserted_rows,
    "kv_copied": lambda work: work.kv_copied,
    "kv_host": lambda work: work.kv_host,
}
"""What a term multiplies, and what its table is looked up by. Takes a `Work` of counts or of arrays."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of an iteration's duration: a count times a coefficient.

    Between two places of its table a coefficient is interpolated; below the first it is the first; beyond the last it
    continues as from the middle of the table to its end, but never falls.

    Attributes:
        name: What it stands for.
        phase: When it counts, one of `PHASES`.
        of: The count, one of `COUNTS`.
        by: What the table is looked up by, one of `COUNTS`; None: one coefficient.
        at: Places of the table, ascending; empty without `by`.
        seconds: The coefficient at each place, seconds per unit of `of`; one of them without `by`.
        r2: Share of the variance left without this term that it explained in the measurements; None: not judged.
    """

    name: str
    phase: Annotated[str, Choice(PHASES)]
    of: Annotated[str, Choice(COUNTS)]
    by: Annotated[str | None, Choice(COUNTS)] = None
    at: Sequence[float] = ()
    seconds: Sequence[float]
    r2: float | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words, and tables that are no tables."""
        place = f"hardware: term {self.name}"
        check_options(self, place)
        numbers = isinstance(self.at, list | tuple) and isinstance(self.seconds, list | tuple)
        if not numbers or not all(is_number(value) for value in (*self.at, *self.seconds)):
            raise InputError(f"{place}: at and seconds must be lists of finite numbers")
        if len(self.seconds) != (len(self.at) if self.by else 1) or not self.seconds:
            raise InputError(f"{place}: give one of seconds for each place of at, or exactly one without by")
        if any(later <= earlier for earlier, later in zip(self.at, self.at[1:], strict=False)):
            raise InputError(f"{place}: the places of at must ascend")
        if self.phase in ("decode", "any") and self.of == "kv" and self.by not in (None, "rows"):
            raise InputError(f"{place}: decode must stay linear in kv, so by={self.by} is refused; use rows")

    @property
    def slope(self) -> float:
        """How the coefficient continues beyond the table."""
        middle = len(self.at) // 2 if len(self.at) > 2 else 0
        if len(self.at) < 2:
            return 0.0
        return max(0.0, (self.seconds[-1] - self.seconds[middle]) / (self.at[-1] - self.at[middle]))

    def coefficient(self, place: float) -> float:
        """Return the coefficient at one place."""
        at, seconds = self.at, self.seconds
        if not at or place <= at[0]:
            return seconds[0]
        if place >= at[-1]:
            return seconds[-1] + (place - at[-1]) * self.slope
        after = bisect_right(at, place)
        share = (place - at[after - 1]) / (at[after] - at[after - 1])
        return seconds[after - 1] + share * (seconds[after] - seconds[after - 1])

    def total(self, work: Work) -> float:
        """Return what the term adds to an iteration, in seconds."""
        count = COUNTS[self.of](work)
        if not count:
            return 0.0
        return float(count * (self.coefficient(COUNTS[self.by](work)) if self.by else self.seconds[0]))

    def totals(self, work: Work) -> Array:
        """Return what the term adds to each of many iterations, in seconds."""
        count = np.asarray(COUNTS[self.of](work), dtype=np.float64)
        if self.by is None:
            return count * self.seconds[0]
        place = np.asarray(COUNTS[self.by](work), dtype=np.float64)
        beyond = np.maximum(place - self.at[-1], 0.0) * self.slope
        return count * (np.interp(place, self.at, self.seconds) + beyond)


def phase_of(work: Work) -> str:
    """Return the phase of an iteration; `any` if it computes nothing."""
    if work.rows or work.held_rows:
        return "mixed" if work.prefill_rows else "decode"
    return "prefill" if work.prefill_rows else "any"


def phases_of(work: Any) -> dict[str, Any]:
    """Return which of many iterations belong to each phase, as boolean arrays; `any` is all of them."""
    decode, prefill = work.rows + work.held_rows > 0, work.prefill_rows > 0
    return {
        "decode": decode & ~prefill,
        "prefill": prefill & ~decode,
        "mixed": decode & prefill,
        "any": np.ones(decode.shape, dtype=bool),
    }
