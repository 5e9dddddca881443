"""Runs of a real server, as load generators record them: what was asked for and how long each request took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.checks import InputError
from workloads.demand import Demand, counted, in_order
from workloads.recorded.places import given_file
from workloads.recorded.traces import RecordedWorkload
from workloads.requests import FloatArray

if TYPE_CHECKING:
    from workloads.recorded.table import Table

_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9, "sec": 1e9, "seconds": 1e9}
_DETAILED = ("input_lens", "output_lens", "ttfts", "itls")
_OPTIONAL = ("start_times", "latencies", "errors")
"""What else of each request vLLM saves, depending on its version."""


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """Requests that a server answered, in order of arrival.

    Attributes:
        name: Of its file.
        demand: When they were sent and how long prompts and answers were.
        ttft_s: float64 [n], seconds to the first token; NaN where it is not known.
        e2e_s: float64 [n], seconds to the last.
        gaps_s: float64, the time between two tokens (or pieces) of an answer, of all answers; None if not recorded.
    """

    name: str
    demand: Demand
    ttft_s: FloatArray
    e2e_s: FloatArray
    gaps_s: FloatArray | None = None

    @property
    def tpot_s(self) -> FloatArray:
        """Mean seconds per token after the first, float64 [n]; NaN for answers of one token."""
        later = self.demand.output_tokens - 1
        tpot: FloatArray = np.full(len(later), np.nan)
        np.divide(self.e2e_s - self.ttft_s, later, out=tpot, where=later > 0)
        return tpot


@dataclass(frozen=True, kw_only=True)
class Measured(RecordedWorkload):
    """The requests of a measured run: what `vllm bench serve` or AIPerf saved of each, or a table.

    - `.json`: `vllm bench serve --save-result --save-detailed`.
    - `.jsonl`: AIPerf's per-request records, `profile_export.jsonl`.
    - `.csv`, `.parquet`: `arrival_s, prompt_tokens, output_tokens, ttft_s, e2e_s` and, together, `prefix_id,
      prefix_tokens`; the `requests.parquet` of `python -m real` is one.

    Requests that failed, were cancelled or belong to a warm-up phase are left out.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.path is None:
            raise InputError(
                "measured is missing: give measured=FILE, what vllm bench serve or AIPerf saved of each request"
            )

    def read(self) -> tuple[str, Demand]:
        """Return what was asked for."""
        run = self.run()
        return run.name, run.demand

    def run(self) -> MeasuredRun:
        """Read the file.

        Raises:
            InputError: if it is missing, of another kind, or something in it is wrong.
        """
        path = given_file(self.path, "measured")
        readers = {".json": _from_vllm, ".jsonl": _from_aiperf, ".csv": _from_table, ".parquet": _from_table}
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path}: unknown kind of file: give one that ends in {', '.join(readers)}")
        return reader(path)


def _from_vllm(path: Path) -> MeasuredRun:
    """Read the JSON of `vllm bench serve`: seconds, one entry per request in each list."""
    from workloads.recorded.formats import read_json

    saved = read_json(path, "vLLM's --append-result puts several runs into one file: give one run")
    missing = [name for name in _DETAILED if not isinstance(saved.get(name), list)]
    if missing:
        raise InputError(
            f"{path}: no {', '.join(missing)}: save each request, vllm bench serve --save-result --save-detailed"
        )
    names = [*_DETAILED, *(name for name in _OPTIONAL if isinstance(saved.get(name), list))]
    table = _table(
        path, {name: saved[name] for name in names}, lambda row: f"request {row}", "correct it, or measure again"
    )
    output_tokens = table.counts("output_lens", low=0)
    answered = output_tokens > 0
    if "errors" in table:
        answered &= np.array([not error for error in saved["errors"]])
    gaps = _gaps(table, "itls")
    ttft_s = table.seconds("ttfts")
    whole = (output_tokens > 1) & np.array([not each for each in gaps])
    # Without its latency an answer ends with its last gap, which leaves out what came after the last token.
    e2e_s = table.seconds("latencies") if "latencies" in table else ttft_s + np.array([sum(each) for each in gaps])
    demand = Demand(
        prompt_tokens=table.counts("input_lens", low=0),
        output_tokens=output_tokens,
        recorded_s=_starts(table, saved),
        notes=tuple(_client_notes(saved)),
    )
    if lost := int((whole & answered).sum()):
        demand = demand.noted(f"{counted(lost, 'answer')} came in one piece: TTFT and TPOT are not known of them")
    return _answered(path, demand, np.where(whole, np.nan, ttft_s), e2e_s, answered, gaps)


def _gaps(table: "Table", name: str) -> list[list[float]]:
    """Return a column of lists of seconds; a blank cell is an empty one."""
    cells = [[] if cell is None else cell for cell in table.columns[name].tolist()]
    good = [isinstance(cell, list) and all(isinstance(gap, int | float) and gap >= 0 for gap in cell) for cell in cells]
    table.refuse(name, ~np.array(good, dtype=np.bool_), "a list of times")
    return cells


def _starts(table: "Table", saved: Mapping[str, Any]) -> FloatArray:
    """Return when requests were sent; without a record of it only a run that sent all at once can be replayed."""
    if "start_times" in table:
        return table.seconds("start_times")
    if str(saved.get("request_rate")) == "inf" and saved.get("max_concurrency") is None:
        return np.zeros(len(table))
    raise InputError(
        f"{table.path}: no start_times, so it is not known when requests were sent: measure with a vLLM that saves "
        "them, or with --request-rate inf"
    )


def _client_notes(saved: Mapping[str, Any]) -> list[str]:
    if saved.get("max_concurrency") is None:
        return []
    return [
        f"the client held {saved['max_concurrency']} requests in flight at most: they are replayed at the times at "
        "which it sent them, which followed the measured answers"
    ]


def _from_aiperf(path: Path) -> MeasuredRun:
    """Read AIPerf's records, one per line: metadata in nanoseconds, metrics with units, an error or null."""
    from workloads.recorded.formats import read_table

    table = read_table(path, ("metadata", "metrics"), ("error",))
    rows = _profiled(table)
    metadata, metrics = ([table.columns[name][row] for row in rows] for name in ("metadata", "metrics"))
    places = [table.place(row) for row in rows]
    columns = {
        "request_start_ns": [each.get("request_start_ns") for each in metadata],
        **{name: [_metric(each, names) for each in metrics] for name, names in _AIPERF.items()},
        _PIECES: [_pieces(each) for each in metrics],
    }
    records = _table(path, columns, lambda row: places[row])
    start = records.columns["request_start_ns"].tolist()
    good = np.array([isinstance(each, int) and not isinstance(each, bool) for each in start])
    records.refuse("request_start_ns", ~good, "a whole number of nanoseconds")
    demand = Demand(
        prompt_tokens=records.counts("input_sequence_length", low=1),
        output_tokens=records.counts("output_sequence_length", low=1),
        recorded_s=np.array([each - min(start) for each in start], dtype=np.float64) / 1e9,
        notes=tuple(_aiperf_notes(len(table) - len(rows), metadata, metrics)),
    )
    first = records.seconds("time_to_first_token", may_be_blank=np.ones(len(records), dtype=np.bool_))
    last = records.seconds("request_latency")
    # Answers of one token have no gap, those of several that lack them were not streamed.
    streamed = all(cell is not None for cell in records.columns[_PIECES][demand.output_tokens > 1])
    gaps = _gaps(records, _PIECES) if streamed else None
    return _answered(path, demand, first / 1e9, last / 1e9, np.ones(len(records), dtype=np.bool_), gaps)


def _profiled(table: "Table") -> list[int]:
    """Return the rows of the requests that were answered and are no warm-up."""
    metadata = _mappings(table, "metadata")
    _mappings(table, "metrics")
    failed = table.columns["error"].tolist() if "error" in table else [None] * len(table)
    rows = [
        row
        for row, (error, about) in enumerate(zip(failed, metadata, strict=True))
        if not error and not about.get("was_cancelled") and about.get("benchmark_phase", "profiling") == "profiling"
    ]
    if not rows:
        raise InputError(f"{table.path}: no request was answered: give a run with at least one that was")
    return rows


_AIPERF = {
    "input_sequence_length": ("input_sequence_length",),
    "output_sequence_length": ("output_sequence_length", "output_token_count"),
    "time_to_first_token": ("time_to_first_token",),
    "request_latency": ("request_latency",),
}
"""Columns, and the metrics they are taken from: the first that is there."""

_PIECES = "inter_chunk_latency"
"""The metric that lists the times between the pieces of an answer."""


def _aiperf_notes(dropped: int, metadata: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what a prediction does not know of a run."""
    if dropped:
        yield f"{counted(dropped, 'request')} that failed or were not profiled left out"
    if any(each.get("turn_index") for each in metadata):
        yield "turns of conversations: what they share with earlier turns is not recorded"
    cached = [_metric(each, ("usage_prompt_cache_read_tokens",)) for each in metrics]
    if found := sum(each for each in cached if isinstance(each, int)):
        yield f"the server found {found:,} prompt tokens in its prefix cache; here all are computed"


def _pieces(metrics: Mapping[str, Any]) -> Any:
    """Return the seconds between the pieces of an answer; what is there instead if they are none."""
    found = metrics.get(_PIECES)
    values, unit = (found.get("value"), found.get("unit")) if isinstance(found, dict) else (found, "s")
    if not isinstance(values, list) or unit not in _NS or not all(isinstance(gap, int | float) for gap in values):
        return found
    return [gap * _NS[unit] / 1e9 for gap in values]


def _mappings(table: "Table", name: str) -> list[dict[str, Any]]:
    cells = table.columns[name].tolist()
    table.refuse(name, np.array([not isinstance(cell, dict) for cell in cells]), "an object, as AIPerf writes it")
    return cells


def _metric(metrics: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return a metric's value, times in nanoseconds; what it is instead if it is none."""
    found = next((metrics[name] for name in names if name in metrics), None)
    if not isinstance(found, dict):
        return found
    value, unit = found.get("value"), found.get("unit")
    if unit == "tokens" or not isinstance(value, int | float) or isinstance(value, bool):
        return value
    return value * _NS[unit] if unit in _NS else f"{value} {unit}"


def _from_table(path: Path) -> MeasuredRun:
    """Read a table; where it has a status, requests that did not finish are left out."""
    from workloads.recorded.formats import read_table

    columns = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")
    table = read_table(path, columns, ("prefix_id", "prefix_tokens", "status"))
    finished = np.ones(len(table), dtype=np.bool_)
    if "status" in table:
        finished = np.array([str(cell) == "finished" for cell in table.columns["status"].tolist()])
    demand = Demand(
        prompt_tokens=table.counts("prompt_tokens", low=1),
        output_tokens=table.counts("output_tokens", low=1),
        recorded_s=table.seconds("arrival_s"),
    )
    if "prefix_id" in table and "prefix_tokens" in table:
        prefix_id = table.labels("prefix_id")
        tokens = table.counts("prefix_tokens", low=0, may_be_blank=prefix_id < 0)
        table.refuse("prefix_tokens", tokens > demand.prompt_tokens, "at most prompt_tokens of that row")
        demand = replace(demand, prefix_id=prefix_id, prefix_tokens=np.where(prefix_id < 0, 0, tokens))
    first, last = (table.seconds(name, may_be_blank=~finished) for name in ("ttft_s", "e2e_s"))
    return _answered(path, demand, first, last, finished, None)


def _answered(
    path: Path,
    demand: Demand,
    ttft_s: FloatArray,
    e2e_s: FloatArray,
    answered: Any,
    gaps: list[list[float]] | None,
) -> MeasuredRun:
    """Keep the requests that were answered, in order of arrival, the first at 0."""
    kept = np.flatnonzero(answered)
    if not len(kept):
        raise InputError(f"{path}: no request was answered: give a run with at least one that was")
    assert demand.recorded_s is not None
    rows = kept[np.argsort(demand.recorded_s[kept], kind="stable")]
    lost = len(demand) - len(rows)
    demand = demand.take(rows)
    if lost:
        demand = demand.noted(f"{counted(lost, 'request')} that failed left out")
    flat = None if gaps is None else np.array([gap for row in rows for gap in gaps[row]], dtype=np.float64)
    return MeasuredRun(path.name, in_order(demand), ttft_s[rows], e2e_s[rows], flat)


def _table(path: Path, columns: Mapping[str, list[Any]], place: Any, *remedy: str) -> "Table":
    """Return lists as a table; they must be equally long."""
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
