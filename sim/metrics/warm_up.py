"""The start of a run that is not counted, because the system fills up in it."""

import math

import numpy as np

from sim.engine.request_log import RequestLog


class WarmUp:
    """The first requests to arrive: they are served, but neither they nor the time until the others begin count.

    Which requests these are does not depend on the policy, so that policies are compared on the same ones. What is
    counted over time begins when the first prefill begins that is not among as many as there are such requests.

    Attributes:
        requests: How many; 0: everything counts.
    """

    def __init__(self, requests: int = 0) -> None:
        """Leave out so many."""
        self.requests = requests
        self._answers: RequestLog | None = None

    def watch(self, answers: RequestLog) -> None:
        """Know the run that is to warm up."""
        self._answers = answers

    def begin_s(self) -> float:
        """When it is over, in seconds; infinity while that is not known."""
        if not self.requests or self._answers is None:
            return 0.0
        starts = np.asarray(self._answers.first_scheduled_s)
        begun = np.partition(starts, self.requests)[self.requests]  # NaN, of those not begun, comes last
        return math.inf if np.isnan(begun) else float(begun)
