"""What a section has found: a file that is written anew with every finding, so that nothing is lost."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.rounds import in_one_line
from sim.output.writing import write_summary

Row = dict[str, Any]


class Record:
    """The findings of one section, as JSON.

    Attributes:
        found: All that is known: facts of the run, `rows`, one for everything measured, and `complete`.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Begin a file.

        Raises:
            InputError: It cannot be written.
        """
        self._path = path
        self.found: dict[str, Any] = {"section": path.stem, **facts, "complete": False, "rows": []}
        self._write()

    def add(self, **row: Any) -> None:
        """Add something measured."""
        self.found["rows"].append(row)
        self._write()

    def say(self, **facts: Any) -> None:
        """Add facts about all rows."""
        self.found |= facts
        self._write()

    def left_out(self, what: str) -> None:
        """Say what there was no time for."""
        self.found.setdefault("left_out", []).append(what)
        self._write()

    def failed(self, error: BaseException) -> str:
        """Say why the section could not go on; return it in one line."""
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else in_one_line(error)
        self.say(reason=reason, traceback=traceback.format_exception(error))
        return reason

    def _write(self) -> None:
        write_summary(self._path, self.found)
