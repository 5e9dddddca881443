"""The pictures of a run or of a comparison, as PNG files."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import axes as draw
from sim.axes import Outcomes
from sim.results import Draft, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150

_FONT: Any = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "hatch.linewidth": 0.6}
_WIDTH = 7.2
_PNG = {"compress_level": 2}  # a quarter of the time of the default, and a few KB more


def write_plots(folder: Path, outcomes: Outcomes) -> list[Path]:
    """Draw every picture; return their paths, the overview first.

    Args:
        folder: Where to.
        outcomes: Runs of the same workload by policy name, at least one.

    Raises:
        InputError: if a file cannot be written.
    """
    pictures: dict[str, Callable[[Outcomes], Figure]] = {
        "comparison": comparison,
        "latency_cdf": latency_cdf,
        "throughput": throughput,
        "idle_time": idle_time,
        "occupancy": occupancy,
    }
    return [draw_figure(folder / f"{name}.png", partial(make, outcomes)) for name, make in pictures.items()]


def draw_figure(path: Path, make: "Callable[[], Figure]") -> Path:
    """Draw the figure that `make` returns as PNG, in the style of all pictures; return its path.

    Raises:
        InputError: if the file cannot be written.
    """
    # matplotlib takes half a second to import: only those who draw shall pay.
    import matplotlib

    with matplotlib.rc_context(_FONT):
        return _write_png(make(), path)


def _write_png(figure: "Figure", path: Path) -> Path:
    """Lay out and draw a figure; savefig would do so twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with writing(path), Draft(path) as part:
        FigureCanvasAgg(figure).print_png(part, pil_kwargs=_PNG)  # type: ignore[no-untyped-call]
    return path


def save(make: "Callable[[], Figure]", path: Path) -> Path:
    """Draw a figure and write it as PDF, for papers, and as PNG; return the path of the PNG.

    Args:
        make: Draws it.
        path: Where to, without a suffix.

    Raises:
        InputError: if a file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    with matplotlib.rc_context(_FONT | {"pdf.fonttype": 42}):
        figure = make()
        picture = _write_png(figure, path.with_name(f"{path.name}.png"))
        vectors = path.with_name(f"{path.name}.pdf")
        figure.set_layout_engine("none")  # it is laid out
        with writing(vectors), Draft(vectors) as part:  # last, for it changes the resolution
            FigureCanvasPdf(figure).print_pdf(part, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
    return picture


def new_figure(height: float) -> "Figure":
    """Return an empty figure as wide as all pictures, and so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained", dpi=DPI)


def name_policies(figure: "Figure", outcomes: Iterable[str]) -> None:
    """One legend of the policies below the curves."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style, lw=1.6, label=name) for name, style in draw.styles(outcomes).items()]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 112 // (longest + 9)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)


def comparison(outcomes: Outcomes) -> "Figure":
    """Throughput, idle time by cause, the batch over time and latencies in one picture."""
    bars = 0.5 + 0.3 * len(outcomes)
    figure = new_figure(4.6 + 2 * bars)
    mosaic = [["throughput", "idle"], ["batch", "batch"], ["ttft", "e2e"]]
    axes: dict[str, Any] = figure.subplot_mosaic(mosaic, height_ratios=[bars, bars, 2.2])  # type: ignore[arg-type]
    draw.draw_throughput(axes["throughput"], outcomes)
    draw.draw_idle(axes["idle"], outcomes)
    axes["idle"].set_yticklabels([])
    draw.draw_bands(axes["batch"], outcomes)
    draw.draw_cdf(axes["ttft"], outcomes, "ttft_s", "time to first token, s")
    draw.draw_cdf(axes["e2e"], outcomes, "e2e_s", "end-to-end latency, s")
    axes["e2e"].set_ylabel("")
    name_policies(figure, outcomes)
    return figure


def latency_cdf(outcomes: Outcomes) -> "Figure":
    """Distributions of TTFT, TPOT and end-to-end latency."""
    figure = new_figure(2.9 + 0.1 * len(outcomes))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    draw.draw_cdf(left, outcomes, "ttft_s", "time to first token, s")
    draw.draw_cdf(middle, outcomes, "tpot_s", "time per output token, ms", scale=1000)
    draw.draw_cdf(right, outcomes, "e2e_s", "end-to-end latency, s")
    for axes in (middle, right):
        axes.set_ylabel("")
    name_policies(figure, outcomes)
    return figure


def throughput(outcomes: Outcomes) -> "Figure":
    """Throughput bars."""
    figure = new_figure(1.3 + 0.38 * len(outcomes))
    draw.draw_throughput(figure.subplots(), outcomes)
    return figure


def idle_time(outcomes: Outcomes) -> "Figure":
    """Idle time by cause."""
    figure = new_figure(1.4 + 0.34 * len(outcomes))
    draw.draw_idle(figure.subplots(), outcomes)
    return figure


def occupancy(outcomes: Outcomes) -> "Figure":
    """Batch, queue and KV memory over time: a row per policy, the same axes for all."""
    figure = new_figure(0.9 + 1.35 * len(outcomes))
    grid = figure.subplots(len(outcomes), 3, sharex=True, sharey="col", squeeze=False, width_ratios=[1.6, 1, 1])
    scale, unit = draw.time_unit(outcomes)
    for row, (name, outcome) in zip(grid, outcomes.items(), strict=True):
        series = outcome.occupancy
        draw.draw_batch(row[0], series, scale)
        draw.draw_line(row[1], series.edges_s / scale, series.waiting)
        draw.draw_line(row[2], series.edges_s / scale, series.kv_peak_tokens / 1000, draw.thinned_peaks)
        row[0].set_title(name, loc="left", fontweight="bold")
    for axes, title in zip(grid[0, 1:], ("waiting requests", "most KV taken, 1000 tokens"), strict=True):
        axes.set_title(title, loc="right")
    for axes in grid.ravel():
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel(f"simulated time, {unit}")
    named = draw.parts(*grid[:, 0])
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=3, frameon=False)
    return figure
