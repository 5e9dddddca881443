"""Where the time of each request went, from its arrival to the end of its answer.

All rows of the batch see the same iterations, so it is enough to add up along the log how much of the time was spent on
what; a request's share is the difference between two points of these sums. Nothing is kept per token or per row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Fields
from sim.engine.request_log import RequestLog
from sim.metrics.idle import CAUSES, Losses
from sim.metrics.request_columns import Columns

Array = npt.NDArray[np.float64]

_ROUNDING_S = 1e-9

PARTS = ("queue", "prefill", "ready", "decode", "stall", "padding", "preemption", "release")
"""Parts of a request's time, which add up to its end-to-end latency.

- queue: from its arrival to its first prefill, the front end's latency included
- prefill: its prompt's iterations, those of its group and of decode beside it included, without padding
- ready: prefilled, but not in the batch: waiting for a row, or for its KV to arrive
- decode: iterations of the batch that it was in, as they would take without prefill and without padding
- stall: what others' prefill added to them: iterations that only prefill, what a prefill beside decode costs, and what
  a prefill on another lane of the same GPU slows
- padding: prompts padded, KV slots read beyond a row's own, finished rows and dummies computed, in iterations it took
  part in
- preemption: from its last token before it left the batch to its return, its recomputation included
- release: from its last token until its batch ends, where answers leave with their batch
"""


class Breakdown:
    """Adds up, record by record, what the time of each lane was spent on."""

    def __init__(self) -> None:
        # Of both lanes: sums by the end of each record, from 0 on.
        self._lanes: tuple[list[Array], list[Array]] = ([np.zeros((4, 1))], [np.zeros((4, 1))])
        self._joins: list[Array] = []
        self._clock = 0

    def add(self, records: Fields, losses: Losses) -> None:
        """Add records [n] whose mean iterations lost `losses` [n]."""
        steps = records["steps"].astype(np.float64)
        padding = np.zeros(len(steps))
        for cause in CAUSES:
            if (lost := losses.by_cause[cause]) is not None:
                padding += lost * steps
        decode = losses.useful * steps
        only_prefill = np.where(records["rows"] + records["held_rows"] > 0, 0.0, records["duration_s"])
        spent = np.stack([records["duration_s"], padding, decode, only_prefill])
        for lane, sums in enumerate(self._lanes):
            mine = records["lane"] == lane
            if mine.any():
                sums.append(_added_up(records["start_s"][mine], spent[:, mine], sums[-1][:, -1]))
        self._note_joins(records)

    def _note_joins(self, records: Fields) -> None:
        """Keep when rows began to decode that had joined, on the decode clock."""
        decodes = np.flatnonzero((records["lane"] == 0) & (records["rows"] + records["held_rows"] > 0))
        steps = records["steps"][decodes]
        clocks = self._clock + np.cumsum(steps) - steps
        joined = records["inserted_rows"][decodes] > 0
        self._joins.append(np.stack([clocks[joined], records["start_s"][decodes][joined]]))
        self._clock += int(steps.sum())

    def parts(self, answers: RequestLog) -> dict[str, Array]:
        """Return the seconds of each part, float64 [requests] by column name; NaN of an unfinished request."""
        arrival, scheduled, first, last, finish = (
            np.asarray(times, dtype=np.float64)
            for times in (
                answers.arrival_s,
                answers.first_scheduled_s,
                answers.first_token_s,
                answers.last_token_s,
                answers.finish_s,
            )
        )
        batch, prefill_lane = (_joined(sums) for sums in self._lanes)
        prefill_lane = prefill_lane if prefill_lane.shape[1] > 1 else batch
        clock = np.asarray(answers.join_clock)
        began = np.where(clock >= 0, self._start_of(clock), first)
        prefill_padding = _between(prefill_lane, scheduled, first)[0]
        stalled_early = _between(batch, first, began)[2]
        padding, decode, _ = _between(batch, began, last)
        absent, absent_padding, absent_decode = self._absence(answers, batch, len(arrival))
        padding, decode = padding - absent_padding, decode - absent_decode
        stall = stalled_early + last - began - absent - padding - decode
        stall[np.abs(stall) < _ROUNDING_S] = 0.0  # a difference of sums
        parts = {
            "queue": scheduled - arrival,
            "prefill": first - scheduled - prefill_padding,
            "ready": began - first - stalled_early,
            "decode": decode,
            "stall": stall,
            "padding": prefill_padding + padding,
            "preemption": absent,
            "release": finish - last,
        }
        unfinished = np.isnan(finish)
        return {part_column(name): np.where(unfinished, np.nan, seconds) for name, seconds in parts.items()}

    def _start_of(self, clocks: npt.NDArray[np.int64]) -> Array:
        """Return when the decode steps with these clocks, at which rows joined, began; NaN where none did."""
        joins, start = np.concatenate([np.zeros((2, 0)), *self._joins], axis=1)
        if not len(joins):
            return np.full(len(clocks), np.nan)
        place = np.minimum(np.searchsorted(joins, clocks), len(joins) - 1)
        return np.where(joins[place] == clocks, start[place], np.nan)

    def _absence(self, answers: RequestLog, batch: Array, requests: int) -> Array:
        """Return seconds out of the batch between two tokens, and padding and decode in them, [3, requests]."""
        rejoined, clocks, left_s = _columns(answers.rejoins)
        recomputed, before_s, after_s = _columns(answers.recomputed)
        who = np.concatenate([rejoined, recomputed]).astype(np.int64)
        begin = np.concatenate([left_s, before_s])
        end = np.concatenate([self._start_of(clocks.astype(np.int64)), after_s])
        returned = np.isfinite(end)
        who, begin, end = who[returned], begin[returned], end[returned]
        padding, decode, _ = _between(batch, begin, end)
        return np.stack([np.bincount(who, values, requests) for values in (end - begin, padding, decode)])


def part_column(part: str) -> str:
    """Return the column of `requests.parquet` that holds the seconds of a part."""
    return f"{part}_part_s"


def split(columns: Columns) -> Mapping[str, float | None]:
    """Return the parts of the mean request, and those of the one at the 99th percentile of E2E (nearest rank), in ms.

    Args:
        columns: Of n requests, `e2e_s` and those of `Breakdown.parts`.
    """
    finished = np.flatnonzero(np.isfinite(columns["e2e_s"]))
    if not len(finished):
        return {f"{which}_split_{name}_ms": None for which in ("mean", "p99") for name in PARTS}
    tail = p99_request(columns["e2e_s"])
    seconds = {name: columns[part_column(name)] for name in PARTS}
    means = {f"mean_split_{name}_ms": float(values[finished].mean()) * 1e3 for name, values in seconds.items()}
    return means | {f"p99_split_{name}_ms": float(values[tail]) * 1e3 for name, values in seconds.items()}


def p99_request(e2e_s: Array) -> int:
    """Return the request at the 99th percentile of E2E: the nearest rank, of ties the first to arrive."""
    finished = np.flatnonzero(np.isfinite(e2e_s))
    order = finished[np.argsort(e2e_s[finished], kind="stable")]
    return int(order[-(-99 * len(order) // 100) - 1])


def _added_up(start: Array, spent: Array, before: Array) -> Array:
    """Continue the sums of a lane by the end of each record, and by its start where the lane idled before.

    Args:
        start: float64 [n], when records began.
        spent: float64 [4, n], their duration, and what of it is added up.
        before: float64 [4], the last point so far: a time, and the sums by then.
    """
    end, sums = start + spent[0], np.cumsum(np.column_stack([before[1:], spent[1:]]), axis=1)
    after_idling = np.flatnonzero(start > np.concatenate([before[:1], end[:-1]]))
    points = np.concatenate([end[None], sums[:, 1:]])
    resumed = np.concatenate([start[None, after_idling], sums[:, after_idling]])
    return np.insert(points, after_idling, resumed, axis=1)


def _joined(sums: list[Array]) -> Array:
    return np.concatenate(sums, axis=1)


def _between(sums: Array, begin: Array, end: Array) -> Array:
    """Return how much three sums (padding, decode, only prefill) grew from each time to another, float64 [3, n]."""
    times, *values = sums
    return np.stack([np.interp(end, times, value) - np.interp(begin, times, value) for value in values])


def _columns(rows: Sequence[tuple[Any, ...]]) -> Array:
    return np.array(rows, dtype=np.float64).reshape(-1, 3).T
