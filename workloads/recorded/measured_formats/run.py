"""A measured run, and how it is made of what a format's reader found in each request."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.checks import InputError, shown
from workloads.demand import Demand, counted, in_order
from workloads.recorded.units import LONGEST_S, NAMES, date, duration, epoch_unit, in_seconds
from workloads.requests import FloatArray, IntArray

if TYPE_CHECKING:
    from workloads.recorded.table import Table

Gaps = list[list[float]]
"""Seconds between the pieces of each answer."""

NANOSECONDS_OF_2099 = 4.1e18

ROUNDING = 1e-6
"""Times of one event may differ by so much, relatively and in seconds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredRun:
    """Requests that a server answered, in order of arrival.

    Attributes:
        name: Of its file.
        demand: When they were sent and how long prompts and answers were.
        ttft_s: float64 [n], seconds to the first token; NaN where it is not known.
        e2e_s: float64 [n], seconds to the last.
        gaps_s: float64, the time between two tokens (or pieces) of an answer, of all answers; None if not recorded.
        model: The model that answered, as the file calls it; None if it does not say.
        gpus: How many GPUs it ran on; None if the file does not say.
        client: The load generator that took the times; None if the file does not say who did.
        remarks: Sentences on what its times are, for whoever compares others with them.
    """

    name: str
    demand: Demand
    ttft_s: FloatArray
    e2e_s: FloatArray
    gaps_s: FloatArray | None = None
    model: str | None = None
    gpus: int | None = None
    client: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def tpot_s(self) -> FloatArray:
        """Mean seconds per token after the first, float64 [n]; NaN for answers of one token."""
        later = self.demand.output_tokens - 1
        tpot: FloatArray = np.full(len(later), np.nan)
        np.divide(self.e2e_s - self.ttft_s, later, out=tpot, where=later > 0)
        return tpot


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where the requests of a format say what: the names of its columns, for messages."""

    prompt_tokens: str
    sent: str
    first: str
    last: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """The requests that were answered, as a format has them.

    Attributes:
        table: Its cells, of these requests alone.
        columns: Which of them say what.
        prompt_tokens: int64 [n], 0 or more.
        output_tokens: int64 [n], 1 or more.
        sent_s: float64 [n], when each was sent, in seconds of any clock.
        first_s: float64 [n], seconds from then to the first token; NaN where it is not known.
        last_s: float64 [n], to the last.
        gaps: Seconds between pieces of each answer; None if the format has none.
        whole: bool [n], which answers came in one piece, so that their first token is not known; None for none.
        prefix_id: int64 [n], which shared prefix each prompt starts with, -1 for none; None if that is not known.
        prefix_tokens: int64 [n], tokens of that prefix; None likewise.
        notes: Sentences on what was left out.
    """

    table: "Table"
    columns: Columns
    prompt_tokens: IntArray
    output_tokens: IntArray
    sent_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    gaps: Gaps | None = None
    whole: NDArray[np.bool_] | None = None
    prefix_id: IntArray | None = None
    prefix_tokens: IntArray | None = None
    notes: tuple[str, ...] = ()

    def run(self, model: str | None = None, gpus: int | None = None, client: str | None = None) -> MeasuredRun:
        """Check the times and bring the requests into order.

        Args:
            model: As `MeasuredRun` has it.
            gpus: Likewise.
            client: Likewise.

        Raises:
            InputError: if a time cannot be, or no prompt has a token.
        """
        self._refuse_impossible_times()
        table, columns = self.table, self.columns
        demand = Demand(
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            recorded_s=self.sent_s,
            prefix_id=self.prefix_id,
            prefix_tokens=self.prefix_tokens,
            notes=self.notes,
        )
        empty, order = demand.prompt_tokens == 0, np.argsort(self.sent_s, kind="stable")
        if empty.all():
            table.refuse(columns.prompt_tokens, empty, "a whole number from 1")
        rows = order[~empty[order]]
        if empty.any():
            how = f"with a prompt of 0 tokens ({columns.prompt_tokens}) left out"
            demand = demand.noted(f"{counted(int(empty.sum()), 'request')} {how}")
        demand = demand.take(rows)
        first_s = (self.first_s if self.whole is None else np.where(self.whole, np.nan, self.first_s))[rows]
        gaps = None if self.gaps is None else [self.gaps[row] for row in rows]
        return MeasuredRun(
            name=table.path.name,
            demand=in_order(demand),
            ttft_s=first_s,
            e2e_s=self.last_s[rows],
            gaps_s=None if gaps is None else np.array([gap for each in gaps for gap in each], dtype=np.float64),
            remarks=tuple(_remarks(demand.output_tokens, first_s, gaps)),
            model=model,
            gpus=gpus,
            client=client,
        )

    def _refuse_impossible_times(self) -> None:
        """Refuse a first token after the last, gaps longer than their answer, and times of two clocks."""
        first, last, columns = self.first_s, self.last_s, self.columns
        late = first > last * (1 + ROUNDING) + ROUNDING
        if late.any():
            longest = last[int(np.argmax(late))]
            told = f"at most the {longest:g} s after which the answer ended ({columns.last})"
            self.table.refuse(columns.first, late, told)
        if self.gaps is not None:
            longer = np.array([math.fsum(each) for each in self.gaps]) > last * (1 + ROUNDING) + ROUNDING
            self.table.refuse(columns.last, longer, "a time as long as the gaps between tokens are together")
        span = self.sent_s - self.sent_s.min()
        told = f"a time of the same clock as the others: they span {duration(float(span.max()))}"
        self.table.refuse(columns.sent, span > LONGEST_S, told)


def _remarks(output_tokens: IntArray, first_s: FloatArray, gaps: Gaps | None) -> Iterable[str]:
    """Yield what is unusual in times between tokens, and what is missing of answers whose first token is known."""
    if gaps is None:
        yield "the file has no times between tokens of every answer: ITL is not compared"
        return
    pieces = np.array([len(each) for each in gaps])
    missing = (pieces == 0) & (output_tokens > 1)
    if lost := int((missing & ~np.isnan(first_s)).sum()):
        yield f"no times between tokens of {counted(lost, 'answer')}: ITL is that of the others"
    other = (pieces != output_tokens - 1) & ~missing
    if other.any():
        row = int(np.argmax(other))
        yield (
            f"{counted(int(other.sum()), 'answer')} of {len(gaps):,} came in other pieces than tokens "
            f"({pieces[row]:,} gaps for {output_tokens[row]:,} tokens): measured ITL is between pieces, predicted ITL "
            "between tokens"
        )


def taken(table: "Table", answered: NDArray[np.bool_], how: str = "that failed") -> tuple["Table", tuple[str, ...]]:
    """Return the rows of a table that were answered, and a note on the others.

    Args:
        table: All requests.
        answered: bool [n], which were answered.
        how: What became of the others.

    Raises:
        InputError: if none was.
    """
    rows = np.flatnonzero(answered)
    if not len(rows):
        raise InputError(f"{table.path}: no request was answered: give a run with at least one that was")
    lost = len(table) - len(rows)
    return table.take(rows), (f"{counted(lost, 'request')} {how} left out",) if lost else ()


def sent_seconds(table: "Table", name: str) -> tuple[FloatArray, tuple[str, ...]]:
    """Return a column of seconds by any clock, and a note if they are milli-, micro- or nanoseconds since 1970.

    Raises:
        InputError: if a cell is no time.
    """
    times = table.seconds(name, high=NANOSECONDS_OF_2099)
    unit = epoch_unit(float(np.median(times)))
    if unit in (None, "s"):
        return times, ()
    others = np.array([epoch_unit(float(time)) != unit for time in times])
    table.refuse(name, others, f"a time in {NAMES[unit]} since 1970, as the others are")
    seconds = in_seconds(times, unit)
    return seconds, (f"{name} is read as {NAMES[unit]} since 1970: the first is {date(float(seconds.min()))}",)


def gap_lists(table: "Table", name: str) -> Gaps:
    """Return a column of lists of seconds; a blank cell is an empty one."""
    cells = [[] if cell is None else cell for cell in table.columns[name].tolist()]
    good = [isinstance(cell, list) and all(map(_is_duration, cell)) for cell in cells]
    table.refuse(name, ~np.array(good, dtype=np.bool_), "a list of times")
    return cells


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S


def lists_table(path: Path, columns: Mapping[str, list[Any]], place: Callable[[int], str], *remedy: str) -> "Table":
    """Return lists, one entry per request each, as a table.

    Raises:
        InputError: if they are not equally long or empty.
    """
    import pandas as pd

    from workloads.recorded.table import Table

    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{path}: lists of different lengths ({told}): give a file that was written to its end")
    if not next(iter(lengths.values())):
        raise InputError(f"{path}: no request was sent: give a run with at least one")
    cells = {name: pd.Series(values, dtype=object) for name, values in columns.items()}
    return Table(path, (), cells, False, place, *remedy)


_GPUS = ("num_gpus", "gpus", "gpu_count", "n_gpus", "num_devices", "world_size")
_PARALLEL = (
    ("tensor_parallel_size", "tensor_parallel", "tp_size", "tp"),
    ("pipeline_parallel_size", "pipeline_parallel", "pp_size", "pp"),
    ("data_parallel_size", "data_parallel", "dp_size", "dp"),
)
GPU_COUNTS = (*_GPUS, *(name for names in _PARALLEL for name in names))
"""What files call a number of GPUs, or of those that share a model."""


def gpu_count(said: Mapping[str, Any]) -> int | None:
    """Return the number of GPUs that a file names, or the product of its parallel sizes; None if it names none."""
    for name in _GPUS:
        if (count := _whole(said.get(name))) is not None:
            return count
    sizes = [
        next((size for name in names if (size := _whole(said.get(name))) is not None), None) for names in _PARALLEL
    ]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if known else None


def _whole(value: Any) -> int | None:
    """Return a whole number from 1, given as such or as text; None for anything else."""
    text = str(value).strip()
    return int(text) if len(text) < 6 and text.isdecimal() and text.isascii() and int(text) >= 1 else None


def named(value: Any) -> str | None:
    """Return the name of a model; None if that is no text."""
    return shown(value).strip("'\"") if isinstance(value, str) and value.strip() else None


def unstreamed(first_s: FloatArray) -> tuple[str, ...]:
    """Return a note on answers whose first token is not known."""
    unknown = int(np.isnan(first_s).sum())
    return (f"TTFT and TPOT are not known of {counted(unknown, 'answer')}, which came whole",) if unknown else ()
