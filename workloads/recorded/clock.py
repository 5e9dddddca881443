"""The clock of a recording, found in its times, and arrivals spread within its ticks.

A coarse clock gives many requests one time. Sent at once, they would be a burst that never was. The tick is found in
the times alone: of all ticks it is the one that explains the distinct times in the fewest bits. A grid of ticks T among
times that are whole multiples of g explains each time on it with log2(T / g) bits less. It costs the bits that tell
which times are off it, and those that name T and its phase. So an idle gap does not matter, nor a minority of times off
the grid, and few times prove nothing.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workloads.demand import Demand
from workloads.requests import FloatArray, IntArray

FINEST_S = 0.01
"""Ticks shorter than this are left alone: a server's iteration takes longer."""

_PER_SECOND = 1_000_000
_JITTER, _MOST_JITTER = 1e-3, _PER_SECOND // 100
"""Ticks of a real clock may be off by this share of a tick, at most by so many microseconds."""

_SAMPLE = 20_000
_MODES = 16


def find_tick(times: FloatArray) -> float | None:
    """Return the tick of the clock that recorded times, in seconds; None if it is not coarse or not to be told.

    Args:
        times: float64 [n], ascending.
    """
    distinct = np.unique(_whole(times))
    if len(distinct) < 3:
        return None
    unit = int(np.gcd.reduce(distinct))
    gaps = np.diff(distinct)
    sample = distinct[:: -(-len(distinct) // _SAMPLE)]
    scores = [(_saved_bits(sample, tick, unit), tick) for tick in _candidates(gaps, unit)]
    _, tick = max([(0.0, unit), *scores])
    seconds = tick / _PER_SECOND
    return seconds if seconds >= FINEST_S else None


def spread_within_ticks(demand: Demand) -> Demand:
    """Spread the requests of each tick of a coarse clock evenly up to the next one, at most over one tick, and say so.

    Times off the grid are exact, and are left alone. Needs sorted arrivals.
    """
    arrival_s = demand.recorded_s
    assert arrival_s is not None
    tick = find_tick(arrival_s) if (np.diff(arrival_s) == 0).any() else None
    if tick is None:
        return demand
    times, first, size = np.unique(arrival_s, return_index=True, return_counts=True)
    on_grid = _on_grid(_whole(times), round(tick * _PER_SECOND))
    gaps = np.diff(times[on_grid])
    gaps = np.append(gaps, gaps[-1]) if len(gaps) else np.array([tick])
    span = np.zeros(len(times))
    # Ticks jitter: the next one, where it follows, is where this one ends.
    span[on_grid] = np.where(gaps < 1.5 * tick, gaps, tick)
    place = np.arange(len(arrival_s)) - np.repeat(first, size)
    spread_s = arrival_s + np.repeat(span, size) * place / np.repeat(size, size)
    demand = replace(demand, recorded_s=spread_s)
    if (np.diff(spread_s) < 0).any():
        demand = demand.take(np.argsort(spread_s, kind="stable"))
    return demand.noted(f"arrivals recorded in ticks of {tick:.3g} s spread evenly within each tick")


def _candidates(gaps: IntArray, unit: int) -> list[int]:
    """Return ticks worth a try: the commonest gaps, what divides two of them, and parts of both."""
    values, counts = np.unique(np.concatenate([gaps, gaps[1:] + gaps[:-1]]), return_counts=True)
    modes = [int(value) for value in values[np.argsort(-counts, kind="stable")][:_MODES]]
    common = {int(np.gcd(one, other)) for one in modes for other in modes}
    seconds = {round(tick * _PER_SECOND) for tick in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 15, 30, 60)}
    parts = {tick // part for tick in common for part in (1, 2, 3, 4, 5)}
    return [tick for tick in sorted(parts | seconds) if tick > unit and tick >= FINEST_S * _PER_SECOND]


def _saved_bits(times: IntArray, tick: int, unit: int) -> float:
    """Return how many bits fewer say the times if the clock has this tick."""
    best = -np.inf
    for jitter in (0, _jitter(tick)):
        on, n = int(_on_grid(times, tick, jitter).sum()), len(times)
        if 2 * on <= n:
            continue
        share = on / n
        flags = -n * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) if on < n else 0.0
        best = max(best, on * np.log2(tick / (unit + 2 * jitter)) - flags - 2 * np.log2(tick / unit))
    return float(best)


def _on_grid(times: IntArray, tick: int, jitter: int | None = None) -> NDArray[np.bool_]:
    """Return which times lie on the grid of a tick whose phase suits most of them, bool [n]."""
    jitter = _jitter(tick) if jitter is None else jitter
    residue = times % tick
    ordered = np.sort(residue)
    ordered = np.concatenate([ordered, ordered + tick])
    reached = np.searchsorted(ordered, ordered[: len(times)] + 2 * jitter, side="right") - np.arange(len(times))
    start = ordered[int(np.argmax(reached))]
    on: NDArray[np.bool_] = (residue - start) % tick <= 2 * jitter
    return on


def _jitter(tick: int) -> int:
    return min(round(tick * _JITTER), _MOST_JITTER)


def _whole(times: FloatArray) -> IntArray:
    """Return ascending times as whole microseconds after the first."""
    whole: IntArray = np.rint((times - times[0]) * _PER_SECOND).astype(np.int64)
    return whole
