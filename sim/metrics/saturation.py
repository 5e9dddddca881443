"""The part of a run before its drain, when the server was never short of requests to take."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.engine.iteration_log import Fields, Slice
from sim.engine.request_log import RequestLog
from workloads.requests import Requests

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WAITING_SHARE = 0.9
"""Least share of the window with requests left waiting, of a saturated run."""
WINDOW_SHARE = 0.5
"""Least share of the makespan that its window takes: a run that is mostly drain shows the drain."""

_ROUNDING = 1e-12
"""Relative error of a time that was summed up on the way."""


@dataclass(frozen=True)
class Window:
    """From the start of what is counted to the start of the drain, when the last newcomer's prefill begins.

    Attributes:
        duration_s: Its length.
        output_tokens: Tokens generated in it: by every decode step and prefill that ended in it.
        requests: Sum over the requests of the share of their output tokens that was generated in it.
        waited_s: How much of it requests were left waiting.
    """

    duration_s: float
    output_tokens: int
    requests: float
    waited_s: float

    @property
    def waiting_share(self) -> float:
        """Share of the window during which requests were left waiting; 0 of an empty one."""
        return self.waited_s / self.duration_s if self.duration_s else 0.0

    def saturated(self, makespan_s: float) -> bool:
        """Whether requests were left waiting for 90 % of the window, and it is at least half of the makespan."""
        return self.waiting_share >= WAITING_SHARE and self.duration_s >= WINDOW_SHARE * makespan_s


class _Progress(NamedTuple):
    """How far a run has come: decode clock, row steps, seconds with requests left waiting."""

    clock: int
    decoded: float
    waited_s: float


class Saturation:
    """A log sink that notes, at the start of every prefill, how far the run has come.

    Requests are *left waiting* while the last prefill to begin could not take all that were in the queue, for want
    of rows, of memory or of budget. One that merely waits for the iteration in progress is not: below saturation
    that happens as well.
    """

    def __init__(self) -> None:
        # Lane 0 so far, as far back as a prefill can still begin: end of a record, decode clock and row steps by then.
        self._past = np.zeros((3, 1))
        # Of every prefill: start, decode clock, row steps and time with requests left waiting by then.
        self._prefills: list[Array] = []
        self._start_s = self._waited_s = 0.0
        self._left_waiting = False

    def __call__(self, records: Slice | Fields) -> None:
        """Add a slice."""
        decodes = np.flatnonzero((records["rows"] > 0) & (records["lane"] == 0))
        if len(decodes):
            start, duration, steps, rows = (
                records[name][decodes] for name in ("start_s", "duration_s", "steps", "rows")
            )
            done = np.cumsum([steps, rows * steps], axis=1) + self._past[1:, -1:]
            self._past = np.concatenate([self._past, [start + duration, *done]], axis=1)
        prefills = np.flatnonzero(records["prefill_rows"])
        if len(prefills):
            self._add_prefills(*(records[name][prefills] for name in ("start_s", "duration_s", "waiting")))

    def _add_prefills(self, start: Array, duration: Array, waiting: Ints) -> None:
        _, clock, decoded = self._past[:, self._ended_by(start)]
        left_waiting = np.concatenate([[self._left_waiting], waiting > 0])
        waited = self._waited_s + np.cumsum(np.diff(start, prepend=self._start_s) * left_waiting[:-1])
        self._prefills.append(np.stack([start, clock, decoded, waited]))
        self._start_s, self._waited_s = float(start[-1]), float(waited[-1])
        self._left_waiting = bool(left_waiting[-1])
        # No later prefill begins before this one has ended.
        self._past = self._past[:, int(self._ended_by(start[-1:] + duration[-1:])[0]) :]

    def _ended_by(self, times: Array) -> Ints:
        """Index of the last record of the past that had ended by each time."""
        last = np.searchsorted(self._past[0], times * (1 + _ROUNDING), "right") - 1
        return np.maximum(last, 0)

    def window(self, requests: Requests, answers: RequestLog, begin_s: float = 0.0) -> Window:
        """Return the window that begins at 0 or with the prefill that begins at `begin_s`, once the run is over.

        Requests are counted by the share of their tokens in the window rather than by completions, since those that
        run when it ends were served in part. A request's tokens by then follow from the decode clock, exactly; for
        one that was preempted and ends later they are interpolated in time between its first and last token.
        """
        if not self._prefills:
            return Window(0.0, 0, 0.0, 0.0)
        end_s = float(np.nanmax(np.asarray(answers.first_scheduled_s)))
        if end_s <= begin_s:
            return Window(0.0, 0, 0.0, 0.0)
        begin, end = self._progress(begin_s), self._progress(end_s)
        tokens = (end.decoded + prefill_tokens_by(end_s, answers)) - (
            begin.decoded + prefill_tokens_by(begin_s, answers)
        )
        shares = tokens_by(end_s, end.clock, requests, answers) / requests.output_tokens
        if begin_s:
            shares -= tokens_by(begin_s, begin.clock, requests, answers) / requests.output_tokens
        return Window(end_s - begin_s, round(tokens), float(shares.sum()), end.waited_s - begin.waited_s)

    def tokens_before(self, begin_s: float, requests: Requests, answers: RequestLog) -> Array:
        """Return how many tokens each request (float64 [n]) had when the prefill began that began at `begin_s`."""
        if not begin_s or not self._prefills:
            return np.zeros(len(requests))
        return tokens_by(begin_s, self._progress(begin_s).clock, requests, answers)

    def _progress(self, time_s: float) -> _Progress:
        """How far the run had come when the last prefill began that began by then; nowhere at 0."""
        if not time_s:
            return _Progress(0, 0.0, 0.0)
        prefills = np.concatenate(self._prefills, axis=1)
        last = max(int(np.searchsorted(prefills[0], time_s, "right")) - 1, 0)
        _, clock, decoded, waited = prefills[:, last]
        return _Progress(int(clock), float(decoded), float(waited))


def prefill_tokens_by(time_s: float, answers: RequestLog) -> int:
    """Return how many tokens prefills had given by a time: each request's first, and one after each drop."""
    first = np.asarray(answers.first_token_s) <= time_s
    return int(first.sum()) + sum(token_s <= time_s for _, _, token_s in answers.recomputed)


def tokens_by(time_s: float, clock: int, requests: Requests, answers: RequestLog) -> Array:
    """Return how many tokens each request (float64 [n]) had by a time at which the decode clock stood at `clock`."""
    output = requests.output_tokens
    first, finish = np.asarray(answers.first_token_s), np.asarray(answers.finish_s)
    joined = np.asarray(answers.join_clock)
    decoded = np.where(joined >= 0, np.clip(clock - joined, 0, output - 1), 0)
    tokens = np.where(first <= time_s, 1.0 + decoded, 0.0)
    preempted = np.fromiter(answers.preemptions, dtype=np.int64)
    preempted = preempted[first[preempted] <= time_s]
    begin, end, total = first[preempted], finish[preempted], output[preempted]
    with np.errstate(invalid="ignore", divide="ignore"):
        progress = np.where(end <= time_s, 1.0, (time_s - begin) / (end - begin))
    tokens[preempted] = 1 + (total - 1) * np.nan_to_num(progress)
    return tokens
