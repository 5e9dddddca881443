"""What the device is told of the rows of a decode step, kept from one step to the next."""

from collections.abc import Sequence

import numpy as np

from real.model.host_memory import Numbers


class Seats:
    """Who sits where, and with what. From step to step, only the numbers change unless somebody comes or goes.

    Attributes:
        requests: Whose each row is.
        inputs: The token generated last of each row, and its tokens in KV memory, int64 [2, rows].
        longest: Most tokens that a row has in KV memory.
    """

    def __init__(self, requests: Sequence[int] = (), last: Sequence[int] = (), lengths: Sequence[int] = ()) -> None:
        """Seat requests, row by row."""
        self.requests = list(requests)
        self.inputs: Numbers = np.array([last, lengths], dtype=np.int64)
        self.longest = max(lengths, default=0)

    def advance(self, tokens: Numbers) -> None:
        """Every row has computed its token, and generated the next."""
        ids, lengths = self.inputs
        ids[:] = tokens
        lengths += 1
        self.longest += 1
