"""The figures of the claims, for a page 7.2 inches wide; readable in grey."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.claims.experiments import BATONS, ORCAS, SCHOOLS, Sampled
from sim.claims.run import Claims
from sim.claims.statements import ORCA_NAMES, PLACEMENTS, SPEEDUP, mean_of, ratio_of, speedup
from sim.metrics.metrics import Summary
from sim.reporting import axes as draw
from sim.reporting.figure import new_figure, save
from sim.reporting.labels import CAUSES
from sim.tasks.comparison.pictures import latency_cdf, occupancy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

_MAP = "cividis"
"""A map of colours that grows lighter all the way."""

_TICKS = (0.25, 0.5, 1, 1.75, 4)
"""Ratios marked beside a map, whose colours end at the first and the last."""

_AXES = {
    "batch": "most rows in the batch",
    "prompt": "mean prompt, tokens",
    "spread": "spread of output lengths (std of ln)",
}


class _Mean(NamedTuple):
    """The mean of several runs, drawn as one."""

    summary: Summary


def write_figures(folder: Path, claims: Claims) -> list[Path]:
    """Draw every figure, each as PDF and PNG; return the paths of the PNGs.

    Raises:
        InputError: if a file cannot be written.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "claims_idle_time": lambda: idle_time(claims.samples),
        "claims_throughput_prompt": lambda: throughput_map(claims.samples, "prompt"),
        "claims_throughput_spread": lambda: throughput_map(claims.samples, "spread"),
        "claims_latency": lambda: latency_cdf(claims.at_load),
        "claims_resources": lambda: resources(claims.samples),
        "claims_preemption": lambda: occupancy(claims.preempting),
    }
    return [save(make, folder / name) for name, make in figures.items()]


def _schools(samples: Sequence[Sampled]) -> list[Sampled]:
    return [sampled for sampled in samples if sampled.case.experiment == "schools"]


def idle_time(samples: Sequence[Sampled]) -> "Figure":
    """Idle share of busy time of every policy by cause, a panel per workload; means over runs."""
    schools = _schools(samples)
    lines = -(-len(schools) // 2)
    figure = new_figure(0.5 + lines * (0.5 + 0.29 * len(SCHOOLS)))
    panels = figure.subplots(lines, 2, sharey=True).ravel()
    metrics = ["idle_time_fraction", *(f"idle_time_fraction_{cause}" for cause in CAUSES)]
    for axes, sampled in zip(panels, schools, strict=False):
        means = {
            name: _Mean({metric: float(np.mean(sampled.values(name, metric))) for metric in metrics})
            for name in SCHOOLS
        }
        draw.draw_idle(axes, means)  # type: ignore[arg-type]
        axes.set_title(str(sampled.case.factors["workload"]), loc="left", fontweight="bold")
        if axes.get_legend():
            axes.get_legend().remove()
        axes.set_xlabel("")
    widest = max(axes.get_xlim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlim(0, widest)
    for axes in panels[-2:]:
        axes.set_xlabel("idle share of GPU busy time, %")
    named = draw.parts(*panels)
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=6, frameon=False, handlelength=1.6)
    return figure


def throughput_map(samples: Sequence[Sampled], varied: str) -> "Figure":
    """Query throughput of every BATON relative to every Orca: a map over batch size and what else is varied.

    Args:
        samples: All settings.
        varied: `prompt` or `spread`.
    """
    here = [sampled for sampled in samples if sampled.case.experiment == f"throughput by batch and {varied}"]
    batches, values = (list(dict.fromkeys(s.case.factors[name] for s in here)) for name in ("batch", varied))
    grids = {
        (baton, orca): np.reshape([speedup(s, baton, orca).estimate for s in here], (len(batches), len(values)))
        for baton in BATONS
        for orca in ORCAS
    }
    figure = new_figure(1.1 + len(BATONS) * (0.55 + 0.24 * len(batches)))
    panels = figure.subplots(len(BATONS), len(ORCAS), sharex=True, sharey=True)
    for (row, baton), (column, orca) in ((b, o) for b in enumerate(BATONS) for o in enumerate(ORCAS)):
        axes = panels[row, column]
        image = _draw_map(axes, grids[baton, orca])
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_yticks(range(len(batches)), [str(batch) for batch in batches])
        axes.tick_params(labelsize=7)
        if row == 0:
            axes.set_title("\n".join(wrap(f"to Orca with {ORCA_NAMES[orca]}", 24)), fontsize=8)
        if column == 0:
            axes.set_ylabel(f"BATON, prefill\n{PLACEMENTS[baton]}", fontsize=8)
    figure.supxlabel(_AXES[varied], fontsize=9)
    figure.supylabel(_AXES["batch"], fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, extend="both")
    bar.set_ticks(_TICKS, labels=[f"{tick:g}" for tick in _TICKS], minor=False)
    bar.minorticks_off()
    bar.set_label(f"queries/s per GPU relative to Orca's (line: {SPEEDUP:g})")
    return figure


def _draw_map(axes: "Axes", grid: Array) -> Any:
    """Draw a map with its values, outlined where they reach the claim."""
    from matplotlib.colors import LogNorm

    norm = LogNorm(_TICKS[0], _TICKS[-1], clip=True)
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap=_MAP, norm=norm)
    for (row, column), ratio in np.ndenumerate(grid):
        ink = "white" if float(norm(ratio)) < 0.55 else "black"
        axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", fontsize=6.5, color=ink)
    _outline(axes, grid >= SPEEDUP)
    return image


def _outline(axes: "Axes", reached: npt.NDArray[np.bool_]) -> None:
    """Draw the border between the cells that reach the claim and those that do not."""
    padded = np.pad(reached, 1)
    for row, column in np.argwhere(padded[1:, :] != padded[:-1, :]):
        axes.plot([column - 1.5, column - 0.5], [row - 0.5, row - 0.5], color="#D7191C", lw=2, clip_on=False)
    for row, column in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        axes.plot([column - 0.5, column - 0.5], [row - 1.5, row - 0.5], color="#D7191C", lw=2, clip_on=False)


def resources(samples: Sequence[Sampled]) -> "Figure":
    """KV memory at its peak, KV copied to shape the batch, GPUs: bars per policy and workload, with intervals."""
    schools = _schools(samples)
    figure = new_figure(1.3 + 0.52 * len(SCHOOLS))
    panels = figure.subplots(1, 3, sharey=True, width_ratios=[1.3, 1.3, 1])
    _draw_bars(panels[0], schools, lambda s, name: ratio_of(s.values(name, KV_PEAK), s.values("orca", KV_PEAK)))
    panels[0].axvline(1, color="black", lw=0.8, ls="--")
    panels[0].set_xlabel("KV memory at its peak,\nrelative to orca's")
    _draw_bars(panels[1], schools, lambda s, name: mean_of(_per_token(s, name, "kv_copied_tokens")))
    panels[1].set_xlabel("KV tokens copied\nper generated token")
    _draw_bars(panels[2], schools, lambda s, name: mean_of(s.values(name, "gpus")))
    panels[2].set_xlabel("GPUs used")
    draw.name_rows(panels[0], list(SCHOOLS))
    named = draw.parts(panels[0])
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=4, frameon=False, handlelength=1.6)
    return figure


KV_PEAK = "kv_peak_tokens"

_WORKLOAD_STYLES = (("#08306B", ""), ("#6BAED6", "////"), ("#DEEBF7", "...."), ("#FFFFFF", ""))


def _per_token(sampled: Sampled, policy: str, metric: str) -> list[float]:
    tokens = sampled.values(policy, "total_output_tokens")
    return [value / max(count, 1) for value, count in zip(sampled.values(policy, metric), tokens, strict=True)]


def _draw_bars(axes: "Axes", schools: Sequence[Sampled], measure: Callable[[Sampled, str], Any]) -> None:
    height = 0.8 / len(schools)
    for place, (sampled, (colour, hatch)) in enumerate(zip(schools, _WORKLOAD_STYLES, strict=False)):
        found = [measure(sampled, name) for name in SCHOOLS]
        rows = np.arange(len(found)) - 0.4 + height * (place + 0.5)
        middle = np.array([one.estimate for one in found])
        ends = np.array([[one.estimate - one.low, one.high - one.estimate] for one in found]).T
        style: Mapping[str, Any] = {"edgecolor": "black", "lw": 0.5, "error_kw": {"lw": 0.7, "capsize": 1.5}}
        label = str(sampled.case.factors["workload"])
        axes.barh(rows, middle, height, xerr=np.maximum(ends, 0), color=colour, hatch=hatch, label=label, **style)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
