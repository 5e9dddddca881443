"""The small workloads that a profile is measured on: each makes an engine compute iterations of a certain shape."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.ledger.opening import book_of
from policies.ledger.rectangle import HEADROOM, Rectangle
from policies.policy import Policy
from workloads.requests import Requests

DECODE_STEPS = 8
"""Steps that a batch decodes at one window."""

SHORTEST = 4
"""Tokens of the shortest prompt."""

CHURN = "churn"
"""How the names of shapes begin whose requests come and go."""

MOST_SLOTS = 2048
"""Most slots of a measured prefill: beyond it time is linear."""


class Shape(NamedTuple):
    """A workload, all at once, and what it is for.

    Attributes:
        name: What it is for, with its numbers.
        prompts: Tokens of every prompt.
        outputs: Tokens of every answer.
    """

    name: str
    prompts: list[int]
    outputs: list[int]

    def kv_tokens(self, policy: Policy) -> int:
        """Return the KV memory with which a policy can fill its batch and, if it may have to, copy it elsewhere."""
        traits = policy.traits
        rows = min(len(self.prompts), policy.max_batch) + 1
        columns = max(self.prompts) + max(self.outputs) + (HEADROOM if traits.reserve == "window" else 0)
        return (2 if issubclass(book_of(traits), Rectangle) else 1) * rows * columns

    def requests(self) -> Requests:
        """Return the workload."""
        count = len(self.prompts)
        prompts, outputs = np.array(self.prompts, dtype=np.int64), np.array(self.outputs, dtype=np.int64)
        none = np.zeros(count, dtype=np.int64)
        return Requests(
            arrival_s=np.zeros(count),
            prompt_tokens=prompts,
            output_tokens=outputs,
            max_new_tokens=outputs,
            priority=none,
            prefix_id=none - 1,
            prefix_tokens=none,
            name=self.name,
        )


def shapes(max_batch: int, longest: int, quick: bool, seed: int) -> list[Shape]:
    """Return the shapes of a profile.

    Args:
        max_batch: Most rows.
        longest: Tokens of the longest prompt.
        quick: Whether a coarse grid will do.
        seed: Of the random lengths.
    """
    rng = np.random.default_rng(seed)
    rows = sorted({1, max_batch // 2 or 1, max_batch}) if quick else row_counts(max_batch)
    windows = _steps(4 * SHORTEST, longest, 16.0 if quick else 4.0)
    grid = [*_prefill(max_batch, longest, quick), *_decode(rows, windows, rng)]
    grid += [_staircase(max_batch, window, rng) for window in windows[:: max(1, len(windows) - 1)]]
    return grid + [_churn(place, max_batch, longest, rng) for place in range(2 if quick else 8)]


def overflow() -> tuple[Shape, int]:
    """Return a shape for a rectangle that follows its window, and the KV memory in which it must park its rows.

    Two rows fit with the columns that they are first given, and there is no room for more columns.
    """
    columns = SHORTEST + 1 + HEADROOM
    return Shape("overflow", [SHORTEST] * 2, [HEADROOM + 2 * SHORTEST] * 2), 3 * columns


def row_counts(most: int) -> list[int]:
    """Return the row counts that are measured: all up to 8, then two to each doubling."""
    counts = [*range(1, min(most, 8) + 1)]
    while counts[-1] < most:
        last = counts[-1]
        counts.append(min(most, last + (1 << (last.bit_length() - 2))))
    return counts


def _steps(first: int, last: int, factor: float) -> list[int]:
    """Return whole numbers from the first to the last, about a factor apart."""
    count = max(2, 1 + round(np.log(max(last, first) / first) / np.log(factor)))
    return sorted({round(float(step)) for step in np.geomspace(min(first, last), last, count)})


def _prefill(max_batch: int, longest: int, quick: bool) -> Iterator[Shape]:
    """Groups of equal prompts that answer with one token."""
    for length in _steps(min(SHORTEST, longest), longest, 16.0 if quick else 2.5):
        for count in sorted({1, 2, max_batch}) if quick else sorted({1, 2, min(4, max_batch), max_batch}):
            if count == 1 or (count <= max_batch and count * length <= MOST_SLOTS):
                yield Shape(f"prefill {count} x {length}", [length] * count, [1] * count)


def _decode(rows: list[int], windows: list[int], rng: np.random.Generator) -> Iterator[Shape]:
    """Batches that keep their rows for some steps, prompts between half a window and all of it."""
    for window in windows:
        for count in rows:
            prompts = rng.integers(max(1, window // 2), window + 1, count)
            yield Shape(f"decode {count} x {window}", prompts.tolist(), [1 + DECODE_STEPS] * count)


def _staircase(max_batch: int, window: int, rng: np.random.Generator) -> Shape:
    """A batch that loses one row after the other, in random order."""
    outputs = 2 + 2 * rng.permutation(max_batch)
    prompts = rng.integers(max(1, window // 2), window + 1, max_batch)
    return Shape(f"staircase {max_batch} x {window}", prompts.tolist(), outputs.tolist())


def _churn(place: int, max_batch: int, longest: int, rng: np.random.Generator) -> Shape:
    """Requests of random lengths that come and go: newcomers, holes and mixed iterations."""
    count = 3 * max_batch
    prompts = _log_uniform(rng, SHORTEST, longest, count)
    outputs = _log_uniform(rng, 2, 24, count)
    return Shape(f"{CHURN} {place}", prompts.tolist(), outputs.tolist())


def _log_uniform(rng: np.random.Generator, least: int, most: int, count: int) -> npt.NDArray[np.int64]:
    values = np.exp(rng.uniform(np.log(min(least, most)), np.log(most + 1), count))
    return np.minimum(values.astype(np.int64), most)
