"""What requests ask for, before they are given arrivals; and how a recording of it is brought into order."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from workloads.requests import FloatArray, HashArray, IntArray


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
        notes: sentences on what was done to the input.
    """

    prompt_tokens: IntArray
    output_tokens: IntArray
    recorded_s: FloatArray | None = None
    priority: IntArray | None = None
    prefix_id: IntArray | None = None
    prefix_tokens: IntArray | None = None
    prefix_hashes: HashArray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.prompt_tokens)

    def take(self, rows: NDArray[np.int64] | slice) -> "Demand":
        """Return the demand of these rows, in this order."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "notes"}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})

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


def spread_within_ticks(demand: Demand) -> Demand:
    """Spread the requests of each tick evenly up to the next one (the last tick is as long as the one before).

    For recordings whose clock is so coarse that many requests share a time. Needs sorted arrivals.
    """
    arrival_s = demand.recorded_s
    assert arrival_s is not None
    ticks, first, size = np.unique(arrival_s, return_index=True, return_counts=True)
    if len(ticks) < 2:
        return demand
    gaps = np.diff(ticks)
    span = np.repeat(np.append(gaps, gaps[-1]), size)
    place = np.arange(len(arrival_s)) - np.repeat(first, size)
    spread_s = arrival_s + span * place / np.repeat(size, size)
    note = f"arrivals recorded in ticks of {np.median(gaps):.3g} s spread evenly within each tick"
    return replace(demand, recorded_s=spread_s).noted(note)


def with_duplicates_noted(demand: Demand) -> Demand:
    """Note how many requests share their recorded arrival with another; they are kept. Needs sorted arrivals."""
    assert demand.recorded_s is not None
    same = np.diff(demand.recorded_s) == 0
    shared = int(np.count_nonzero(np.append(same, False) | np.append(False, same)))
    if not shared:
        return demand
    return demand.noted(f"{counted(shared, 'request')} share their arrival time with another (kept)")


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, such as `1 row` or `1,234 rows`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
