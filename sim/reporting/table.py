"""Tables of results, for the terminal and for the page; and all that a task prints in the end."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.simulation.context import Context

WIDEST_NAME = 28
GAP = 2


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: What it is.
        cells: A text for every policy.
        beside: What stands small below each text on a page, such as its interval; empty: nothing.
        section: Whether something else begins with it.
    """

    label: str
    cells: Sequence[str]
    beside: Sequence[str] = ()
    section: bool = False

    def html(self) -> str:
        """Return it as HTML."""
        small = [f"<small>{escape(text)}</small>" if text else "" for text in self.beside] or [""] * len(self.cells)
        cells = "".join(f"<td>{escape(cell)}{also}</td>" for cell, also in zip(self.cells, small, strict=True))
        mark = ' class="section"' if self.section else ""
        return f"<tr{mark}><th>{escape(self.label)}</th>{cells}</tr>"


class Grid:
    """A table with a column per policy."""

    def __init__(self, names: Iterable[str], rows: Iterable[Row], corner: str = "") -> None:
        """Take the names of the columns, the rows, and what stands above their labels."""
        self._names = list(names)
        self._rows = list(rows)
        self._corner = corner

    def html(self) -> str:
        """Return it as HTML."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self._names)
        body = "".join(row.html() for row in self._rows)
        return f"<table><thead><tr><th>{escape(self._corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table>"

    def lines(self, width: int) -> Iterator[Table]:
        """Yield it for a terminal, in as many tables as its width asks for."""
        for columns in self._blocks(width):
            table = Table(box=None, padding=(0, 0, 0, GAP), pad_edge=False, header_style="bold")
            table.add_column(self._corner, no_wrap=True)
            for column in columns:
                table.add_column(self._names[column], justify="right", overflow="fold", max_width=WIDEST_NAME)
            for row in self._rows:
                if row.section:
                    table.add_row("")
                table.add_row(row.label, *(row.cells[column] for column in columns))
            yield table

    def _blocks(self, width: int) -> Iterator[list[int]]:
        """Split the columns so that each block fits the width; a block has at least one."""
        room = width - max(len(label) for label in (self._corner, *(row.label for row in self._rows)))
        block: list[int] = []
        left = room
        for column, name in enumerate(self._names):
            needed = max(min(len(name), WIDEST_NAME), *(len(row.cells[column]) for row in self._rows)) + GAP
            if block and needed > left:
                yield block
                block, left = [], room
            block.append(column)
            left -= needed
        yield block


def print_results(
    console: Console,
    heading: Iterable[str],
    grid: Grid,
    sentences: Iterable[str],
    notes: Iterable[str],
    folder: Path,
    pictures: Sequence[Path],
) -> None:
    """Print what a task found: what it ran on what, a table, sentences and notes on it, and where the files are."""
    for text in heading:
        say(console, text)
    for table in grid.lines(console.width):
        console.print(table)
        console.print()
    for text in (*sentences, *(f"- {note}" for note in notes), f"Results: {folder}"):
        say(console, text)
    if pictures:
        say(console, f"Pictures: {', '.join(path.name for path in pictures)}")


def say(console: Console, text: str) -> None:
    """Print a sentence; a pipe gets it on one line, whatever the width."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def heading(context: Context) -> Iterator[str]:
    """Yield what was run on what, as plain sentences."""
    yield f"{context.workload}: {context.requests:,} requests, {context.arrivals}, seed {context.seed}"
    under = f", engine {context.engine}" if context.engine else ""
    yield f"{context.model} on {context.hardware}{under}, KV memory {context.kv_tokens:,} tokens"
    yield f"max_new_tokens declared to the scheduler: {context.declared}"
