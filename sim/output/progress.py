"""A progress bar on stderr for runs that last longer than a moment."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

DELAY_S = 2.0
"""Wall time after which the bar appears."""

PLAIN_INTERVAL_S = 10.0
"""Wall time between two lines where stderr is not a terminal."""


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that matter, such as `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 1440 else f"{minutes / 1440:.1f} days"


class Progress:
    """Shows how far a run is; a context manager that leaves nothing behind on a terminal.

    Nothing is shown before `DELAY_S`. It is drawn only by `update`, in no thread of its own, so that it costs nothing
    between two calls. Where stderr is not a terminal, a plain line is printed every `PLAIN_INTERVAL_S` at most.

    Attributes:
        total: What is finished in the end; it may be set as long as nothing is.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None, unit: str = "requests") -> None:
        """Prepare to show `label` and the share of a `total`, on stderr unless another stream is given."""
        self._label = label
        self.total = total
        self._unit = unit
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._due = self._started + (DELAY_S if self._terminal else PLAIN_INTERVAL_S)
        self._bar: Bar | None = None

    def update(self, finished: int, now_s: float | None = None, tokens: int | None = None, remark: str = "") -> None:
        """Tell how much is finished; cheap enough for every slice of a log.

        Args:
            finished: How many.
            now_s: The simulated time, or that since the start of a run on the clock; None: neither matters.
            tokens: What a run on the clock has generated.
            remark: What else there is to say.
        """
        now = time.monotonic()
        if now < self._due:
            return
        rate = finished / (now - self._started)
        left = duration((self.total - finished) / rate) if finished else "unknown"
        paces = []
        if now_s is not None and tokens:
            paces = [f"{tokens / now_s:,.0f} tokens/s"]
        elif now_s is not None:
            paces = [f"{duration(now_s)} simulated", f"{rate:,.0f} {self._unit}/s"]
        facts = ", ".join([*paces, f"{left} left", *([remark] if remark else [])])
        if self._terminal:
            self._due = now + 0.1
            self._draw(finished, facts)
        else:
            self._due = now + PLAIN_INTERVAL_S
            print(f"{self._label}: {finished:,} of {self.total:,} {self._unit}, {facts}", file=self._stream, flush=True)

    def _draw(self, finished: int, facts: str) -> None:
        if self._bar is None:
            self._bar = self._start()
        self._bar.update(self._bar.task_ids[0], completed=finished, facts=facts, refresh=True)

    def _start(self) -> "Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        bar = Bar(*columns, console=Console(file=self._stream), auto_refresh=False, transient=True)
        bar.add_task(self._label, total=self.total, facts="")
        bar.start()
        return bar

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        """Return the progress."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Take the bar away, whatever happened."""
        self.close()
