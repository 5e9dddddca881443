"""The part of a run before its drain, when the server was never short of requests to take."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.answers import Answers
from sim.log import Fields, Slice
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
    """From the start of the run to the start of its drain, when the last newcomer's prefill begins.

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
        found = np.searchsorted(self._past[0], times * (1 + _ROUNDING), "right") - 1
        return np.maximum(found, 0)

    def window(self, requests: Requests, answers: Answers) -> Window:
        """Return the window, once the run is over.

        Requests are counted by the share of their tokens in the window rather than by completions, since those that
        run when it ends were served in part. A request's tokens by then follow from the decode clock, exactly; for
        one that was preempted and ends later they are interpolated in time between its first and last token.
        """
        if not self._prefills:
            return Window(0.0, 0, 0.0, 0.0)
        prefills = np.concatenate(self._prefills, axis=1)
        end = float(np.nanmax(np.asarray(answers.first_scheduled_s)))
        last = max(int(np.searchsorted(prefills[0], end, "right")) - 1, 0)
        _, clock, decoded, waited = prefills[:, last]
        tokens = decoded + prefill_tokens_by(end, answers)
        shares = tokens_by(end, int(clock), requests, answers) / requests.output_tokens
        return Window(end, round(tokens), float(shares.sum()), float(waited))


def prefill_tokens_by(time_s: float, answers: Answers) -> int:
    """Return how many tokens prefills had given by a time: each request's first, and one after each drop."""
    first = np.asarray(answers.first_token_s) <= time_s
    return int(first.sum()) + sum(token_s <= time_s for _, token_s in answers.recomputed)


def tokens_by(time_s: float, clock: int, requests: Requests, answers: Answers) -> Array:
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
