"""How far a prediction may be off: the simulation repeated on hardware as it may truly be.

A calibrated table predicts kernels with errors that are known, for it was judged on shapes that it was not made of. A
model's kernels are neighbours among these shapes, and every iteration of a run uses the same ones; so each kind of
kernel gets one error for the whole run, the mean of a block of neighbouring residuals (a block bootstrap), and the
constants of the engine are drawn once within what their fit left open. Independent errors for every iteration would
cancel, and the interval would promise too much.

What is not in it: rules of a real scheduler that the policy does not have, and shapes beyond those measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from policies.checks import InputError
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.kernels.tables import MatrixProduct, Table
from sim.metrics.metrics import Summary

AnyTable = TypeVar("AnyTable", bound=Table)

DRAWS = 60
"""Simulations that an interval is made of."""

LEVEL = 0.9
"""Share of the truths that an interval is meant to hold."""

BLOCK = 4
"""Neighbouring residuals whose mean is the error of a kind of kernel.

The matrices of a layer are four. Layers put together of measured matrices, at the sizes of dense models on 1 to 4 GPUs,
err by about as much as means of four residuals: half the range that holds 90 % is 5.3, 2.9, 2.9, 6.0 and 5.6 % on A100,
H100, H200, L40S and RTX PRO 6000, against 5.1, 4.6, 2.3, 6.2 and 6.0 %.
"""

_TIMES = ("seconds", "walk_seconds", "sample_seconds", "logit_seconds")
"""Fields of tables that are times; those of `MatrixProduct` are shares of a rate."""

ENDS = ("low", "high")

THROUGHPUTS = ("output_throughput", "saturated_output_throughput")
"""What policies are compared by: the throughput of the whole run, and of its saturated part where all have one."""

Range = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Intervals:
    """Ranges that hold the truth in `LEVEL` of all cases.

    Attributes:
        metrics: By policy, by metric of its summary.
        ratios: Of its `THROUGHPUTS` to those of the first policy, by policy; errors that both share cancel.
    """

    metrics: Mapping[str, Mapping[str, Range]]
    ratios: Mapping[str, Mapping[str, Range]]

    def ends(self, policy: str) -> dict[str, float]:
        """Return the ends of a policy's intervals as more entries of its summary.

        They are `METRIC_low` and `METRIC_high`, and of ratios `METRIC_ratio_low` and `METRIC_ratio_high`.
        """
        ranges = dict(self.metrics[policy])
        ranges |= {f"{key}_ratio": ends for key, ends in self.ratios.get(policy, {}).items()}
        return {f"{key}_{end}": value for key, ends in ranges.items() for end, value in zip(ENDS, ends, strict=True)}


def require_errors(hardware: Device) -> Calibrated:
    """Return hardware whose errors are known.

    Raises:
        InputError: They are not.
    """
    if not isinstance(hardware, Calibrated) or not _residuals(hardware):
        raise InputError(
            f"interval=true: the errors of hardware={hardware.name} are not known; choose a calibrated file, such as "
            "hardware=h100_sxm"
        )
    return hardware


def drawn(hardware: Calibrated, rng: np.random.Generator) -> Calibrated:
    """Return the hardware as it may truly be: every table slower or faster by an error that it may have.

    A table that was not judged errs as the others of its GPU do.
    """
    changed: dict[str, Any] = {}
    for field in fields(hardware):
        value = getattr(hardware, field.name)
        tables = value if isinstance(value, list | tuple) else [value]
        if not tables or not isinstance(tables[0], Table):
            continue
        place = rng.random()
        others = _residuals(hardware)
        errors = [_block_mean(table.residuals or others, place) for table in tables]
        slow = [slowed(table, float(np.exp(error))) for table, error in zip(tables, errors, strict=True)]
        changed[field.name] = slow if isinstance(value, list | tuple) else slow[0]
    return replace(hardware, **changed, engine=drawn_engine(hardware.engine, rng))


def drawn_engine(engine: EngineConstants, rng: np.random.Generator) -> EngineConstants:
    """Return the constants as they may truly be, each by its standard error, within the range that it can have."""
    values = {
        name: max(engine.least(name), getattr(engine, name) + error * rng.standard_normal())
        for name, error in sorted(engine.standard_errors.items())
    }
    return replace(engine, **values)


def slowed(table: AnyTable, factor: float) -> AnyTable:
    """Return a table whose kernels take so many times as long."""
    changed = {each.name: _times(getattr(table, each.name), factor) for each in fields(table) if each.name in _TIMES}
    if isinstance(table, MatrixProduct):
        changed["share"] = _times(table.share, 1 / factor)
    return replace(table, **changed)


def intervals(draws: Mapping[str, Sequence[Summary]]) -> Intervals:
    """Return the intervals of all numbers that the summaries have.

    Args:
        draws: By policy, its summary on each hardware drawn: the same hardware at the same place for all policies.
    """
    metrics = {name: _ranges(summaries) for name, summaries in draws.items()}
    first, *others = draws
    ratios = {
        name: {
            key: _range(_values(draws[name], key) / _values(draws[first], key))
            for key in THROUGHPUTS
            if key in metrics[name] and key in metrics[first]
        }
        for name in others
    }
    return Intervals(metrics, ratios)


def _ranges(summaries: Sequence[Summary]) -> dict[str, Range]:
    numeric = [key for key, value in summaries[0].items() if isinstance(value, float)]
    return {
        key: _range(_values(summaries, key))
        for key in numeric
        if all(isinstance(summary.get(key), float) for summary in summaries)
    }


def _values(summaries: Sequence[Summary], key: str) -> Any:
    return np.array([summary[key] for summary in summaries], dtype=np.float64)


def _range(values: Any) -> Range:
    # Places (n + 1) q of the n ordered draws: one more draw lies between the two with a probability of LEVEL.
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="weibull")
    return float(low), float(high)


def _residuals(hardware: Calibrated) -> list[float]:
    """Return the residuals of all tables."""
    residuals: list[float] = []
    for field in fields(hardware):
        value = getattr(hardware, field.name)
        for table in value if isinstance(value, list | tuple) else [value]:
            residuals += table.residuals if isinstance(table, Table) else ()
    return residuals


def _block_mean(residuals: Sequence[float], place: float) -> float:
    """Return the mean of a block of neighbours that begins at this share of the residuals, taken as a circle."""
    start = int(place * len(residuals))
    return float(np.mean([residuals[(start + step) % len(residuals)] for step in range(BLOCK)]))


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, Mapping):
        return {key: _times(item, factor) for key, item in value.items()}
    return (np.array(value) * factor).tolist()
