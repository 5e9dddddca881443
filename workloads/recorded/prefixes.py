"""Hashes of prefixes: how many tokens each stands for, and that they say what they must."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.checks import InputError, shown
from policies.job import HASHED
from workloads.requests import HashArray, IntArray

if TYPE_CHECKING:
    from workloads.recorded.table import Table

_USUAL = tuple(1 << power for power in range(4, 14))
"""Tokens per hash that are looked for: block sizes from 16 to 8192."""

_MOST = 1 << 16


def check_hash_tokens(option: str, value: object) -> None:
    """Raise InputError unless this is a block size."""
    if not isinstance(value, int) or isinstance(value, bool) or value % 16 or not 16 <= value <= _MOST:
        raise InputError(f"{option} is {shown(value)}: give a multiple of 16, at most {_MOST}")


def lengths(hashes: HashArray) -> IntArray:
    """Return how many hashes each request has, int64 [n]."""
    return np.array([len(each) for each in hashes], dtype=np.int64)


def deduced_tokens(table: "Table", count: IntArray, prompt_tokens: IntArray) -> tuple[int, str | None]:
    """Return how many tokens a hash stands for, as prompts and their numbers of hashes allow it, and a note on it.

    Args:
        table: the recording, for errors.
        count: int64 [n], hashes of each prompt.
        prompt_tokens: int64 [n].

    Raises:
        InputError: if several block sizes fit but not 512, or only one that is not usual.
    """
    hashed = count > 0
    count, prompt_tokens = count[hashed], prompt_tokens[hashed]
    fitting = [size for size in _USUAL if _fits(size, count, prompt_tokens)]
    if fitting == [HASHED] or not len(count):
        return HASHED, None
    if HASHED in fitting:
        others = ", ".join(str(size) for size in fitting if size != HASHED)
        return HASHED, f"hash_ids taken for one per {HASHED} tokens; {others} fit too: workload.hash_tokens says which"
    if len(fitting) == 1:
        return fitting[0], f"hash_ids are one per {fitting[0]} tokens, as their numbers show"
    fitting = fitting or [size for size in range(16, _USUAL[-1], 16) if _fits(size, count, prompt_tokens)]
    if fitting:
        several = " or ".join(str(size) for size in fitting[:3])
        raise InputError(f"{table.path}: hash_ids may be one per {several} tokens: say which, workload.hash_tokens=N")
    return HASHED, None


def refuse_wrong_counts(
    table: "Table", name: str, count: IntArray, prompt_tokens: IntArray, size: int, asked: NDArray[np.bool_]
) -> None:
    """Raise InputError about the first request with another number of hashes than its prompt can have.

    Args:
        table: the recording.
        name: its column of hashes.
        count: int64 [n], hashes of each prompt.
        prompt_tokens: int64 [n].
        size: tokens that one hash stands for; the last may stand for fewer.
        asked: bool [n], which requests are looked at.
    """
    low, high = prompt_tokens // size, -(-prompt_tokens // size)
    wrong = asked & (count > 0) & ((count < low) | (count > high))
    if wrong.any():
        row = int(np.argmax(wrong))
        right = f"{low[row]}" if low[row] == high[row] else f"{low[row]} or {high[row]}"
        table.refuse(
            name,
            wrong,
            f"{right} hashes, one per {size} of its {prompt_tokens[row]} tokens, but {count[row]}",
            "correct it, or say workload.hash_tokens=N",
        )


def chained(hashes: HashArray, count: IntArray) -> HashArray | None:
    """Return hashes that stand for all before them too; None if they already do.

    Equal hashes after different ones stand for blocks alone. Each is then replaced by a number for it and its
    predecessors.
    """
    flat = np.fromiter((one for each in hashes for one in each), dtype=np.int64, count=int(count.sum()))
    if not len(flat):
        return None
    starts = np.cumsum(count) - count
    before = np.concatenate([[-1], flat[:-1]])
    before[starts[count > 0]] = -1
    order = np.lexsort((before, flat))
    same = flat[order][1:] == flat[order][:-1]
    if not (same & (np.diff(before[order]) != 0)).any():
        return None
    number, used = np.full(len(flat), -1), 0
    previous = np.full(len(count), -1)
    for depth in range(int(count.max())):
        rows = np.flatnonzero(count > depth)
        places = starts[rows] + depth
        _, numbers = np.unique(np.stack([previous[rows], flat[places]]), axis=1, return_inverse=True)
        previous[rows] = number[places] = numbers.ravel() + used
        used += int(numbers.max()) + 1
    column = np.empty(len(count), dtype=np.object_)
    for row, (start, length) in enumerate(zip(starts.tolist(), count.tolist(), strict=True)):
        column[row] = tuple(number[start : start + length].tolist())
    return column


def _fits(size: int, count: IntArray, prompt_tokens: IntArray) -> bool:
    return bool(((prompt_tokens // size <= count) & (count <= -(-prompt_tokens // size))).all())
