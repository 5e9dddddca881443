"""The requests of one run, as parallel arrays, and the protocol of whatever builds them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.job import HASHED

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
HashArray = NDArray[np.object_]

MAX_TOKENS = 2**31 - 1
"""The largest token count of one request that is taken seriously."""


@dataclass(frozen=True, eq=False)
class Requests:
    """All requests of one run, sorted by arrival; the index of a request is its `request_id`.

    Attributes:
        arrival_s: float64 [n], seconds from the start of the run, ascending; all zeros in a closed loop.
        prompt_tokens: int64 [n], tokens of the prompt, the shared prefix included; at least 1.
        output_tokens: int64 [n], tokens of the true answer; at least 1. Hidden from policies.
        max_new_tokens: int64 [n], the output length declared to the scheduler; at least `output_tokens`.
        priority: int64 [n], lower is more urgent; 0 unless given.
        prefix_id: int64 [n], which shared prefix the prompt starts with; -1 for none.
        prefix_tokens: int64 [n], tokens of that prefix; 0 for none.
        prefix_hashes: object [n] of tuples, what identifies each `hash_tokens` tokens of a prompt together with all
            before them (see `policies.job.Job`); None when that is not known.
        hash_tokens: tokens that one of these hashes stands for.
        concurrency: clients of a closed loop, each sending its next request when its last one is answered; None
            when requests arrive by the clock.
        name: the workload's name.
        notes: plain sentences on what was done to the input, for the user to read.
        declared: how `max_new_tokens` was declared, such as `max (cap 2048)`.
        arrivals: how requests arrive, such as `poisson, 4 requests/s`.

    Raises:
        ValueError: if the arrays do not fit together or hold what the above excludes.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    max_new_tokens: IntArray
    priority: IntArray
    prefix_id: IntArray
    prefix_tokens: IntArray
    prefix_hashes: HashArray | None = None
    hash_tokens: int = HASHED
    concurrency: int | None = None
    name: str = ""
    notes: tuple[str, ...] = ()
    declared: str = ""
    arrivals: str = ""

    def __post_init__(self) -> None:
        """Check what every consumer relies on."""
        self._check_shapes()
        rules = {
            "arrival_s must be finite and not negative": np.isfinite(self.arrival_s) & (self.arrival_s >= 0),
            "arrival_s must be ascending": np.diff(self.arrival_s) >= 0,
            "prompt_tokens must be at least 1": self.prompt_tokens >= 1,
            "output_tokens must be at least 1": self.output_tokens >= 1,
            "max_new_tokens must be at least output_tokens": self.max_new_tokens >= self.output_tokens,
            "prefix_id must be -1 or more": self.prefix_id >= -1,
            "prefix_tokens must be from 0 to prompt_tokens": (
                (self.prefix_tokens >= 0) & (self.prefix_tokens <= self.prompt_tokens)
            ),
            "prefix_tokens must be 0 without a prefix_id": (self.prefix_id >= 0) | (self.prefix_tokens == 0),
        }
        for rule, holds in rules.items():
            if not holds.all():
                raise ValueError(f"{rule}; request {int(np.argmin(holds))} does not comply")
        if self.concurrency is not None and (self.concurrency < 1 or self.arrival_s.any()):
            raise ValueError("a closed loop needs a concurrency of at least 1 and arrival_s all zero")

    @property
    def share_prefixes(self) -> bool:
        """Whether prompts are known to begin with what others begin with too."""
        return self.prefix_hashes is not None or bool(self.prefix_tokens.any())

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival_s)

    def _check_shapes(self) -> None:
        if self.prefix_hashes is not None and self.prefix_hashes.shape != (len(self),):
            raise ValueError(f"prefix_hashes must be object [{len(self)}], not {self.prefix_hashes.shape}")
        counts = ("prompt_tokens", "output_tokens", "max_new_tokens", "priority", "prefix_id", "prefix_tokens")
        expected = {"arrival_s": np.float64} | dict.fromkeys(counts, np.int64)
        for name, dtype in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (len(self),):
                raise ValueError(f"{name} must be {dtype.__name__} [{len(self)}], not {array.dtype} {array.shape}")


class Workload(Protocol):
    """Anything that can build the requests of a run."""

    def build(self, seed: int) -> Requests:
        """Build the requests; the same seed gives the same requests, in any process.

        Args:
            seed: whole number, 0 or more, from which all random streams of the workload are derived.

        Raises:
            InputError: if the input or the seed is one that a person must mend.
        """
        ...
