"""A figure as PNG or PDF, in the style of all pictures."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.output.writing import Draft, writing
from sim.reporting.series import styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DPI = 150

_FONT: Any = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "hatch.linewidth": 0.6}
_WIDTH = 7.2
_PNG = {"compress_level": 2}  # a quarter of the time of the default, and a few KB more


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

    handles = [Line2D([], [], **style, lw=1.6, label=name) for name, style in styles(outcomes).items()]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 112 // (longest + 9)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
