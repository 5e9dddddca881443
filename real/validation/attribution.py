"""Where the error of a prediction came from, iteration by iteration.

A predicted run and a measured one differ for two reasons: iterations took longer or shorter than their `Work` is priced
at, and, since decisions follow the clock, other iterations were run. Pricing the measured iterations separates the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost.profile import MeasuredCost
from sim.cost.terms import phases_of
from sim.engine.iteration_log import Slice, work_of

Array = npt.NDArray[np.float64]

PARTS = ("decode", "insertion_and_copies", "prefill", "mixed", "beside_the_other_lane", "between_iterations")
"""What the time of a run is divided into: plain decode steps; those that also insert rows, move or copy keys and
values; prefills; iterations that do both; those that shared the device with the other lane; and the time between two
iterations of the batch."""


@dataclass(frozen=True)
class Part:
    """One part of the measured time.

    Attributes:
        count: Iterations, or times between two.
        measured_s: What they took.
        priced_s: What the profile says of the same work.
    """

    count: int
    measured_s: float
    priced_s: float

    @property
    def error_s(self) -> float:
        """By how much the profile says too much."""
        return self.priced_s - self.measured_s


def attribute(records: Slice, cost: MeasuredCost, idle_possible: bool) -> dict[str, Part]:
    """Price the iterations of a measured run and compare, part by part; parts that do not occur are left out.

    Args:
        records: The log, one record per iteration.
        cost: The costs of the layout.
        idle_possible: Whether the engine may have waited for arrivals: then only the time between iterations of a
            batch that has rows is its own.
    """
    work: Any = work_of(records)
    terms = cost.parts(work)
    between = terms.pop("between_iterations", np.zeros(len(records)))
    priced = np.maximum(sum(terms.values(), np.zeros(len(records))), 0.0)
    phases = phases_of(work)
    overlap = _overlap(records)
    shaping = (work.inserted_rows + work.kv_copied + work.kv_host > 0) & ~(phases["prefill"] | phases["mixed"])
    which = {
        "decode": phases["decode"] & ~shaping & (overlap == 0),
        "insertion_and_copies": shaping & (overlap == 0),
        "prefill": phases["prefill"] & (overlap == 0),
        "mixed": phases["mixed"] & (overlap == 0),
        "beside_the_other_lane": overlap > 0,
    }
    priced = priced * (1 + (cost.layout.overlap_slowdown - 1) * overlap)
    parts = {
        name: Part(int(mask.sum()), float(records["duration_s"][mask].sum()), float(priced[mask].sum()))
        for name, mask in which.items()
    }
    gaps, priced_gaps = _gaps(records, between, idle_possible)
    parts["between_iterations"] = Part(len(gaps), float(gaps.sum()), float(priced_gaps.sum()))
    return {name: part for name, part in parts.items() if part.count}


def mean_parts(runs: Sequence[Mapping[str, Part]]) -> dict[str, Part]:
    """Return the mean of several runs, part by part."""
    return {
        name: Part(
            round(float(np.mean([run[name].count if name in run else 0 for run in runs]))),
            float(np.mean([run[name].measured_s if name in run else 0.0 for run in runs])),
            float(np.mean([run[name].priced_s if name in run else 0.0 for run in runs])),
        )
        for name in PARTS
        if any(name in run for run in runs)
    }


def _overlap(records: Slice) -> Array:
    """Share of each iteration during which the other lane was busy, [n]."""
    overlap = np.zeros(len(records))
    start, end = records["start_s"], records["start_s"] + records["duration_s"]
    aside = np.flatnonzero(records["lane"] == 1)
    batch = np.flatnonzero(records["lane"] == 0)
    for prefill in aside:
        shared = np.maximum(np.minimum(end[batch], end[prefill]) - np.maximum(start[batch], start[prefill]), 0.0)
        overlap[batch] += shared
        overlap[prefill] += shared.sum()
    share: Array = overlap / np.maximum(records["duration_s"], 1e-12)
    return share


def _gaps(records: Slice, between: Array, idle_possible: bool) -> tuple[Array, Array]:
    """Time between the iterations of the batch's lane while the other rested, measured and priced."""
    lane, aside = np.flatnonzero(records["lane"] == 0), np.flatnonzero(records["lane"] == 1)
    own, price = records[lane], between[lane]
    start, end = (own["start_s"] + own["duration_s"])[:-1], own["start_s"][1:]
    gaps = end - start
    for other in records[aside]:
        until = other["start_s"] + other["duration_s"]
        gaps -= np.maximum(np.minimum(end, until) - np.maximum(start, other["start_s"]), 0.0)
    busy = np.ones(len(gaps), dtype=bool)
    if idle_possible or len(aside):
        busy = own["live_rows"][1:] > own["inserted_rows"][1:]
    return gaps[busy], price[:-1][busy]
