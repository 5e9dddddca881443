"""The trace of a run that https://ui.perfetto.dev opens: what the GPU did, who waited for it, each request's life.

Chrome trace-event format, times in microseconds to three decimals. Process "GPU" has a track per lane, one that shows
when live rows stalled because their GPU only prefilled others, and counters. Process "requests" has a track per request
with nested slices: queued, prefill, ready (waiting for its row), decode. A preempted request's absence is part of its
decode; so is, where answers leave with their batch, the wait for that.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Slice
from sim.engine.request_log import RequestLog
from sim.output.writing import SinkFile, writing
from workloads.requests import Requests

MAX_RECORDS = 200_000
MAX_REQUESTS = 20_000

GPU, REQUESTS = 1, 2
STALL = 2
PHASES = ("queued", "prefill", "ready", "decode")
_TRACKS = {0: "lane 0: batch", 1: "lane 1: prefill", STALL: "stalled rows"}
_COUNTS = ("steps", "rows", "held_rows", "inserted_rows", "prefill_rows", "prefill_tokens", "prefill_padding")
_SHOWN = (*_COUNTS, "insertion_padding", "kv_read", "kv_padding", "kv_copied", "kv_host", "dummy_rows", "kv_dummy")
_NAMES = np.array(["move KV", "decode", "prefill", "mixed"])

Ticks = npt.NDArray[np.int64]


def _nanoseconds(seconds: Any) -> Ticks:
    return np.rint(np.asarray(seconds) * 1e9).astype(np.int64)


def _us(nanoseconds: int) -> str:
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03}"


class Timeline(SinkFile):
    """A log sink that writes `timeline.json`; ask `close` for the requests' part once the run is over.

    As a context manager it leaves no file when its block fails or ends without `close`.

    Attributes:
        notes: Plain sentences on what was left out, for the user to read.
    """

    def __init__(self, path: Path, max_records: int = MAX_RECORDS, max_requests: int = MAX_REQUESTS) -> None:
        """Open the file.

        Args:
            path: The file.
            max_records: Iteration records to keep, the first of the run; browsers cannot show millions.
            max_requests: Requests to keep, the first to arrive, and only what befell them within those records.

        Raises:
            InputError: if the file cannot be written.
        """
        super().__init__(path)
        self.notes: list[str] = []
        self._max_records = max_records
        self._max_requests = max_requests
        self._records = 0
        self._dropped = 0
        self._end = 0
        self._lane_end = [0, 0]
        self._clock = 0
        self._decodes: list[tuple[Ticks, Ticks]] = []
        with writing(path):
            self._file = self._draft.part.open("w", encoding="ascii")
            self._file.write('{"displayTimeUnit":"ms","traceEvents":[\n' + ",\n".join(_metadata()))

    def __call__(self, records: Slice) -> None:
        """Write a slice."""
        kept = records[: self._max_records - self._records]
        self._records += len(kept)
        self._dropped += len(records) - len(kept)
        for lane in (0, 1):
            mine = kept[kept["lane"] == lane]
            if len(mine):
                start, end = self._bounds(mine, lane)
                self._write(_slices(mine, start, end, lane))
                self._write(_counters(mine, start, end, lane))
                if lane == 0:
                    self._remember_clock(mine, start)

    def _bounds(self, records: Slice, lane: int) -> tuple[Ticks, Ticks]:
        """Starts and ends in nanoseconds: rounding may not make neighbours overlap."""
        start, end = (_nanoseconds(records["start_s"] + length) for length in (0, records["duration_s"]))
        start = np.maximum(start, np.append(self._lane_end[lane], end[:-1]))
        end = np.maximum(start, end)
        self._lane_end[lane] = int(end[-1])
        self._end = max(self._end, int(end[-1]))
        return start, end

    def _remember_clock(self, records: Slice, start: Ticks) -> None:
        """Keep when each stretch of decode steps began, on the decode clock: that is when rows join."""
        decodes = records["rows"] + records["held_rows"] > 0
        after = self._clock + np.cumsum(records["steps"][decodes])
        self._decodes.append((after - records["steps"][decodes], start[decodes]))
        self._clock = int(after[-1]) if len(after) else self._clock

    def _write(self, events: Iterator[str]) -> None:
        with writing(self._path):
            self._file.writelines(",\n" + event for event in events)

    def close(self, requests: Requests, answers: RequestLog) -> None:
        """Write the requests' lives and complete the file.

        Raises:
            InputError: if the file cannot be written.
        """
        marks = self._marks(answers)
        horizon = self._end if self._dropped else max(self._end, int(marks.max(initial=0)))
        self._write(_lives(requests, answers, marks, horizon))
        if self._dropped:
            self.notes.append(
                f"{self._path.name} shows the first {self._records:,} of {self._records + self._dropped:,} iteration "
                f"records, {self._end / 1e9:,.1f} s of simulated time"
            )
        if len(requests) > self._max_requests:
            self.notes.append(f"{self._path.name} shows the first {self._max_requests:,} of {len(requests):,} requests")
        with writing(self._path):
            self._file.write('\n],"otherData":' + json.dumps({"notes": "; ".join(self.notes)}) + "}\n")
        self.complete()

    def _marks(self, answers: RequestLog) -> Ticks:
        """int64 [requests kept, 5] nanoseconds of arrival, scheduling, first token, joining, end; -1 for never."""
        kept = slice(0, self._max_requests)
        columns = (answers.arrival_s, answers.first_scheduled_s, answers.first_token_s, answers.finish_s)
        times = [np.asarray(column)[kept] for column in columns]
        marks = [np.where(np.isnan(column), -1, _nanoseconds(np.nan_to_num(column))) for column in times]
        return np.stack([*marks[:3], self._joined(np.asarray(answers.join_clock)[kept]), marks[3]], axis=1)

    def _joined(self, clocks: Ticks) -> Ticks:
        """Return when the decode steps with these clocks began, in nanoseconds; -1 for those that were not kept."""
        if not self._decodes:
            return np.full(len(clocks), -1)
        joins, start = (np.concatenate(parts) for parts in zip(*self._decodes, strict=True))
        place = np.minimum(np.searchsorted(joins, clocks), len(joins) - 1)
        return np.where(joins[place] == clocks, start[place], -1)


def _metadata() -> list[str]:
    events = [{"ph": "M", "pid": GPU, "name": "process_name", "args": {"name": "GPU"}}]
    events += [{"ph": "M", "pid": REQUESTS, "name": "process_name", "args": {"name": "requests"}}]
    for track, name in _TRACKS.items():
        events.append({"ph": "M", "pid": GPU, "tid": track, "name": "thread_name", "args": {"name": name}})
    return [json.dumps(event, separators=(",", ":")) for event in events]


def _slices(records: Slice, start: Ticks, end: Ticks, lane: int) -> Iterator[str]:
    """One slice per record, and one on the stall track for a prefill that made the live rows of its lane wait."""
    decodes = records["rows"] + records["held_rows"] > 0
    kinds = _NAMES[decodes + 2 * (records["prefill_rows"] > 0)].tolist()
    stalled = np.where(decodes | (lane > 0), 0, records["live_rows"]).tolist()
    args = zip(*(records[name].tolist() for name in _SHOWN), strict=True)
    for name, at, until, values, rows in zip(kinds, start.tolist(), end.tolist(), args, stalled, strict=True):
        span = f'"ph":"X","pid":{GPU},"ts":{_us(at)},"dur":{_us(until - at)}'
        counts = ",".join(f'"{key}":{value}' for key, value in zip(_SHOWN, values, strict=True) if value)
        yield f'{{"name":"{name}","tid":{lane},{span},"args":{{{counts}}}}}'
        if rows:
            yield f'{{"name":"live rows wait","tid":{STALL},{span},"args":{{"rows":{rows}}}}}'


def _counters(records: Slice, start: Ticks, end: Ticks, lane: int) -> Iterator[str]:
    """Values as each record began, and no live rows where the batch's lane falls idle."""
    values = zip(*(records[name].tolist() for name in ("live_rows", "waiting", "kv_tokens")), strict=True)
    idle = (np.append(end[:-1] < start[1:], True) & (lane == 0)).tolist()
    for at, until, (rows, waiting, kv), rests in zip(start.tolist(), end.tolist(), values, idle, strict=True):
        counts = f'"live rows":{rows},"waiting":{waiting},"KV tokens":{kv}'
        yield f'{{"ph":"C","pid":{GPU},"name":"batch","ts":{_us(at)},"args":{{{counts}}}}}'
        if rests:
            yield f'{{"ph":"C","pid":{GPU},"name":"batch","ts":{_us(until)},"args":{{"live rows":0}}}}'


def _lives(requests: Requests, answers: RequestLog, marks: Ticks, horizon: int) -> Iterator[str]:
    """Nested slices of each request, in order; a life that goes on at `horizon` is cut there."""
    facts = zip(requests.prompt_tokens.tolist(), requests.output_tokens.tolist(), marks.tolist(), strict=False)
    for request, (prompt, output, times) in enumerate(facts):
        if times[0] > horizon:
            continue
        common = f'"cat":"request","id":{request},"pid":{REQUESTS},"tid":0'
        begun, done = times[0], times[-1] if 0 <= times[-1] <= horizon else horizon
        if request in answers.rejected:
            yield f'{{"ph":"n","name":"request {request} rejected",{common},"ts":{_us(begun)}}}'
            continue
        state = "finished" if 0 <= times[-1] <= horizon else "cut here"
        counts = f'"prompt_tokens":{prompt},"output_tokens":{output},"status":"{state}"'
        counts += f',"preemptions":{answers.preemptions.get(request, 0)}'
        yield f'{{"ph":"b","name":"request {request}",{common},"ts":{_us(begun)},"args":{{{counts}}}}}'
        for name, at, until in _phases(times, done):
            yield f'{{"ph":"b","name":"{name}",{common},"ts":{_us(at)}}}'
            yield f'{{"ph":"e","name":"{name}",{common},"ts":{_us(until)}}}'
        yield f'{{"ph":"e","name":"request {request}",{common},"ts":{_us(done)}}}'


def _phases(times: list[int], done: int) -> Iterator[tuple[str, int, int]]:
    """Split a life at the times that are known and not after its end; phases that take no time are left out."""
    bounds = [min(time, done) if time >= 0 else done for time in times[:4]] + [done]
    for name, at, until in zip(PHASES, bounds[:-1], bounds[1:], strict=True):
        if until > at:
            yield name, at, until
