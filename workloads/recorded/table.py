"""Columns of raw cells, read as numbers with errors that name the file, the row, the column and the mend."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date as date_type
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from policies.checks import InputError, shown
from workloads.recorded.units import EPOCH_S, LONGEST_S, NAMES, PER_SECOND, date, duration, epoch_unit, in_seconds
from workloads.requests import MAX_TOKENS, FloatArray, HashArray, IntArray

MAX_SECONDS = 1e15
"""The latest time that is taken seriously; beyond it float64 loses whole fractions of a second."""

_OTHER_UNIT = "correct it, or say workload.time_unit=s, ms, us or ns if that is its unit"

Place = Callable[[int], str]
"""Says where a row (from 0) is in its file, such as `line 7`."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of raw cells, read on demand as numbers.

    Attributes:
        path: the file.
        ignored: columns of the file that were not read.
        columns: the cells of each column that was read; all have the same length, at least 1.
        is_text: whether cells are text still to be parsed (CSV), or values with types (JSONL, Parquet).
        place: says where a row (from 0) is in the file, such as `line 7`.
        remedy: what to do about a bad cell.
    """

    path: Path
    ignored: tuple[str, ...]
    columns: dict[str, pd.Series]
    is_text: bool
    place: Place
    remedy: str = "correct it or remove the row"

    def __contains__(self, name: str) -> bool:
        """Return whether the column was read."""
        return name in self.columns

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def take(self, rows: IntArray) -> "Table":
        """Return these rows, int64 [m], as a table; at least one."""
        columns = {name: cells.iloc[rows].reset_index(drop=True) for name, cells in self.columns.items()}
        return replace(self, columns=columns, place=lambda row: self.place(int(rows[row])))

    def seconds(
        self, name: str, may_be_blank: NDArray[np.bool_] | None = None, high: float = MAX_SECONDS
    ) -> FloatArray:
        """Return a column of times, float64 [n].

        Args:
            name: the column.
            may_be_blank: bool [n], rows where a blank cell is allowed and gives NaN; None for none.
            high: the latest time allowed; the earliest is 0.

        Raises:
            InputError: at the first cell that is not one.
        """
        values = self._numbers(name)
        good = (values >= 0) & (values <= high)
        if may_be_blank is not None:
            good |= may_be_blank & self.blank(name)
        self.refuse(name, ~good, f"a time from 0 to {high:g}")
        return values

    def times(self, name: str, unit: str, said: bool, whole: bool) -> tuple[FloatArray, str | None]:
        """Return a column of arrivals in seconds, float64 [n], and a note if their unit was recognised by their size.

        Numbers count from the start of the recording or from 1970. Dates are read too, then in seconds after the
        earliest.

        Args:
            name: the column.
            unit: of numbers: `s`, `ms`, `us`, `ns`; or `date` if only dates are right.
            said: whether a person said it; else times since 1970 in another unit are read as what they are.
            whole: whether numbers must be whole in that unit.

        Raises:
            InputError: at the first cell that is no time or cannot be one beside the others.
        """
        if unit == "date" or self._is_date(name):
            return self.timestamps(name), None
        values = self._numbers(name)
        good = (values >= 0) & (values <= max(PER_SECOND.values()) * EPOCH_S[1])
        self.refuse(name, ~good, f"a time from 0 to {MAX_SECONDS:g}")
        middle = float(np.partition(values, len(values) // 2)[len(values) // 2])
        note, epoch = None, epoch_unit(middle)
        if epoch is not None and epoch != unit and not said:
            since_1970 = np.array([epoch_unit(value) == epoch for value in (values.min(), values.max())]).all()
            if since_1970:
                unit, whole = epoch, False
                first = date(values.min() / PER_SECOND[epoch])
                note = f"{name} is read as {NAMES[epoch]} since 1970: the first is {first}"
            elif middle / PER_SECOND[unit] > EPOCH_S[1]:
                others = np.array([epoch_unit(value) != epoch for value in values.tolist()])
                self.refuse(name, others, f"{NAMES[epoch]} since 1970 like the others")
        unit_name, seconds = NAMES[unit], in_seconds(values, unit)
        self.refuse(name, whole & (values != np.rint(values)), f"a whole number of {unit_name}", _OTHER_UNIT)
        self.refuse(name, seconds > EPOCH_S[1], f"a time in {unit_name}, since 1970 or since the start", _OTHER_UNIT)
        late, span = seconds - seconds.min() > LONGEST_S, duration(float(np.ptp(seconds)))
        self.refuse(name, late, f"a time in {unit_name} by the clock of the others, {span} earlier", _OTHER_UNIT)
        return seconds, note

    def counts(
        self, name: str, low: int, high: int = MAX_TOKENS, may_be_blank: NDArray[np.bool_] | None = None
    ) -> IntArray:
        """Return a column of whole numbers from low to high, int64 [n].

        Args:
            name: the column.
            low: the least number allowed.
            high: the greatest number allowed.
            may_be_blank: bool [n], rows where a blank cell is allowed and means `low`; None for none.

        Raises:
            InputError: at the first cell that is not one.
        """
        values = self._numbers(name)
        if may_be_blank is not None:
            values = np.where(may_be_blank & self.blank(name), low, values)
        with np.errstate(invalid="ignore"):
            good = (values >= low) & (values <= high) & (values == np.rint(values))
        self.refuse(name, ~good, f"a whole number from {low} to {high}")
        return values.astype(np.int64)

    def timestamps(self, name: str) -> FloatArray:
        """Return a column of ISO 8601 dates and times as float64 [n], in seconds after the earliest.

        Raises:
            InputError: at the first cell that is not one.
        """
        cells = self.columns[name]
        if not self.is_text and not pd.api.types.is_datetime64_any_dtype(cells.dtype):
            cells = pd.Series([cell if isinstance(cell, str) else None for cell in cells.tolist()], dtype="str")
        times = pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)
        self.refuse(name, times.isna().to_numpy(), "a date and time such as 2023-11-16 18:17:03.97")
        return np.asarray((times - times.min()).dt.total_seconds(), dtype=np.float64)

    def labels(self, name: str) -> IntArray:
        """Return a column of names (text or whole numbers) as int64 [n], numbered from 0; blank or -1 becomes -1.

        Raises:
            InputError: at the first cell that is neither.
        """
        labels = [_label(cell) for cell in self.columns[name].tolist()]
        self.refuse(name, np.array([label is None for label in labels]), "a whole number or a name")
        named = pd.Series([None if label in ("", "-1") else label for label in labels], dtype=object)
        return pd.factorize(named)[0].astype(np.int64)

    def lists(self, name: str) -> HashArray:
        """Return a column of lists of whole numbers from 0 to 2^62, object [n] of tuples; a blank is an empty list.

        Raises:
            InputError: at the first cell that is not one.
        """
        lists = [_numbers_in(cell) for cell in self.columns[name].tolist()]
        self.refuse(name, np.array([numbers is None for numbers in lists]), "a list of whole numbers, as in [3, 14]")
        column = np.empty(len(lists), dtype=np.object_)
        for row, numbers in enumerate(lists):
            column[row] = numbers
        return column

    def refuse(self, name: str, bad: NDArray[np.bool_], expected: str, remedy: str | None = None) -> None:
        """Raise InputError about the first bad row of a column, if there is any.

        Args:
            name: the column.
            bad: bool [n], which rows are not as expected.
            expected: what a cell must be, in words.
            remedy: what to do about it; None is what to do about any bad cell.
        """
        if not bad.any():
            return
        row = int(np.argmax(bad))
        cell = self.columns[name].iloc[row]
        is_blank = cell is None or cell is pd.NA or (isinstance(cell, str) and not cell.strip())
        found = "is blank" if is_blank else f"is {shown(cell.item() if isinstance(cell, np.generic) else cell)}"
        where = f"{self.path}, {self.place(row)}, column {name}"
        raise InputError(f"{where}: {found}, not {expected}: {remedy or self.remedy}")

    def _is_date(self, name: str) -> bool:
        """Return whether the first cell is a date and time; digits alone are a number."""
        cell = self.columns[name].iloc[0]
        if isinstance(cell, str) and "-" in cell.strip()[1:]:
            return not pd.isna(pd.to_datetime(cell, format="ISO8601", errors="coerce", utc=True))
        return isinstance(cell, date_type)

    def blank(self, name: str) -> NDArray[np.bool_]:
        """Return which cells of a column are blank, bool [n]."""
        cells = self.columns[name]
        blank = cells.str.strip() == "" if self.is_text else cells.isna()
        return blank.to_numpy(dtype=np.bool_)

    def _numbers(self, name: str) -> FloatArray:
        """Return a column as float64 [n], with NaN for every cell that is no number."""
        cells = self.columns[name]
        if self.is_text:
            return pd.to_numeric(cells.str.strip(), errors="coerce").to_numpy(dtype=np.float64)
        if pd.api.types.is_bool_dtype(cells.dtype) or not pd.api.types.is_numeric_dtype(cells.dtype):
            return np.array([_number(cell) for cell in cells.tolist()], dtype=np.float64)
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)


def _number(cell: object) -> float:
    if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal):
        return np.nan
    try:
        return float(cell)
    except OverflowError:
        return np.inf


def _numbers_in(cell: object) -> tuple[int, ...] | None:
    """Return the numbers of a list, or of its text, none if it is blank; None if it is no list of whole numbers."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.strip() else []
        except ValueError:
            return None
    if cell is None:
        return ()
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if not isinstance(cell, list | tuple):
        return None
    good = all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 1 << 62 for one in cell)
    return tuple(cell) if good else None


def _label(cell: object) -> str | None:
    """Return the name in a cell, empty for none, None if the cell cannot be a name."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, str):
        return cell.strip()
    if (
        isinstance(cell, bool)
        or not isinstance(cell, int | float)
        or (isinstance(cell, float) and not cell.is_integer())
    ):
        return None
    return str(int(cell))
