"""What a validation found: a table for the terminal and a picture."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from real.validation.attribution import PARTS
from real.validation.limits import judged
from sim.output.writing import Draft, writing
from workloads.demand import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]

SHOWN = {
    "output_throughput": ("output tokens/s", 1.0),
    "mean_ttft_ms": ("mean TTFT, s", 1e-3),
    "mean_e2el_ms": ("mean E2E, s", 1e-3),
    "mean_itl_ms": ("mean ITL, ms", 1.0),
}
"""Metrics of the table: heading, and factor of the value."""

SHORT = {
    "insertion_and_copies": "insertion",
    "between_iterations": "between",
    "other_iterations": "other",
    "beside_the_other_lane": "beside",
}
"""Headings of parts of the time that have long names."""

NOTED = 0.01
"""Share of the time in iterations beyond the profile from which it is said."""

WIDTH, ROW_HEIGHT, DPI = 9.0, 0.34, 150
STYLES = (
    ("#4477aa", ""),
    ("#66ccee", "////"),
    ("#228833", "...."),
    ("#ccbb44", "\\\\\\\\"),
    ("#ee6677", "xxxx"),
    ("#aa3377", "++++"),
    ("#bbbbbb", ""),
)
"""Colour and hatching of the parts of an error, which can be told apart in grey too."""


def print_validation(console: Console, report: Report) -> None:
    """Print for every load: metrics, ratios between all policies, where the error came from, what ended the rounds."""
    console.print(Text(subject(report)), soft_wrap=not console.is_terminal)
    for load in report["loads"]:
        if "policies" not in load:
            continue
        console.print(Text(f"{load['workload']}: {load['num_requests']:,} requests, {load['load']}"))
        console.print(_metrics_table(load))
        if load["ratios"]:
            console.print(_ratios_table(load))
        console.print(_time_table(load))
        for sentence in (_pace(load), f"{counted(load['rounds'], 'round')}; {load['ended_because']}"):
            console.print(Text(sentence), soft_wrap=not console.is_terminal)
        console.print()
    for sentence in (f"worst errors: {'; '.join(worst(report))}", verdict(report)):
        console.print(Text(sentence), soft_wrap=not console.is_terminal)


def subject(report: Report) -> str:
    """Return in words what was predicted and measured, where, and by which profile."""
    return (
        f"{report['model']} on {report['machine']}, {report['dtype']}, KV memory {report['kv_tokens']:,} tokens; "
        f"predicted by the profile {report['profile']} of {report['profiled']}"
    )


def worst(report: Report) -> Iterator[str]:
    """Yield the largest error of each kind of figure, in words."""
    for kind, found in judged(report)["kinds"].items():
        yield f"{kind} {_percent(found['worst'])}"


def verdict(report: Report) -> str:
    """Say whether every figure is within the stated limits, and how many are; and if measurements leave it open."""
    found = judged(report)
    kinds = found["kinds"].items()
    limits = ", ".join(f"{kind} {100 * each['limit']:.0f} %" for kind, each in kinds)
    counts = ", ".join(f"{kind} {each['within']} of {each['of']}" for kind, each in kinds)
    said = f"within the stated limits ({limits}): {'yes' if found['met'] else 'no'}; {counts}"
    loads = [load for load in report["loads"] if "policies" in load]
    rough = sum(not load["accurate"] for load in loads)
    return said if not rough else (
        f"{said}; at {rough} of {counted(len(loads), 'load')} ratios were measured less exactly than asked for"
    )  # fmt: skip


def _pace(load: Report) -> str:
    """Say how fast the machine was: slower for all policies alike, it was not the machine of the profile."""
    paces, beyond = load["pace"].values(), max(load["beyond_profile"].values())
    larger = (
        f"; up to {100 * beyond:.0f} % of the time in iterations larger than any profiled" if beyond > NOTED else ""
    )
    return (
        f"just before, the machine took {load['drift']:.2f} times what its profile says, and predictions are brought "
        f"to that; the iterations then took {min(paces):.2f} to {max(paces):.2f} times what was predicted of the same "
        f"work{larger}"
    )


def _metrics_table(load: Report) -> Table:
    table = Table("policy", "metric", box=None, pad_edge=False)
    for heading in ("predicted", "measured", "noise", "error"):
        table.add_column(heading, justify="right")
    for name, metrics in load["policies"].items():
        for metric, (heading, factor) in SHOWN.items():
            if metric in metrics:
                figures = metrics[metric]
                table.add_row(
                    name,
                    heading,
                    f"{figures['predicted'] * factor:,.3g}",
                    f"{figures['measured'] * factor:,.3g}",
                    "-" if figures["noise"] is None else f"{100 * figures['noise']:.1f} %",
                    _percent(figures["error"]),
                )
                name = ""
    return table


def _ratios_table(load: Report) -> Table:
    """Every pair of policies, for the verdict counts them all."""
    table = Table("throughput of", "to", box=None, pad_edge=False)
    for heading in ("predicted", "measured", "error", "standard error"):
        table.add_column(heading, justify="right")
    for ratio in load["ratios"]:
        uncertain = ratio["standard_error"]
        table.add_row(
            ratio["policy"],
            ratio["to"],
            f"{ratio['predicted']:.3f}",
            f"{ratio['measured']:.3f}",
            _percent(ratio["error"]),
            "-" if uncertain is None else f"{100 * uncertain:.1f} %",
        )
    return table


def _time_table(load: Report) -> Table:
    """Where the error of the whole duration came from, in shares of the measured duration."""
    parts = [part for part in PARTS if any(part in time["parts"] for time in load["time"].values())]
    table = Table("error of duration", box=None, pad_edge=False)
    for part in (*parts, "other_iterations", "sum"):
        table.add_column(SHORT.get(part, part), justify="right")
    for name, time in load["time"].items():
        cells = [_percent(time["parts"][part]["error"]) if part in time["parts"] else "-" for part in parts]
        total = time["predicted_s"] / time["measured_s"] - 1
        table.add_row(name, *cells, _percent(time["other_iterations"]["error"]), _percent(total))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def plot_validation(folder: Path, report: Report) -> Path:
    """Draw predicted against measured throughput and latency, and the parts of the error; return the picture's path.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loads = [load for load in report["loads"] if "policies" in load]
    policies = max((len(load["policies"]) for load in loads), default=1)
    height = len(loads) * (1.1 + ROW_HEIGHT * policies) + 0.8
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=DPI)
    grid = figure.subplots(max(1, len(loads)), 3, squeeze=False, width_ratios=[1, 1, 1.2])
    for row, load in zip(grid, loads, strict=False):
        _draw_pairs(row[0], load, "output_throughput", 1.0, "output tokens/s")
        _draw_pairs(row[1], load, "mean_e2el_ms", 1e-3, "mean E2E, s")
        _draw_parts(row[2], load)
        row[0].set_title(f"{load['workload']}, {load['load']}", loc="left", fontsize=9)
        row[1].set_yticklabels([])
        row[2].set_yticklabels([])
    figure.suptitle(subject(report), x=0.01, ha="left", fontsize=8)
    handles: dict[str, Any] = {}
    for axes in grid.ravel():
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    path = folder / "validation.png"
    with writing(path), Draft(path) as part:
        FigureCanvasAgg(figure).print_png(part)  # type: ignore[no-untyped-call]
    return path


def _draw_pairs(axes: "Axes", load: Report, metric: str, factor: float, label: str) -> None:
    """Bars of what was measured, with the noise of one run; a mark for what was predicted."""
    for place, metrics in enumerate(load["policies"].values()):
        if metric not in metrics:
            continue
        figures = metrics[metric]
        measured = figures["measured"] * factor
        axes.barh(
            place,
            measured,
            xerr=measured * (figures["noise"] or 0.0),
            color="#bbccee",
            label="measured, with the noise of one run",
        )
        axes.plot([figures["predicted"] * factor], [place], "D", color="#222222", label="predicted")
    axes.set_yticks(range(len(load["policies"])), list(load["policies"]))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)


def _draw_parts(axes: "Axes", load: Report) -> None:
    """Stacked bars: what each part adds to the error of the duration, too much to the right, too little to the left."""
    for place, time in enumerate(load["time"].values()):
        ends = [0.0, 0.0]
        shares = {name: part["error"] for name, part in time["parts"].items()}
        shares["other_iterations"] = time["other_iterations"]["error"]
        for name, (colour, hatch) in zip((*PARTS, "other_iterations"), STYLES, strict=True):
            if name not in shares:
                continue
            share = 100 * shares[name]
            side = int(share < 0)
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.5}
            axes.barh(place, share, left=ends[side], label=name.replace("_", " "), **look)
            ends[side] += share
    axes.set_yticks(range(len(load["time"])))
    axes.invert_yaxis()
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set_xlabel("error of the duration by part, %")
    axes.grid(axis="x", alpha=0.3)
