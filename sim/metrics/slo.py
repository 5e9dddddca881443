"""What a request must meet."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from policies.checks import Checked, InputError, Number
from sim.metrics.request_columns import Columns


def _limit(option: str, value: object) -> None:
    try:
        Number(0, above=True)(option, value)
    except InputError:
        raise InputError(f"{option}={value}: must be a positive number of seconds, or null for no limit") from None


@dataclass(frozen=True)
class SLO(Checked, option="slo"):
    """Service-level objective: a request meets it if no latency exceeds its limit; None is no limit.

    Attributes:
        ttft_s: Most seconds to the first token.
        tpot_s: Most seconds per token after the first.

    Raises:
        InputError: if a limit is not a positive number.
    """

    ttft_s: Annotated[float | None, _limit] = None
    tpot_s: Annotated[float | None, _limit] = None

    def met(self, columns: Columns, release_with_batch: bool) -> npt.NDArray[np.bool_] | None:
        """Return which requests [n] finished and met it; None without any limit.

        Answers that are released with their batch have no first token of their own: they are judged by E2E, and by
        E2E per output token.
        """
        if self.ttft_s is None and self.tpot_s is None:
            return None
        met = np.isfinite(columns["e2e_s"])
        if self.ttft_s is not None:
            met &= columns["ttft_s"] <= self.ttft_s
        if self.tpot_s is not None:
            per_token = columns["normalized_latency_s" if release_with_batch else "tpot_s"]
            met &= ~(per_token > self.tpot_s)  # an answer of one token has no TPOT to miss
        return met
