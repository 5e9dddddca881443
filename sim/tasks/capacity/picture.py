"""The picture of a search for capacity: attainment and latency against the rate, the knee marked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.reporting.figure import draw_figure, name_policies, new_figure
from sim.reporting.labels import Metric, metrics_at_rates
from sim.reporting.series import styles
from sim.tasks.capacity.results import Capacities, near
from sim.tasks.capacity.search import Capacity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_capacity_plot(folder: Path, capacities: Capacities) -> Path:
    """Draw `capacity.png`; return its path.

    Raises:
        InputError: if the file cannot be written.
    """
    return draw_figure(folder / "capacity.png", lambda: capacity(capacities))


def capacity(capacities: Capacities) -> "Figure":
    """Attainment against the rate, and below it the p99 of every latency that the SLO limits."""
    metrics = list(metrics_at_rates(capacities.slo))
    figure = new_figure(1.0 + 2.1 * (1 + len(metrics)))
    panels = figure.subplots(1 + len(metrics), 1, sharex=True)
    draw_attainment(panels[0], capacities)
    for axes, (metric, limit) in zip(panels[1:], metrics, strict=True):
        draw_metric(axes, capacities, metric, limit)
    for axes in panels:
        for name, style in styles(capacities).items():
            if capacities[name].rate:
                axes.axvline(capacities[name].rate, color=style["color"], lw=0.8, alpha=0.6)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("arrival rate, requests/s (vertical lines: capacity)")
    name_policies(figure, capacities)
    return figure


def draw_attainment(axes: "Axes", capacities: Capacities) -> None:
    """Share of requests that met the SLO, with its interval where there is one, and what is asked."""
    for name, style in styles(capacities).items():
        rates = near(capacities[name])
        middle = [capacities.attained(tried) for tried in rates]
        error = [[min(100 * each.half_width, 100.0) for each in middle]] * 2
        x, shares = [tried.rate for tried in rates], [100 * each.estimate for each in middle]
        axes.errorbar(x, shares, yerr=error, **style, lw=1.4, marker=".", ms=3, elinewidth=0.7, capsize=1.5)
        _knee(axes, capacities[name], style, lambda tried: 100 * float(np.mean(tried.attainments)))
    asked = 100 * capacities.attainment
    axes.axhline(asked, color="black", lw=0.8, ls=":")
    axes.set_ylim(max(0.0, 100 - 15 * (100 - asked)), 100 + 0.8 * (100 - asked))
    axes.set_ylabel("requests that met the SLO, %")


def draw_metric(axes: "Axes", capacities: Mapping[str, Capacity], metric: Metric, limit: float | None) -> None:
    """A metric against the rate, up to some times its limit."""
    highest, key, scale = limit or 1e-9, metric.name(), metric.scale
    for name, style in styles(capacities).items():
        tried = [(each.rate, each.metric(key)) for each in near(capacities[name])]
        places = [(rate, value * scale) for rate, value in tried if value is not None]
        if places:
            axes.plot(*zip(*places, strict=True), **style, lw=1.4, marker=".", ms=3)
            highest = max(highest, *(value for _, value in places))
        _knee(axes, capacities[name], style, lambda tried: (tried.metric(key) or 0) * scale)
    if limit is not None:
        axes.axhline(limit, color="black", lw=0.8, ls=":")
    axes.set_ylim(0, 1.15 * highest if limit is None else min(3 * limit, 1.15 * highest))
    axes.set_ylabel(metric.heading)


def _knee(axes: "Axes", capacity: Capacity, style: Mapping[str, Any], height: Any) -> None:
    """Mark the capacity."""
    if tried := capacity.at_capacity:
        axes.plot(tried.rate, height(tried), "o", ms=7, mfc="none", color=style["color"], mew=1.5)
