"""Triton kernels of a GPU: attention of decode steps over as much of each row as there is, and element-wise work.

In decode there is one query per row; the keys and values of a row are divided into splits that are attended at once,
and their softmaxes are put together by a second kernel, as in Flash-Decoding (Dao, Haziza, Massa, Sizov, 2023). Lengths
are read on the device; all shapes and strides are those of the buffers and none is that of a row, so that a launch can
be recorded once and replayed at any lengths. What differs from step to step is no constant of a kernel either, so that
a model needs a handful of compiled ones.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from real.model.attention import Places

TILE = 16_384
"""Bytes of the keys, and of the values, that are attended at once: some such tiles lie in shared memory."""

MOST_COLUMNS = 64
"""KV tokens that are attended at once, at most."""

LEAST_QUERIES = 16
"""Rows that a matrix product on tensor cores has at least; a group of fewer heads is filled up."""

GATED = 1024
"""Values of a token that are gated at once."""

TURNED = 8
"""Heads of a token that are turned at once."""

PROGRAMS_PER_PROCESSOR = 4
MOST_SPLITS = 32

LOWEST = tl.constexpr(-1e30)
"""Score of what is not seen: a number, since the difference of two infinities is none."""


@triton.jit(
    do_not_specialize=[
        "splits", "window", "query_row", "query_head", "kv_row", "kv_token", "kv_head", "table_row",
    ],
    do_not_specialize_on_alignment=["lengths", "table"],
)  # fmt: skip
def _attend_split(
    query, keys, values, lengths, table, slopes, partial, out,
    scale, splits, window,
    query_row, query_head, kv_row, kv_token, kv_head, table_row,
    WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr, TABLE: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """Attend over one split of one row with the heads of one group; keep the sum, its maximum and its weight.

    A row that is not split is done. Strides are in heads, so that the compiler knows them to be multiples of a width.
    """
    row, group, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32) + 1
    read = tl.maximum(length, window)
    per_split = tl.cdiv(tl.cdiv(read, COLUMNS), splits) * COLUMNS
    start = split * per_split
    stop = tl.minimum(start + per_split, read)
    end = tl.minimum(stop, length)
    member, lane = tl.arange(0, QUERIES), tl.arange(0, PADDED_WIDTH)
    head = group * GROUP + member
    real_head, real_lane = member < GROUP, lane < WIDTH
    real_value = real_head[:, None] & real_lane[None, :]
    asked = tl.load(
        query + (row * query_row + head * query_head)[:, None] * WIDTH + lane[None, :], mask=real_value, other=0.0
    )
    begin = (row * kv_row + group * kv_head) * WIDTH
    keys, values = keys + begin, values + begin
    highest = tl.full([QUERIES], LOWEST, tl.float32)
    weight = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, PADDED_WIDTH], tl.float32)
    for first in range(start, stop, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        there = column < stop
        if TABLE:
            slot = tl.load(table + row * table_row + column, mask=there, other=0).to(tl.int64)
        else:
            slot = column.to(tl.int64)
        place = slot * (kv_token * WIDTH)
        taken = there[:, None] & real_lane[None, :]
        key = tl.load(keys + place[:, None] + lane[None, :], mask=taken, other=0.0)
        value = tl.load(values + place[:, None] + lane[None, :], mask=taken, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
        if SLOPES:
            slope = tl.load(slopes + head, mask=real_head, other=0.0)
            scores += slope[:, None] * (column - (length - 1))[None, :]
        seen = (column < end)[None, :]
        scores = tl.where(seen, scores, LOWEST)
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrunk, weights = tl.exp(highest - higher), tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
        weight = weight * shrunk + tl.sum(weights, 1)
        sums = sums * shrunk[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = higher
    if splits == 1:
        joined = (sums / weight[:, None]).to(out.dtype.element_ty)
        tl.store(out + (row * HEADS + head)[:, None] * WIDTH + lane[None, :], joined, mask=real_value)
    else:
        count = tl.num_programs(0).to(tl.int64) * HEADS * splits
        place = (row * HEADS + head) * splits + split
        tl.store(partial + count * WIDTH + place, highest, mask=real_head)
        tl.store(partial + count * (WIDTH + 1) + place, weight, mask=real_head)
        tl.store(partial + place[:, None] * WIDTH + lane[None, :], sums, mask=real_value)


@triton.jit(do_not_specialize=["splits"])
def _join_splits(
    partial, out, splits,
    WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Put the splits of one head of one row together: behind all sums lie all maxima, then all weights."""
    place, count = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64) * splits
    most, total = partial + count * WIDTH, partial + count * (WIDTH + 1)
    split, lane = tl.arange(0, MOST), tl.arange(0, PADDED_WIDTH)
    real, real_lane = split < splits, lane < WIDTH
    highest = tl.load(most + place * splits + split, mask=real, other=LOWEST)
    factor = tl.exp(highest - tl.max(highest, 0))
    weight = tl.sum(factor * tl.load(total + place * splits + split, mask=real, other=0.0), 0)
    sums = tl.load(
        partial + (place * splits + split[:, None]) * WIDTH + lane[None, :],
        mask=real[:, None] & real_lane[None, :],
        other=0.0,
    )
    joined = tl.sum(factor[:, None] * sums, 0) / weight
    tl.store(out + place * WIDTH + lane, joined.to(out.dtype.element_ty), mask=real_lane)


def attend_rows(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    lengths: Tensor,
    table: Tensor | None = None,
    slopes: Tensor | None = None,
    whole: bool = False,
) -> Tensor:
    """Attend with one query per row over the first `lengths[row] + 1` of its keys.

    Args:
        query: [rows, heads, head_dim].
        keys: [rows, kv_heads, capacity, head_dim]; with a table [slots, kv_heads, head_dim].
        values: Like the keys.
        scale: Factor of the scores.
        lengths: Position of each query, int64 [rows].
        table: Slot of each token of each row, int32 or int64 [rows, capacity]; None: a row lies in its columns.
        slopes: Bias per position of distance, float32 [heads]; None: none.
        whole: Whether all of the capacity is read, as a padded batch does: what is not a row's own must be finite, and
            gets no weight. Otherwise nothing else is read.

    Returns:
        [rows, heads, head_dim].
    """
    rows, heads, width = query.shape
    kv_heads, capacity = keys.shape[1], keys.shape[2] if table is None else table.shape[1]
    kv_row, kv_token, kv_head = _kv_strides(keys)
    query_row, query_head = _in_heads(query)
    padded_width = triton.next_power_of_2(max(width, LEAST_QUERIES))
    columns = columns_of(padded_width, keys.element_size())
    splits = _splits(rows * kv_heads, triton.cdiv(capacity, columns), query.device)
    out = torch.empty(rows, heads, width, dtype=query.dtype, device=query.device)
    partial = out.new_empty(rows * heads * splits * (width + 2) if splits > 1 else 0, dtype=torch.float32)
    group = heads // kv_heads
    _attend_split[rows, kv_heads, splits](
        query, keys, values, lengths, lengths if table is None else table, out if slopes is None else slopes,
        partial, out,
        scale, splits, capacity if whole else 0,
        query_row, query_head, kv_row, kv_token, kv_head, 0 if table is None else table.stride(0),
        WIDTH=width, PADDED_WIDTH=padded_width, HEADS=heads, GROUP=group,
        QUERIES=max(LEAST_QUERIES, triton.next_power_of_2(group)), COLUMNS=columns,
        TABLE=table is not None, SLOPES=slopes is not None,
    )  # fmt: skip
    if splits > 1:
        _join_splits[(rows * heads,)](partial, out, splits, WIDTH=width, PADDED_WIDTH=padded_width, MOST=MOST_SPLITS)
    return out


def columns_of(padded_width: int, value_bytes: int) -> int:
    """Return how many KV tokens are attended at once, so that what is under way fits the shared memory of any GPU."""
    return max(LEAST_QUERIES, min(MOST_COLUMNS, TILE // (padded_width * value_bytes)))


@cache
def processors(device: torch.device) -> int:
    """Return the streaming multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _splits(programs: int, most: int, device: torch.device) -> int:
    """Into how many parts rows are divided, so that the processors of a GPU are busy however few rows there are."""
    wanted: int = triton.cdiv(PROGRAMS_PER_PROCESSOR * processors(device), programs)
    return max(1, min(wanted, MOST_SPLITS, most))


def _in_heads(heads: Tensor) -> list[int]:
    """Return the strides of all dimensions but the last, which is that of a head, in heads."""
    width, (*strides, unit) = heads.shape[-1], heads.stride()
    assert unit == 1 and not any(stride % width for stride in strides)
    return [stride // width for stride in strides]


def _kv_strides(keys: Tensor) -> tuple[int, int, int]:
    """Return how far rows, tokens and heads are apart, in heads; in a pool rows have no place of their own."""
    if keys.dim() == 3:
        token, head = _in_heads(keys)
        return 0, token, head
    row, head, token = _in_heads(keys)
    return row, token, head


@triton.jit(do_not_specialize=["kv_row", "kv_token", "kv_head"], do_not_specialize_on_alignment=["at"])
def _turn(
    projected, cosines, sines, query_scales, key_scales, out, keys, values, at,
    epsilon, kv_row, kv_token, kv_head,
    HALF: tl.constexpr, PADDED_HALF: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr,
    NORMED: tl.constexpr, PLACED: tl.constexpr,
):  # fmt: skip
    """Turn a few heads of one token; if they are placed, lay its keys and values where they belong."""
    WIDTH: tl.constexpr = 2 * HALF
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    lane = tl.arange(0, PADDED_HALF)[None, :]
    asks, turns = head < HEADS, head < HEADS + KV_HEADS
    real_lane = lane < HALF
    real = real_lane & (head < HEADS + 2 * KV_HEADS)
    place = projected + (token * (HEADS + 2 * KV_HEADS) + head) * WIDTH + lane
    first = tl.load(place, mask=real, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=real, other=0.0).to(tl.float32)
    if PLACED:
        row = token * kv_row + tl.load(at + token) * kv_token
        value = values + (row + (head - HEADS - KV_HEADS) * kv_head) * WIDTH + lane
        tl.store(value, first.to(values.dtype.element_ty), mask=real & ~turns)
        tl.store(value + HALF, second.to(values.dtype.element_ty), mask=real & ~turns)
    if NORMED:
        shrunk = tl.rsqrt(tl.sum(first * first + second * second, 1) / WIDTH + epsilon)[:, None]
        for_query, for_key = query_scales + lane, key_scales + lane
        first *= shrunk * tl.where(asks, tl.load(for_query, mask=real_lane), tl.load(for_key, mask=real_lane))
        for_query, for_key = for_query + HALF, for_key + HALF
        second *= shrunk * tl.where(asks, tl.load(for_query, mask=real_lane), tl.load(for_key, mask=real_lane))
    cosine, sine = cosines + token * WIDTH + lane, sines + token * WIDTH + lane
    turned = first * tl.load(cosine, mask=real_lane) - second * tl.load(sine, mask=real_lane)
    other = second * tl.load(cosine + HALF, mask=real_lane) + first * tl.load(sine + HALF, mask=real_lane)
    turned, other = turned.to(out.dtype.element_ty), other.to(out.dtype.element_ty)
    if PLACED:
        key = keys + (row + (head - HEADS) * kv_head) * WIDTH + lane
        tl.store(key, turned, mask=real_lane & turns & ~asks)
        tl.store(key + HALF, other, mask=real_lane & turns & ~asks)
        target, wanted = out + (token * HEADS + head) * WIDTH + lane, real_lane & asks
    else:
        target, wanted = out + (token * (HEADS + KV_HEADS) + head) * WIDTH + lane, real_lane & turns
    tl.store(target, turned, mask=wanted)
    tl.store(target + HALF, other, mask=wanted)


def turn(
    projected: Tensor,
    cosines: Tensor,
    sines: Tensor,
    kv_heads: int,
    norms: tuple[Tensor, Tensor, float] | None = None,
    places: Places | None = None,
) -> Tensor:
    """Turn queries and keys by their positions, halves of a head paired.

    Args:
        projected: Queries, keys and values, [b, q, heads + 2 * kv_heads, head_dim], contiguous.
        cosines: [b, q, head_dim], contiguous.
        sines: Like the cosines.
        kv_heads: Heads of keys, and of values.
        norms: Weights [head_dim] of the root-mean-square norms of a query's and a key's head, which come first, and
            what is added to the mean square; None: there are none.
        places: Where key and value of each of b rows are laid, with q = 1; None: nowhere.

    Returns:
        Queries [b, q, heads, head_dim]; with the keys behind them, [b, q, heads + kv_heads, head_dim], if these are not
        laid anywhere.
    """
    batch, queries, heads, width = projected.shape
    heads -= 2 * kv_heads
    turned = heads + (0 if places else kv_heads)
    out = torch.empty(batch, queries, turned, width, dtype=projected.dtype, device=projected.device)
    query_scales, key_scales, epsilon = norms or (projected, projected, 0.0)
    keys, values, at = (places.keys, places.values, places.at) if places else (out, out, cosines)
    kv_row, kv_token, kv_head = _kv_strides(places.keys) if places else (0, 0, 0)
    _turn[batch * queries, triton.cdiv(turned + (2 * kv_heads if places else 0), TURNED)](
        projected, cosines, sines, query_scales, key_scales, out, keys, values, at,
        epsilon, kv_row, kv_token, kv_head,
        HALF=width // 2, PADDED_HALF=triton.next_power_of_2(width // 2), HEADS=heads, KV_HEADS=kv_heads, BLOCK=TURNED,
        NORMED=norms is not None, PLACED=places is not None,
    )  # fmt: skip
    return out


@triton.jit
def _gate(both, out, width, BLOCK: tl.constexpr):
    """Multiply one block of one token."""
    token = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = lane < width
    gate = tl.load(both + token * 2 * width + lane, mask=real).to(tl.float32)
    up = tl.load(both + token * 2 * width + width + lane, mask=real).to(tl.float32)
    tl.store(out + token * width + lane, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=real)


def gate_by_silu(both: Tensor) -> Tensor:
    """Return silu(gate) * up, [b, q, width], of gate and up behind each other, contiguous [b, q, 2 * width]."""
    *shape, double = both.shape
    width = double // 2
    out = torch.empty(*shape, width, dtype=both.dtype, device=both.device)
    _gate[both.numel() // double, triton.cdiv(width, GATED)](both, out, width, BLOCK=GATED)
    return out
