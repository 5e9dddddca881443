"""The picture of a search for capacity: attainment and latency against the rate, the knee marked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.reporting.axes import styles
from sim.reporting.figure import draw_figure, name_policies, new_figure
from sim.tasks.capacity.results import Capacities, near
from sim.tasks.capacity.search import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_capacity_plot(folder: Path, found: Capacities) -> Path:
    """Draw `capacity.png`; return its path.

    Raises:
        InputError: if the file cannot be written.
    """
    return draw_figure(folder / "capacity.png", lambda: capacity(found))


def capacity(found: Capacities) -> "Figure":
    """Attainment against the rate, and below it the p99 of every latency that the SLO limits."""
    slo = found.slo
    limits = [("p99_ttft_ms", "p99 TTFT, s", slo.ttft_s), ("p99_tpot_ms", "p99 TPOT, s", slo.tpot_s)]
    limits = [each for each in limits if each[2] is not None]
    figure = new_figure(1.0 + 2.1 * (1 + len(limits)))
    panels = figure.subplots(1 + len(limits), 1, sharex=True)
    draw_attainment(panels[0], found)
    for axes, (metric, label, limit) in zip(panels[1:], limits, strict=True):
        draw_latency(axes, found, metric, label, limit or 0.0)
    for axes in panels:
        for name, style in styles(found).items():
            if found[name].rate:
                axes.axvline(found[name].rate, color=style["color"], lw=0.8, alpha=0.6)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("arrival rate, requests/s (vertical lines: capacity)")
    name_policies(figure, found)
    return figure


def draw_attainment(axes: "Axes", found: Capacities) -> None:
    """Share of requests that met the SLO, with its interval where there is one, and what is asked."""
    for name, style in styles(found).items():
        points = near(found[name])
        middle = [found.attained(point) for point in points]
        error = [[min(100 * each.half_width, 100.0) for each in middle]] * 2
        rates, shares = [point.rate for point in points], [100 * each.estimate for each in middle]
        axes.errorbar(rates, shares, yerr=error, **style, lw=1.4, marker=".", ms=3, elinewidth=0.7, capsize=1.5)
        _knee(axes, found[name], style, lambda point: 100 * float(np.mean(point.attainments)))
    asked = 100 * found.attainment
    axes.axhline(asked, color="black", lw=0.8, ls=":")
    axes.set_ylim(max(0.0, 100 - 15 * (100 - asked)), 100 + 0.8 * (100 - asked))
    axes.set_ylabel("requests that met the SLO, %")


def draw_latency(axes: "Axes", found: Mapping[str, Found], metric: str, label: str, limit: float) -> None:
    """A latency against the rate, up to some times its limit."""
    highest = limit
    for name, style in styles(found).items():
        known = [
            (point.rate, value / 1e3) for point in near(found[name]) if (value := point.metric(metric)) is not None
        ]
        if known:
            axes.plot(*zip(*known, strict=True), **style, lw=1.4, marker=".", ms=3)
            highest = max(highest, *(value for _, value in known))
        _knee(axes, found[name], style, lambda point: (point.metric(metric) or 0) / 1e3)
    axes.axhline(limit, color="black", lw=0.8, ls=":")
    axes.set_ylim(0, min(3 * limit, 1.15 * highest))
    axes.set_ylabel(label)


def _knee(axes: "Axes", found: Found, style: Mapping[str, Any], height: Any) -> None:
    """Mark the capacity."""
    if point := found.at_capacity:
        axes.plot(point.rate, height(point), "o", ms=7, mfc="none", color=style["color"], mew=1.5)
