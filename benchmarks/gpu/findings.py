"""What a run found: `results.json`, `iterations.parquet` and `table.txt`, all whole on disk after every finding."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.table import text_of
from benchmarks.interruption import Interruption
from benchmarks.rounds import in_one_line
from sim.output.writing import Draft, make_folder, write_summary, writing

if TYPE_CHECKING:
    import numpy.typing as npt

    from sim.engine.iteration_log import Slice

RESULTS, ITERATIONS, TABLE = "results.json", "iterations.parquet", "table.txt"


class Findings:
    """Everything that is known so far.

    Attributes:
        folder: Where the files are; made with the first of them.
        found: As `results.json` has it: facts of the run, `parts` by name, `log`.
        interruption: What keeps signals out of a write.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], interruption: Interruption | None = None) -> None:
        self.folder = folder
        self.interruption = interruption or Interruption()
        self.found: dict[str, Any] = {**facts, "complete": False, "parts": {}, "log": []}
        self._iterations: list[tuple[str, Slice]] = []

    def part(self, name: str) -> "Part":
        """Begin a part."""
        self.found["parts"][name] = {"rows": [], "complete": False}
        return Part(self, name)

    def say(self, **facts: Any) -> None:
        """Add facts of the run."""
        self.found |= facts
        self.write()

    def keep(self, where: str, records: "Slice") -> None:
        """Keep the iterations of a run, for `iterations.parquet`; written by `write_iterations`."""
        self._iterations.append((where, records))

    def write(self) -> str:
        """Write results and table; return the table.

        Raises:
            InputError: A file cannot be written.
        """
        table = text_of(self.found)
        with self.interruption.held():
            make_folder(self.folder)
            write_summary(self.folder / RESULTS, self.found)
            path = self.folder / TABLE
            with writing(path), Draft(path) as part:
                part.write_text(table, encoding="utf-8")
        return table

    def write_iterations(self) -> None:
        """Write every iteration of every run that was kept, a row each; `run` says where it is from.

        Raises:
            InputError: The file cannot be written.
        """
        if not self._iterations:
            return
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        every = [records for _, records in self._iterations]
        runs = np.repeat([where for where, _ in self._iterations], [len(records) for records in every])
        names = dict.fromkeys(name for records in every for name in records.dtype.names or ())
        columns = {name: np.concatenate([column_of(records, name) for records in every]) for name in names}
        path = self.folder / ITERATIONS
        with self.interruption.held(), writing(path), Draft(path) as part:
            pq.write_table(pa.table({"run": pa.array(runs).dictionary_encode(), **columns}), part, compression="zstd")


def column_of(records: "Slice", name: str) -> "npt.NDArray[Any]":
    """Return a column of a log; NaN of a run that does not know it, such as the device's times."""
    import numpy as np

    return records[name] if name in (records.dtype.names or ()) else np.full(len(records), np.nan)


class Part:
    """What one part of the plan found.

    Attributes:
        name: Its name.
        found: As `results.json` has it: facts, `rows`, one for everything measured, and what was `left_out`.
    """

    def __init__(self, findings: Findings, name: str) -> None:
        self.name = name
        self.found: dict[str, Any] = findings.found["parts"][name]
        self._findings = findings

    def add(self, **row: Any) -> None:
        """Add something measured."""
        self.found["rows"].append(row)
        self._findings.write()

    def say(self, **facts: Any) -> None:
        """Add facts about all rows."""
        self.found |= facts
        self._findings.write()

    def left_out(self, what: str, why: str) -> None:
        """Say what was not measured, and why."""
        self.found.setdefault("left_out", []).append({"what": what, "why": why})
        self._findings.write()

    def failed(self, error: BaseException) -> str:
        """Say why the part could not go on; return it in one line."""
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else in_one_line(error)
        self.say(reason=reason, traceback=traceback.format_exception(error))
        return reason

    def write_file(self, write: Callable[[Path], object]) -> None:
        """Let a file be written into the folder, undisturbed."""
        with self._findings.interruption.held():
            write(self._findings.folder)

    def keep(self, run: str, records: "Slice") -> None:
        """Keep the iterations of a run."""
        self._findings.keep(f"{self.name}: {run}", records)
