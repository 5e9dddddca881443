"""A table of one's own: a row per request, as CSV, JSON lines, a JSON list or Parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.recorded.measured_formats.format import Objects
from workloads.recorded.measured_formats.run import (
    GPU_COUNTS,
    Answered,
    Columns,
    MeasuredRun,
    gpu_count,
    named,
    sent_seconds,
    taken,
    unstreamed,
)
from workloads.requests import IntArray

if TYPE_CHECKING:
    from workloads.recorded.table import Table

_TIMES = ("ttft_s", "e2e_s")
_NEEDED = ("arrival_s", "prompt_tokens", "output_tokens", *_TIMES)
_PREFIX = ("prefix_id", "prefix_tokens")
_MODEL = ("model", "model_id")
_ANSWERED = ("finished", "success", "succeeded", "successful", "completed", "ok", "true")
"""Words in the column `status` of a request that was answered."""


class OwnTable:
    """Requests whose status says that they did not finish, or that have no times, are left out."""

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether there are times of each request, or lengths and arrivals, by our names."""
        return bool(set(_TIMES) & keys.keys()) or {"arrival_s", "prompt_tokens", "output_tokens"} <= keys.keys()

    def read(self, path: Path, objects: Objects) -> MeasuredRun:
        """Read the columns."""
        from workloads.recorded.formats import read_table

        every = read_table(path, _NEEDED, (*_PREFIX, "status", *_MODEL, *GPU_COUNTS))
        table, notes = taken(every, _answered(every))
        sent_s, told = sent_seconds(table, "arrival_s")
        first_s = table.seconds("ttft_s", may_be_blank=np.ones(len(table), dtype=np.bool_))
        prefix = _prefixes(table)
        said = {name: table.columns[name].iloc[0] for name in (*_MODEL, *GPU_COUNTS) if name in table}
        return Answered(
            table=table,
            columns=Columns(
                prompt_tokens="prompt_tokens",
                sent="arrival_s",
                first="ttft_s",
                last="e2e_s",
            ),
            prompt_tokens=table.counts("prompt_tokens", low=0),
            output_tokens=table.counts("output_tokens", low=1),
            sent_s=sent_s,
            first_s=first_s,
            last_s=table.seconds("e2e_s"),
            prefix_id=prefix.id if prefix else None,
            prefix_tokens=prefix.tokens if prefix else None,
            notes=(*told, *unstreamed(first_s), *notes),
        ).run(named(said.get("model", said.get("model_id"))), gpu_count(said))


def _answered(table: "Table") -> Any:
    """Return which requests were answered, bool [n]."""
    answered = ~(table.blank("ttft_s") & table.blank("e2e_s"))
    if "status" in table:
        answered &= np.array([str(cell).strip().lower() in _ANSWERED for cell in table.columns["status"].tolist()])
    return answered


@dataclass(frozen=True)
class _Prefixes:
    """What prompts share: which prefix, -1 for none, and how many tokens of it, both int64 [n]."""

    id: IntArray
    tokens: IntArray


def _prefixes(table: "Table") -> _Prefixes | None:
    if not all(name in table for name in _PREFIX):
        return None
    found = table.labels("prefix_id")
    tokens = table.counts("prefix_tokens", low=0, may_be_blank=found < 0)
    prompts = table.counts("prompt_tokens", low=0)
    table.refuse("prefix_tokens", tokens > prompts, "at most prompt_tokens of that row")
    return _Prefixes(found, np.where(found < 0, 0, tokens))
