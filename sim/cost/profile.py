"""Hardware as it was measured: what iterations of one model took on one machine, and the costs fitted to them.

A profile prices an iteration as a sum of terms, each a count of `Work` times a coefficient, which a table gives:
decode by rows, prefill by computed slots, KV reads, attention pairs, copies, launches, inserted rows. Each layout has
terms of its own, since each has its own way of execution. `real.profiling.profiler` measures and writes profiles; they
are YAML files that a run takes as its hardware. A profile that met its own measurements badly is doubted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from policies.checks import InputError, check_options
from policies.policy import Traits
from sim.cost.device import FOREVER, Array, CostModel, DecodeLine, Demand, Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.model import Model
from sim.cost.rules import Count, Factor, Kind
from sim.cost.terms import COUNTS, PHASES, Term, phase_of, phases_of
from sim.cost.work import Work

TOTAL = 0.10
"""Relative error of the total time of held-out iterations from which a profile is doubted."""
EACH = 0.25
"""Mean relative error of single held-out iterations, noise included, from which it is."""
EXPLAINED = 0.90
"""Share of the variance of prefills and mixed iterations that must be explained, at least.

Decode steps of one model take almost the same time, so that noise is most of their variance and R squared says little:
they are judged by what is held out alone."""

WORST = 2
"""Fits that a sentence of doubt names."""


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

    def badness(self) -> float:
        """How many times its limit the worst of its figures is."""
        unexplained = 0.0 if self.phase == "decode" or self.r2 is None else (1 - self.r2) / (1 - EXPLAINED)
        return max(abs(self.held_out_error or 0.0) / TOTAL, (self.held_out_spread or 0.0) / EACH, unexplained)

    def faults(self) -> list[str]:
        """Return which of its figures are beyond their limits, in words."""
        faults = []
        if self.held_out_error is not None and abs(self.held_out_error) > TOTAL:
            faults.append(f"held-out time is met with {self.held_out_error:+.0%}")
        if self.held_out_spread is not None and self.held_out_spread > EACH:
            faults.append(f"single held-out iterations with {self.held_out_spread:.0%}")
        if self.phase != "decode" and self.r2 is not None and self.r2 < EXPLAINED:
            faults.append(f"R\u00b2 is {self.r2:.2f}")
        return faults


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
    terms: Annotated[Sequence[Term], Kind(Term, several=True, least=0)]
    fits: Sequence[Fit] = ()
    overlap_slowdown: Factor = 2.0

    def __post_init__(self) -> None:
        """Refuse what is no list of terms, and an overlap that speeds things up."""
        check_options(self, f"hardware: layout {self.layout}")

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
    threads: Count
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str
    measurements: str
    layouts: Annotated[Sequence[LayoutCost], Kind(LayoutCost, several=True, least=0)]

    def __post_init__(self) -> None:
        """Refuse versions that are no text, too."""
        super().__post_init__()
        versions = self.versions
        if not isinstance(versions, Mapping) or not all(isinstance(each, str) for each in versions.values()):
            raise InputError(f"hardware.versions={versions}: must give the version of each package, as text")

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
        others = ", ".join(costs.layout for costs in self.layouts)
        raise InputError(f"hardware={self.name} holds no costs for layout {layout}, only for {others}: profile it too")

    def engine_on(self, engine: EngineConstants) -> EngineConstants:
        """Return none but the one that was measured: it served the requests itself, without a front end."""
        return EngineConstants(name="as profiled", source=self.name)

    def doubts(self) -> list[str]:
        """Return a sentence that names the worst fits, if any met its own measurements badly."""
        poor = [
            (fit.badness(), f"{costs.layout}, {fit.phase}: {', '.join(faults)}")
            for costs in self.layouts
            for fit in costs.fits
            if (faults := fit.faults())
        ]
        if not poor:
            return []
        worst = [sentence for _, sentence in sorted(poor, reverse=True)[:WORST]]
        rest = [f"and {len(poor) - WORST} more"] if len(poor) > WORST else []
        more = "more profile.rounds= or threads=1" if self.threads > 1 else "more profile.rounds="
        return [
            f"the profile {self.name} is poor, and so is what it predicts ({'; '.join([*worst, *rest])}); profile "
            f"again with nothing else running, or {more}"
        ]

    def at_pace(self, pace: float) -> "Profile":
        """Return the same machine when everything takes so many times as long."""
        return replace(self, layouts=[costs.at_pace(pace) for costs in self.layouts])


def layout_of(traits: Traits) -> str:
    """Return the name of the way in which an engine executes policies with these traits."""
    return "concatenated_rectangle" if traits.concatenates else traits.layout


_SHAPING = ("inserted_rows", "kv_copied", "kv_host")
"""Counts that most decode steps do not have."""


class MeasuredCost(CostModel):
    """Prices `Work` by the measurements of a profile."""

    has_range = True
    launches_within = 0

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

    def decode(self, rows: int) -> DecodeLine:
        """What decode steps of so many rows take: the same for each token of KV."""
        work = Work(rows=rows)
        fixed, kv_s = sum(term.total(work) for term in self._rest), sum(term.coefficient(rows) for term in self._kv)
        return lambda kv, added: (fixed + kv * kv_s, added * kv_s, FOREVER)

    def prefill(self, work: Work) -> float:
        """Seconds of an iteration that prefills, or that computes no row at all."""
        return max(0.0, sum(term.total(work) for term in self._terms[phase_of(work)]))

    def moved(self, seconds: float, rows: int, kv: int, launches: int, copied: int, host: int, inserted: int) -> float:
        """Seconds of a decode step that takes `seconds` but for its launches and moves."""
        work = Work(
            rows=rows, inserted_rows=inserted, kv_read=kv, kv_copied=copied, kv_host=host, attention_launches=launches
        )
        for term in self._launches:
            seconds += term.total(work)
        if inserted or copied or host:
            seconds += sum(term.total(work) for term in self._shaping)
        return max(0.0, seconds)

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
