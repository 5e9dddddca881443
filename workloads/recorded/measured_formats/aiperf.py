"""AIPerf's records, `profile_export.jsonl`: a request per line, metadata in nanoseconds, metrics with units."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.recorded.measured_formats.format import Objects
from workloads.recorded.measured_formats.run import (
    Answered,
    Columns,
    MeasuredRun,
    gap_lists,
    lists_table,
    taken,
    unstreamed,
)
from workloads.recorded.units import PER_SECOND

if TYPE_CHECKING:
    from workloads.recorded.table import Table

_NS = {unit: 1e9 / per for unit, per in PER_SECOND.items()} | {"sec": 1e9, "seconds": 1e9}
_START = ("request_start_ns", "timestamp_ns")
_PHASE = ("benchmark_phase", "credit_phase")
"""Keys of the metadata, today and in autumn 2025."""

_METRICS = {
    "input_sequence_length": ("input_sequence_length",),
    "output_sequence_length": ("output_sequence_length",),
    "time_to_first_token": ("time_to_first_token", "ttft"),
    "request_latency": ("request_latency",),
}
"""Columns, and the metrics they are taken from: today's, and that of autumn 2025."""

_PIECES = "inter_chunk_latency"
"""The metric that lists the times between the pieces of an answer."""


class AIPerf:
    """Requests that failed, were cancelled or belong to a warm-up are left out; E2E is `request_latency`."""

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether a record has metadata and metrics."""
        return {"metadata", "metrics"} <= keys.keys()

    def read(self, path: Path, objects: Objects) -> MeasuredRun:
        """Read one record per line."""
        records = _records(path, objects)
        metadata, metrics = (records.columns[name].tolist() for name in ("metadata", "metrics"))
        errors = records.columns["error"].tolist()
        answered = [not error and _profiled(about) for error, about in zip(errors, metadata, strict=True)]
        kept, notes = taken(records, np.array(answered), "that failed or were not profiled")
        table = _table(path, kept)
        metadata, metrics = (kept.columns[name].tolist() for name in ("metadata", "metrics"))
        start = table.columns["request_start_ns"].tolist()
        good = [isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63 for each in start]
        table.refuse("request_start_ns", ~np.array(good), "a whole number of nanoseconds")
        prompt_tokens = table.counts("input_sequence_length", low=0)
        output_tokens = table.counts("output_sequence_length", low=1)
        first_s = table.seconds("time_to_first_token", may_be_blank=np.ones(len(table), dtype=np.bool_)) / 1e9
        # Answers of one token have no gap, those of several that lack them were not streamed.
        streamed = all(cell is not None for cell in table.columns[_PIECES][output_tokens > 1])
        return Answered(
            table=table,
            columns=Columns(
                prompt_tokens="input_sequence_length",
                sent="request_start_ns",
                first="time_to_first_token",
                last="request_latency",
            ),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            sent_s=np.array([each - min(start) for each in start], dtype=np.float64) / 1e9,
            first_s=first_s,
            last_s=table.seconds("request_latency") / 1e9,
            gaps=gap_lists(table, _PIECES) if streamed else None,
            notes=(*notes, *unstreamed(first_s), *_notes(metadata, metrics)),
        ).run(client="AIPerf")


def _records(path: Path, objects: Objects) -> "Table":
    """Return metadata, metrics and error of each line."""
    places = [place for place, _ in objects]
    columns = {name: [record.get(name) for _, record in objects] for name in ("metadata", "metrics", "error")}
    records = lists_table(path, columns, places.__getitem__)
    for name in ("metadata", "metrics"):
        bad = np.array([not isinstance(cell, dict) for cell in columns[name]])
        records.refuse(name, bad, "an object, as AIPerf writes it")
    return records


def _profiled(about: Mapping[str, Any]) -> bool:
    """Return whether a request was answered, and was no warm-up."""
    phase = _first(about, _PHASE)
    return not about.get("error") and not about.get("was_cancelled") and phase in (None, "profiling")


def _table(path: Path, records: "Table") -> "Table":
    """Return what is used of the records, times in nanoseconds."""
    metadata, metrics = (records.columns[name].tolist() for name in ("metadata", "metrics"))
    columns = {
        "request_start_ns": [_first(about, _START) for about in metadata],
        **{column: [_metric(each, names) for each in metrics] for column, names in _METRICS.items()},
        _PIECES: [_pieces(each) for each in metrics],
    }
    tokens = columns["output_sequence_length"]
    columns["output_sequence_length"] = [
        _generated(each) if known is None else known for known, each in zip(tokens, metrics, strict=True)
    ]
    return lists_table(path, columns, records.place)


def _generated(metrics: Mapping[str, Any]) -> Any:
    """Return the tokens of an answer where they are not summed up: those shown, and those of reasoning."""
    shown, reasoning = (_metric(metrics, (name,)) for name in ("output_token_count", "reasoning_token_count"))
    return shown + reasoning if isinstance(shown, int) and isinstance(reasoning, int) else shown


def _first(said: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((said[name] for name in names if said.get(name) is not None), None)


def _pieces(metrics: Mapping[str, Any]) -> Any:
    """Return the seconds between the pieces of an answer; what is there instead if they are none."""
    found = metrics.get(_PIECES)
    values, unit = (found.get("value"), found.get("unit")) if isinstance(found, dict) else (found, "s")
    if not isinstance(values, list) or not isinstance(unit, str) or unit not in _NS:
        return found
    if not all(isinstance(gap, int | float) and not isinstance(gap, bool) for gap in values):
        return found
    return [_times(gap, _NS[unit] / 1e9) for gap in values]


def _metric(metrics: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return a metric's value, times in nanoseconds; what it is instead if it is none."""
    found = _first(metrics, names)
    if not isinstance(found, dict):
        return found
    value, unit = found.get("value"), found.get("unit")
    if unit == "tokens" or not isinstance(value, int | float) or isinstance(value, bool):
        return value
    return _times(value, _NS[unit]) if isinstance(unit, str) and unit in _NS else f"{value} {unit}"


def _times(value: float, factor: float) -> float:
    """Return a product; infinity where a whole number is too large for one."""
    try:
        return value * factor
    except OverflowError:
        return math.inf


def _notes(metadata: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what a prediction does not know of a run."""
    if any(each.get("turn_index") for each in metadata):
        yield "turns of conversations: what they share with earlier turns is not recorded"
    cached = [_metric(each, ("usage_prompt_cache_read_tokens",)) for each in metrics]
    if found := sum(each for each in cached if isinstance(each, int)):
        yield f"the server found {found:,} prompt tokens in its prefix cache; here all are computed"
