"""The way every task goes: clear, run, save at Ctrl-C, write, draw, report, print."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from sim.config.settings import Compared
from sim.output.folder import clear, salvaging
from sim.output.writing import make_folder
from sim.reporting.page import Page
from sim.reporting.table import Grid, print_results


class Study(ABC):
    """A task: what it finds, its files, its pictures, its page and its table.

    Attributes:
        nothing: What is said where it was stopped before there was anything to save.
    """

    nothing: str

    def __init__(self, compared: Compared, folder: Path) -> None:
        """Make the folder.

        Args:
            compared: Policies and workload, and which files are wanted.
            folder: Where files go.

        Raises:
            InputError: if it cannot be made, or no file can be written in it.
        """
        self._compared = compared
        self._folder = make_folder(folder)

    def __call__(self, console: Console) -> None:
        """Run, write the results in place of an earlier run's, and print the table.

        Raises:
            InputError: if a file cannot be written, a policy cannot be run, or none served any request; what was
                finished is saved.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        clear(self._folder, self._compared.workload, console)
        with salvaging(self._salvage, self.nothing):
            self._run_all()
            self._write()
            pictures = self._draw() if self._compared.pictures else []
            if self._compared.report:
                pictures.append(self._page().write(self._folder / "report.html", self._facts()))
        self._print(console, pictures)

    @abstractmethod
    def _run_all(self) -> None:
        """Run every policy, and keep what comes of it."""

    @abstractmethod
    def _salvage(self) -> str | None:
        """Write what there is; return what was saved, in words; None if nothing."""

    @abstractmethod
    def _write(self) -> None:
        """Write the results."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Return what `summary.json` says of what was run, beside the results."""

    @abstractmethod
    def _draw(self) -> list[Path]:
        """Draw the pictures; return their paths, the most telling first."""

    @abstractmethod
    def _page(self) -> Page:
        """Return the page."""

    @abstractmethod
    def _heading(self) -> Iterable[str]:
        """Return what was run on what, as plain sentences."""

    @abstractmethod
    def _grid(self) -> Grid:
        """Return the table that is printed."""

    def _sentences(self) -> Iterable[str]:
        """Return what is said below the table, before the notes."""
        return ()

    @abstractmethod
    def _caveats(self) -> Iterable[str]:
        """Return sentences on what was run, and on what a reader must know."""

    def _print(self, console: Console, pictures: list[Path]) -> None:
        """Print the table and what belongs to it."""
        print_results(
            console, self._heading(), self._grid(), self._sentences(), self._caveats(), self._folder, pictures
        )
