"""Hardware as it was measured: what iterations of one model took on one machine, and the costs fitted to them.

A profile prices an iteration as a sum of terms, each a count of `Work` times a coefficient, which a table gives:
decode by rows, prefill by computed slots, KV reads, attention pairs, copies, launches, inserted rows. Each layout has
terms of its own, since each has its own way of execution. `real.profile` measures and writes profiles; they are YAML
files that a run takes as its hardware.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.errors import InputError
from policies.policy import Traits
from policies.work import Work
from sim.cost import Array, CostModel, Demand, computed_rows, computed_slots, decode_kv
from sim.engine_constants import EngineConstants
from sim.hardware import Device
from sim.model import Model

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
    phase: str
    of: str
    by: str | None = None
    at: Sequence[float] = ()
    seconds: Sequence[float]
    r2: float | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words, and tables that are no tables."""
        place = f"hardware: term {self.name}"
        for option, value, known in (("phase", self.phase, PHASES), ("of", self.of, COUNTS)):
            if value not in known:
                raise InputError(f"{place}: {option}={value} is unknown; choose one of {', '.join(known)}")
        if self.by is not None and self.by not in COUNTS:
            raise InputError(f"{place}: by={self.by} is unknown; choose one of {', '.join(COUNTS)}")
        numbers = isinstance(self.at, list | tuple) and isinstance(self.seconds, list | tuple)
        if not numbers or not all(_is_number(value) for value in (*self.at, *self.seconds)):
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


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well one phase of a layout was met.

    Attributes:
        phase: One of `PHASES` but `any`.
        iterations: How many were fitted.
        r2: Coefficient of determination of their durations.
        held_out: How many were kept aside, shapes and all.
        held_out_error: Relative error of the total time of those; None without any.
        held_out_spread: Mean absolute relative error, iteration by iteration, noise included; None without any.
        rows: Fewest and most rows measured.
        slots: Fewest and most computed slots measured.
        kv: Fewest and most KV tokens read in an iteration.
    """

    phase: str
    iterations: int
    r2: float | None
    held_out: int
    held_out_error: float | None
    held_out_spread: float | None
    rows: Sequence[int]
    slots: Sequence[int]
    kv: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class LayoutCost:
    """What a layout's iterations cost.

    Attributes:
        layout: Its name, as `layout_of` gives it.
        terms: Its terms.
        fits: How well they met the measurements, by phase.
        overlap_slowdown: How many times slower both lanes run while prefill runs beside decode; 2 is taking turns.
    """

    layout: str
    terms: Sequence[Term]
    fits: Sequence[Fit] = ()
    overlap_slowdown: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is no list of terms, and an overlap that speeds things up."""
        if not isinstance(self.terms, list | tuple) or not all(isinstance(term, Term) for term in self.terms):
            raise InputError(f"hardware: layout {self.layout}: terms must be a list of sim.profile.Term")
        if not _is_number(self.overlap_slowdown) or self.overlap_slowdown < 1:
            raise InputError(f"hardware: layout {self.layout}: overlap_slowdown={self.overlap_slowdown}: 1 or more")

    def at_pace(self, pace: float) -> "LayoutCost":
        """Return the costs when everything takes so many times as long."""
        terms = [replace(term, seconds=[pace * seconds for seconds in term.seconds]) for term in self.terms]
        return replace(self, terms=terms)


@dataclass(frozen=True, kw_only=True)
class Profile(Device):
    """A device whose costs were measured with one model.

    Attributes:
        peak_flops: Rate that a large matrix product reached, FLOP/s.
        memory_bandwidth: Rate that a large copy reached, bytes read and written per second.
        model: Name of the model that was measured.
        device: Where it ran: `cpu` or `cuda`.
        machine: Its processor or GPU.
        dtype: Of weights and KV.
        attention: Implementation that transformers was asked for.
        execution: How decode steps were run, `eager` or `graphs`.
        threads: Threads of a CPU operation.
        versions: Of the software, by name.
        date: When it was measured.
        measurements: File of the measured iterations, beside the profile.
        layouts: Costs by layout.
    """

    model: str
    device: str
    machine: str
    dtype: str
    attention: str
    execution: str = "eager"
    threads: int
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str
    measurements: str
    layouts: Sequence[LayoutCost]

    def __post_init__(self) -> None:
        """Refuse rates that are no positive numbers, facts that are no text, and what is no list of layouts."""
        for option in (
            "name",
            "source",
            "model",
            "device",
            "machine",
            "dtype",
            "attention",
            "execution",
            "date",
            "measurements",
        ):
            if not isinstance(getattr(self, option), str):
                raise InputError(f"hardware.{option}={getattr(self, option)}: must be text")
        if not isinstance(self.threads, int) or isinstance(self.threads, bool) or self.threads < 1:
            raise InputError(f"hardware.threads={self.threads}: must be a whole number of at least 1")
        versions = self.versions
        if not isinstance(versions, Mapping) or not all(isinstance(each, str) for each in versions.values()):
            raise InputError(f"hardware.versions={versions}: must give the version of each package, as text")
        for option in ("peak_flops", "memory_bandwidth", "memory_bytes", "host_bandwidth", "gpu_bandwidth"):
            value = getattr(self, option)
            if not _is_number(value) or value <= 0:
                raise InputError(f"hardware.{option}={value}: must be a number above 0")
        if not _is_number(self.usable_memory) or not 0 < self.usable_memory <= 1:
            raise InputError(f"hardware.usable_memory={self.usable_memory}: must be a number above 0 and at most 1")
        if not isinstance(self.layouts, list | tuple) or not all(isinstance(one, LayoutCost) for one in self.layouts):
            raise InputError("hardware.layouts: must be a list of sim.profile.LayoutCost")

    def cost_model(self, model: Model, traits: Traits) -> "MeasuredCost":
        """Return the costs of the layout that policies with these traits have.

        Raises:
            InputError: another model or other layouts were measured.
        """
        if model.name != self.model:
            raise InputError(
                f"hardware={self.name} was measured with model={self.model} and cannot tell what model={model.name} "
                f"takes: use model={self.model}, or profile the other"
            )
        layout = layout_of(traits)
        for costs in self.layouts:
            if costs.layout == layout:
                return MeasuredCost(self, model, costs)
        known = ", ".join(costs.layout for costs in self.layouts)
        raise InputError(f"hardware={self.name} holds no costs for layout {layout}, only for {known}: profile it too")

    def engine_on(self, engine: EngineConstants) -> EngineConstants:
        """Return none but the one that was measured: it served the requests itself, without a front end."""
        return EngineConstants(name="as profiled", source=self.name)

    def at_pace(self, pace: float) -> "Profile":
        """Return the same machine when everything takes so many times as long."""
        return replace(self, layouts=[costs.at_pace(pace) for costs in self.layouts])


def layout_of(traits: Traits) -> str:
    """Return the name of the way in which an engine executes policies with these traits."""
    return "concatenated_rectangle" if traits.concatenates else traits.layout


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


class _DecodeStep(NamedTuple):
    """A decode step of some number of rows: seconds but for its KV, and seconds per KV token it reads."""

    fixed_s: float
    kv_s: float


_SHAPING = ("inserted_rows", "kv_copied", "kv_host")
"""Counts that most decode steps do not have."""


class MeasuredCost(CostModel):
    """Prices `Work` by the measurements of a profile."""

    has_range = True

    def __init__(self, hardware: Profile, model: Model, costs: LayoutCost) -> None:
        """Sort the terms by phase."""
        super().__init__(hardware, model)
        self.layout = costs
        self._terms = {phase: [term for term in costs.terms if term.phase in (phase, "any")] for phase in PHASES}
        decode = self._terms["decode"]
        self._shaping = [term for term in decode if term.of in _SHAPING]
        self._launches = [term for term in decode if term.of == "launches"]
        self._kv = [term for term in decode if term.of == "kv"]
        self.counts_insertions = any(term.of == "inserted_rows" for term in decode)
        self._rest = [term for term in decode if term.of not in (*_SHAPING, "launches", "kv")]
        self._steps: dict[int, _DecodeStep] = {}

    def seconds(self, work: Work) -> float:
        """Duration of one iteration alone on its GPU, in seconds: `seconds_each` of one, and much faster."""
        if work.prefill_rows or not (work.rows or work.held_rows):
            return max(0.0, sum(term.total(work) for term in self._terms[phase_of(work)]))
        fixed, kv_s = self._step(work.rows + work.held_rows + work.dummy_rows)
        seconds = fixed + (work.kv_read + work.kv_held + work.kv_padding + work.kv_dummy) * kv_s
        for term in self._launches:
            seconds += term.total(work)
        if work.inserted_rows or work.kv_copied or work.kv_host:
            seconds += sum(term.total(work) for term in self._shaping)
        return max(0.0, seconds)

    def _step(self, rows: int) -> _DecodeStep:
        step = self._steps.get(rows)
        if step is None:
            work = Work(rows=rows)
            kv_s = sum(term.coefficient(rows) for term in self._kv)
            step = self._steps[rows] = _DecodeStep(sum(term.total(work) for term in self._rest), kv_s)
        return step

    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""
        return np.maximum(sum(self.parts(work).values(), np.zeros(np.shape(work.rows))), 0.0)

    def parts(self, work: Work) -> dict[str, Array]:
        """Return what each term, by name, adds to each of many iterations, in seconds."""
        phases = phases_of(work)
        return {term.name: np.where(phases[term.phase], term.totals(work), 0.0) for term in self.layout.terms}

    def beyond(self, work: Work) -> npt.NDArray[np.bool_]:
        """Return which of many iterations are larger, in rows, slots or KV, than any that was measured."""
        outside = np.zeros(np.shape(work.rows), dtype=bool)
        phases = phases_of(work)
        for fit in self.layout.fits:
            for count, measured in (("rows", fit.rows), ("slots", fit.slots), ("kv", fit.kv)):
                outside |= phases[fit.phase] & (COUNTS[count](work) > measured[-1])
        return outside

    def growth(self, rows: int, kv: int, added: int) -> tuple[float, float]:
        """How much longer each decode step takes than the one before: always the same."""
        return added * self._step(rows).kv_s, math.inf

    def demand(self, work: Work) -> Demand:
        """Half of the measured slowdown times the time alone, so that two lanes together show the whole of it."""
        share = self.layout.overlap_slowdown / 2 * self.seconds(work)
        return Demand(share, share)


def settings_of(value: Any) -> Any:
    """Return plain containers from which the configuration builds the value again."""
    if is_dataclass(value) and not isinstance(value, type):
        target = f"{type(value).__module__}.{type(value).__name__}"
        return {"_target_": target} | {each.name: settings_of(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): settings_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [settings_of(item) for item in value]
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
