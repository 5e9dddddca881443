"""Time in a real run."""

import time


class WallClock:
    """Seconds since it was started."""

    def __init__(self) -> None:
        """Stand at zero."""
        self._start_s = 0.0

    def start(self) -> None:
        """Begin to run."""
        self._start_s = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start_s

    def skip(self, seconds: float) -> None:
        """Take so much time, just passed, as not having been."""
        self._start_s += seconds

    def sleep_until(self, moment: float) -> None:
        """Let the time pass until then."""
        time.sleep(max(0.0, moment - self.now()))
