"""The batch drawn row by row and iteration by iteration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.reporting.figure import new_figure
from sim.simulation.steps import Cell, Steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dark, light, hatched: told apart in grey.
_USEFUL = {"prefill": "#0B4F86", "decode": "#A9CCE6"}
_INK = {"prefill": "white", "decode": "black", "finished": "black", "stalled": "0.45"}
IDLE: dict[str, Any] = {"facecolor": "#FFE9C7", "hatch": "////////", "edgecolor": "#C8691C", "linewidth": 0}
_WAITS = "0.92"


def draw_steps(axes: "Axes", steps: Steps, last: int) -> None:
    """Draw a run: a column per iteration, a row per row of the batch, in each cell the number of its request.

    What is coloured served the request, what is hatched was computed for nobody: the padding of prompts to the longest
    of their group, KV slots beyond a row's own, rows that have ended. Grey rows wait for the prefill of others.

    Args:
        axes: Where.
        steps: The run.
        last: Iterations that the axis shall have room for.
    """
    for cell in steps.cells:
        _draw_cell(axes, cell)
    axes.set_xlim(0, last)
    axes.set_ylim(steps.rows, 0)
    axes.set_yticks([row + 0.5 for row in range(steps.rows)], [str(row + 1) for row in range(steps.rows)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("row of the batch")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_cell(axes: "Axes", cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    left, top = cell.step, cell.row
    if cell.kind == "stalled":
        axes.add_patch(Rectangle((left, top), 1, 1, facecolor=_WAITS, edgecolor="0.6", linewidth=0.4))
    else:
        share = cell.useful_share
        axes.add_patch(Rectangle((left, top), 1, 1 - share, **IDLE))
        if share:
            colour = _USEFUL[cell.kind]
            axes.add_patch(Rectangle((left, top + 1 - share), 1, share, facecolor=colour, linewidth=0))
        axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor="black", linewidth=0.4))
    from matplotlib.patheffects import withStroke

    ink = _INK[cell.kind] if cell.useful_share > 0.6 or cell.kind != "prefill" else "black"
    number = axes.text(left + 0.5, top + 0.7, str(cell.request + 1), ha="center", va="center", fontsize=6.5, color=ink)
    if ink == "black":
        number.set_path_effects([withStroke(linewidth=1.6, foreground="white")])


def batch_steps(runs: Mapping[str, Steps]) -> "Figure":
    """Draw several runs below each other, on the same axis of iterations.

    Args:
        runs: At least one, by policy name; a dozen requests and five dozen iterations are still readable.
    """
    from matplotlib.patches import Patch

    rows = [steps.rows for steps in runs.values()]
    figure = new_figure(0.75 + sum(0.52 + 0.27 * count for count in rows))
    panels = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    last = max(len(steps) for steps in runs.values())
    for axes, (name, steps) in zip(panels, runs.items(), strict=True):
        draw_steps(axes, steps, last)
        total = 1000 * float(steps.duration_s.sum())
        axes.set_title(f"{name}: {len(steps)} iterations, {total:,.0f} ms", loc="left", fontweight="bold")
    panels[-1].set_xlabel("iteration")
    named = [
        Patch(facecolor=_USEFUL["prefill"], edgecolor="black", linewidth=0.4, label="prefill"),
        Patch(facecolor=_USEFUL["decode"], edgecolor="black", linewidth=0.4, label="decode"),
        Patch(**IDLE, label="computed for nobody"),
        Patch(facecolor=_WAITS, edgecolor="0.6", linewidth=0.4, label="waits for a prefill"),
    ]
    figure.legend(handles=named, loc="outside upper left", ncols=4, frameon=False, handlelength=1.6)
    return figure
