"""What requests ask for, before they are given arrivals; and how a recording of it is brought into order."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.job import HASHED
from workloads.recorded.units import duration
from workloads.requests import FloatArray, HashArray, IntArray

STRANGE_RATES = (1e-3, 1e4)
"""Requests per second that one recording hardly has fewer or more of."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Lengths of n requests, with whatever else a recording holds.

    Attributes:
        prompt_tokens: int64 [n].
        output_tokens: int64 [n].
        recorded_s: float64 [n], arrivals in seconds as recorded; None if there are none.
        priority: int64 [n] or None.
        prefix_id: int64 [n] or None.
        prefix_tokens: int64 [n] or None.
        prefix_hashes: object [n] of tuples, see `Requests`, or None.
        hash_tokens: tokens that one of these hashes stands for.
        notes: sentences on what was done to the input.
    """

    prompt_tokens: IntArray
    output_tokens: IntArray
    recorded_s: FloatArray | None = None
    priority: IntArray | None = None
    prefix_id: IntArray | None = None
    prefix_tokens: IntArray | None = None
    prefix_hashes: HashArray | None = None
    hash_tokens: int = HASHED
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.prompt_tokens)

    def take(self, rows: NDArray[np.int64] | slice) -> "Demand":
        """Return the demand of these rows, in this order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: each[rows] for name, each in values.items() if isinstance(each, np.ndarray)}
        return replace(self, **taken)

    def noted(self, note: str) -> "Demand":
        """Return the same demand with one more note."""
        return replace(self, notes=(*self.notes, note))


def without_failures(demand: Demand) -> Demand:
    """Drop requests with 0 prompt or output tokens: published traces record failed requests so."""
    rows = np.flatnonzero((demand.prompt_tokens > 0) & (demand.output_tokens > 0))
    failed = len(demand) - len(rows)
    if not failed:
        return demand
    return demand.take(rows).noted(f"{counted(failed, 'request')} with 0 tokens (failed) dropped")


def in_order(demand: Demand) -> Demand:
    """Sort by recorded arrival (ties keep their order) and let time start at the first one, noting what changed."""
    arrival_s = demand.recorded_s
    assert arrival_s is not None
    late = int(np.count_nonzero(arrival_s < np.maximum.accumulate(arrival_s)))
    if late:
        demand = demand.take(np.argsort(arrival_s, kind="stable"))
        demand = demand.noted(f"{counted(late, 'row')} out of order: all rows sorted by arrival time")
        arrival_s = demand.recorded_s
        assert arrival_s is not None
    if arrival_s[0] != 0:
        note = f"arrivals shifted by {-arrival_s[0]:,.3f} s so that the first is at 0"
        demand = replace(demand, recorded_s=arrival_s - arrival_s[0]).noted(note)
    return demand


def with_duplicates_noted(demand: Demand) -> Demand:
    """Note how many requests share their recorded arrival with another; they are kept. Needs sorted arrivals."""
    assert demand.recorded_s is not None
    same = np.diff(demand.recorded_s) == 0
    shared = int(np.count_nonzero(np.append(same, False) | np.append(False, same)))
    if not shared:
        return demand
    return demand.noted(f"{counted(shared, 'request')} share their arrival time with another (kept)")


def with_rate_noted(demand: Demand, remedy: str) -> Demand:
    """Note how long the recording is and how many requests a second it has. Needs sorted arrivals.

    Args:
        demand: What was recorded.
        remedy: What to say of a strange rate.
    """
    arrival_s = demand.recorded_s
    assert arrival_s is not None
    if len(demand) < 2:
        return demand
    span = float(arrival_s[-1] - arrival_s[0])
    if not span:
        return demand.noted(f"recorded: {len(demand):,} requests, all at one time")
    rate = (len(demand) - 1) / span
    note = f"recorded: {len(demand):,} requests in {duration(span)}, {rate:.3g} requests/s"
    if not STRANGE_RATES[0] <= rate <= STRANGE_RATES[1]:
        note += f": strange; {remedy}"
    return demand.noted(note)


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, such as `1 row` or `1,234 rows`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
