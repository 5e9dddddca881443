"""Triton kernels of a GPU: attention of decode steps over as much of each row as there is, and element-wise work.

In decode there is one query per row; the keys and values of a row are divided into splits that are attended at once,
and their softmaxes are put together by a second kernel, as in Flash-Decoding (Dao, Haziza, Massa, Sizov, 2023). Lengths
are read on the device; all shapes and strides are those of the buffers and none is that of a row, so that a launch can
be recorded once and replayed at any lengths.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16_384
"""Bytes of the keys, and of the values, that are attended at once: some such tiles lie in shared memory."""

MOST_COLUMNS = 64
"""KV tokens that are attended at once, at most."""

LEAST_QUERIES = 16
"""Rows that a matrix product on tensor cores has at least; a group of fewer heads is filled up."""

GATED = 1024
"""Values of a token that are gated at once."""

PROGRAMS_PER_PROCESSOR = 4
MOST_SPLITS = 32


@triton.jit
def _attend_split(
    query, keys, values, lengths, table, slopes, partial, most, total,
    scale, heads,
    query_row, query_head, kv_row, kv_token, kv_head, table_row,
    WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr, TABLE: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """Attend over one split of one row with the heads of one group; keep the sum, its maximum and its weight."""
    row, group, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32) + 1
    per_split = tl.cdiv(tl.cdiv(length, COLUMNS), SPLITS) * COLUMNS
    start = split * per_split
    stop = tl.minimum(start + per_split, length)
    member, lane = tl.arange(0, QUERIES), tl.arange(0, PADDED_WIDTH)
    head = group * GROUP + member
    real_head, real_lane = member < GROUP, lane < WIDTH
    asked = tl.load(
        query + row * query_row + head[:, None] * query_head + lane[None, :],
        mask=real_head[:, None] & real_lane[None, :],
        other=0.0,
    )
    highest = tl.full([QUERIES], -float("inf"), tl.float32)
    weight = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, PADDED_WIDTH], tl.float32)
    for first in range(start, stop, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        real = column < stop
        if TABLE:
            slot = tl.load(table + row * table_row + column, mask=real, other=0).to(tl.int64)
        else:
            slot = column.to(tl.int64)
        place = row * kv_row + slot * kv_token + group * kv_head
        seen = real[:, None] & real_lane[None, :]
        key = tl.load(keys + place[:, None] + lane[None, :], mask=seen, other=0.0)
        value = tl.load(values + place[:, None] + lane[None, :], mask=seen, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
        if SLOPES:
            slope = tl.load(slopes + head, mask=real_head, other=0.0)
            scores += slope[:, None] * (column - (length - 1))[None, :]
        scores = tl.where(real[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrunk, weights = tl.exp(highest - higher), tl.exp(scores - higher[:, None])
        weight = weight * shrunk + tl.sum(weights, 1)
        sums = sums * shrunk[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = higher
    place = (row * heads + head) * SPLITS + split
    tl.store(most + place, highest, mask=real_head)
    tl.store(total + place, weight, mask=real_head)
    tl.store(partial + place[:, None] * WIDTH + lane[None, :], sums, mask=real_head[:, None] & real_lane[None, :])


@triton.jit
def _join_splits(
    partial, most, total, out,
    WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr, SPLITS: tl.constexpr, PADDED_SPLITS: tl.constexpr,
):  # fmt: skip
    """Put the splits of one head of one row together."""
    place = tl.program_id(0).to(tl.int64)
    split, lane = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED_WIDTH)
    real, real_lane = split < SPLITS, lane < WIDTH
    highest = tl.load(most + place * SPLITS + split, mask=real, other=-float("inf"))
    factor = tl.exp(highest - tl.max(highest, 0))
    weight = tl.sum(factor * tl.load(total + place * SPLITS + split, mask=real, other=0.0), 0)
    sums = tl.load(
        partial + (place * SPLITS + split[:, None]) * WIDTH + lane[None, :],
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
) -> Tensor:
    """Attend with one query per row over the first `lengths[row] + 1` of its keys, which alone are read.

    Args:
        query: [rows, heads, head_dim].
        keys: [rows, kv_heads, capacity, head_dim]; with a table [slots, kv_heads, head_dim].
        values: Like the keys.
        scale: Factor of the scores.
        lengths: Position of each query, int64 [rows].
        table: Slot of each token of each row, int32 or int64 [rows, capacity]; None: a row lies in its columns.
        slopes: Bias per position of distance, float32 [heads]; None: none.

    Returns:
        [rows, heads, head_dim].
    """
    rows, heads, width = query.shape
    query = query if query.stride(2) == 1 else query.contiguous()
    if table is None:
        capacity, kv_heads = keys.shape[2], keys.shape[1]
        kv_row, kv_head, kv_token, _ = keys.stride()
    else:
        capacity, kv_heads = table.shape[1], keys.shape[1]
        kv_row, (kv_token, kv_head, _) = 0, keys.stride()
    padded_width = triton.next_power_of_2(max(width, LEAST_QUERIES))
    columns = columns_of(padded_width, keys.element_size())
    splits = _splits(rows * kv_heads, triton.cdiv(capacity, columns), query.device)
    partial = query.new_empty(rows, heads, splits, width, dtype=torch.float32)
    most, total = partial.new_empty(rows, heads, splits), partial.new_empty(rows, heads, splits)
    out = torch.empty(rows, heads, width, dtype=query.dtype, device=query.device)
    group = heads // kv_heads
    _attend_split[rows, kv_heads, splits](
        query, keys, values, lengths, lengths if table is None else table, partial if slopes is None else slopes,
        partial, most, total,
        scale, heads,
        query.stride(0), query.stride(1), kv_row, kv_token, kv_head, 0 if table is None else table.stride(0),
        WIDTH=width, PADDED_WIDTH=padded_width, GROUP=group,
        QUERIES=max(LEAST_QUERIES, triton.next_power_of_2(group)), SPLITS=splits, COLUMNS=columns,
        TABLE=table is not None, SLOPES=slopes is not None,
    )  # fmt: skip
    _join_splits[(rows * heads,)](
        partial, most, total, out,
        WIDTH=width, PADDED_WIDTH=padded_width, SPLITS=splits, PADDED_SPLITS=triton.next_power_of_2(splits),
    )  # fmt: skip
    return out


def columns_of(padded_width: int, value_bytes: int) -> int:
    """Return how many KV tokens are attended at once, so that what is under way fits the shared memory of any GPU."""
    return max(LEAST_QUERIES, min(MOST_COLUMNS, TILE // (padded_width * value_bytes)))


def _splits(programs: int, most: int, device: torch.device) -> int:
    """Into how many parts rows are divided, so that the processors of a GPU are busy however few rows there are.

    Powers of two: a kernel is compiled for each.
    """
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    wanted = triton.cdiv(PROGRAMS_PER_PROCESSOR * processors, programs)
    splits: int = triton.next_power_of_2(max(1, min(wanted, MOST_SPLITS, most)))
    return splits


@triton.jit
def _rotate(
    values, cosines, sines, out, value_token, value_head, angle_token, heads,
    HALF: tl.constexpr, PADDED_HALF: tl.constexpr,
):  # fmt: skip
    """Turn one head of one token."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, PADDED_HALF)
    real = lane < HALF
    place = values + token * value_token + head * value_head + lane
    angle, target = token * angle_token + lane, out + (token * heads + head) * 2 * HALF + lane
    first = tl.load(place, mask=real).to(tl.float32)
    second = tl.load(place + HALF, mask=real).to(tl.float32)
    turned = first * tl.load(cosines + angle, mask=real) - second * tl.load(sines + angle, mask=real)
    other = second * tl.load(cosines + angle + HALF, mask=real) + first * tl.load(sines + angle + HALF, mask=real)
    tl.store(target, turned.to(out.dtype.element_ty), mask=real)
    tl.store(target + HALF, other.to(out.dtype.element_ty), mask=real)


def rotate(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads by their positions, halves of a head paired.

    Args:
        values: [b, q, heads, head_dim], the last dimension contiguous and tokens evenly apart.
        cosines: [b, q, head_dim], contiguous.
        sines: Like the cosines.
    """
    batch, queries, heads, width = values.shape
    out = torch.empty(batch, queries, heads, width, dtype=values.dtype, device=values.device)
    _rotate[batch * queries, heads](
        values, cosines, sines, out, values.stride(1), values.stride(2), cosines.stride(1), heads,
        HALF=width // 2, PADDED_HALF=triton.next_power_of_2(width // 2),
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
