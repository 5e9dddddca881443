"""The tables of attention."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sim.calibration.kernels.cleaning import (
    Array,
    ascending_both,
    comparable,
    errors,
    log_interpolate,
    rounded,
    typical,
)
from sim.cost.datasheet import Hardware
from sim.cost.kernels.tables import (
    HEAD_DIM,
    QUERY_HEADS,
    ChunkAttention,
    DecodeAttention,
    PromptAttention,
    prompt_surface,
)

PAIR_FLOPS = 4 * HEAD_DIM
"""Of one (query, key) pair and head."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTEXT = (1, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
HEADS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
WALK = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
QUERIES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MEAN_CONTEXT = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
DECODE_FIT = {1: (8, 1), 2: (16, 2), 4: (32, 4), 8: (32, 8)}
"""Query and KV heads whose measurements make the decode table of so many KV heads, several query heads to each."""
MHA_DECODE = (1, 2, 4, 8)
"""Head counts whose measurements make the decode table of multi-head attention, which is scaled as if of the last."""
PROMPT_FIT = {1: ((32, 32), (8, 8), (4, 4)), 4: ((32, 8), (8, 2), (4, 1)), 8: ((64, 8), (8, 1))}
"""Query and KV heads whose measurements make the prompt table of so many query heads per KV head."""
GROUPS = 8
"""Most query heads per KV head that dense models have today."""
LEAST_HEADS = 12
"""Fewest query heads that the prompt tables are judged on: fewer are a small part of a model shared by many GPUs."""
MOST_TOKENS = 32768
"""Most tokens of all prompts that the prompt tables are judged on."""

Heads = tuple[int, int]


def of_heads(table: pd.Series, pairs: Iterable[Heads]) -> pd.Series:
    """Return the measurements with these numbers of query and KV heads."""
    index = table.index
    both = pd.MultiIndex.from_arrays([index.get_level_values("heads"), index.get_level_values("kv_heads")])
    return table[both.isin(list(pairs))]


def group_of(table: pd.Series) -> pd.Index:
    """Return the query heads per KV head of each measurement."""
    return table.index.get_level_values("heads") // table.index.get_level_values("kv_heads")


def fit_decode(versions: pd.DataFrame, fitted: Heads, source: str) -> DecodeAttention:
    """Return grouped-query decode attention, made of one head count and judged on others of as many KV heads.

    Args:
        versions: Seconds by `ATTENTION`, a column per version.
        fitted: Query and KV heads that are used.
        source: Where the table comes from.
    """
    table, judge = typical(versions), comparable(versions)
    kv_heads = fitted[1]
    cells = of_heads(table, [fitted]).droplevel(["heads", "kv_heads"]).unstack("tokens").sort_index(axis=1)
    rows = [count for count in ROWS if count in cells.index]
    made = decode_table(cells.loc[rows], kv_heads, False, source)
    group = group_of(judge)
    alike = (group > 1) & (group <= GROUPS) & (judge.index.get_level_values("kv_heads") == kv_heads)
    rest = judge[alike & ~judge.index.isin(of_heads(judge, [fitted]).index)]
    if rest.empty:
        return made
    found: dict[str, Any] = errors(*held_out_decode(made, rest))
    return replace(made, **found)


def fit_multi_head_decode(versions: pd.DataFrame, source: str) -> DecodeAttention:
    """Return multi-head decode attention, each head count judged by a table that is made of the others.

    Args:
        versions: Seconds by `ATTENTION`, a column per version.
        source: Where the table comes from.
    """
    table, judge = typical(versions), comparable(versions)
    judged = []
    for heads in MHA_DECODE:
        made = _multi_head_table(table, [other for other in MHA_DECODE if other != heads], source)
        judged.append(held_out_decode(made, of_heads(judge, [(heads, heads)])))
    measured, predicted = (np.concatenate(column) for column in zip(*judged, strict=True))
    found: dict[str, Any] = errors(measured, predicted)
    return replace(_multi_head_table(table, MHA_DECODE, source), **found)


def _multi_head_table(table: pd.Series, counts: Sequence[int], source: str) -> DecodeAttention:
    """Return the table of some head counts: rows x heads is what matters, and of the same the fewest rows are taken."""
    frame = of_heads(table, [(heads, heads) for heads in counts]).rename("seconds").reset_index()
    frame["rows"] = frame["batch"] * frame["heads"] / MHA_DECODE[-1]
    fewest = frame.sort_values("batch").groupby(["rows", "tokens"])["seconds"].first()
    cells = fewest.unstack("tokens").sort_index(axis=1)
    rows = [count for count in ROWS if count in cells.index and cells.loc[count].count() > 1]
    return decode_table(cells.loc[rows], MHA_DECODE[-1], True, source)


def decode_table(cells: pd.DataFrame, kv_heads: int, mha: bool, source: str) -> DecodeAttention:
    """Return a table of seconds [rows, KV tokens per row], gaps allowed, at `CONTEXT`."""
    grid = ascending_both(np.array([_along(row.dropna()) for _, row in cells.iterrows()]))
    most = max(count * max(row.dropna().index) for count, row in cells.iterrows())
    return DecodeAttention(
        source=source,
        kv_heads=kv_heads,
        mha=mha,
        rows=[int(count) for count in cells.index],
        context=CONTEXT,
        seconds=[rounded(row) for row in grid],
        most=float(most),
    )


def _along(cell: pd.Series) -> Array:
    """Return seconds at `CONTEXT`; beyond the last measurement they grow as between the last two."""
    at, seconds = _points(cell)
    context = np.array(CONTEXT, dtype=np.float64)
    slope = max(0.0, (seconds[-1] - seconds[-2]) / (at[-1] - at[-2]))
    return np.asarray(np.interp(context, at, seconds) + np.maximum(context - at[-1], 0.0) * slope)


def held_out_decode(made: DecodeAttention, table: pd.Series) -> tuple[Array, Array]:
    """Return measured and predicted seconds of the measurements that lie within the table."""
    frame = table.rename("seconds").reset_index()
    scale = frame["kv_heads"] / made.kv_heads
    inside = (frame["batch"] * scale <= made.rows[-1]) & (frame["batch"] * scale >= made.rows[0])
    inside &= (frame["tokens"] <= made.context[-1]) & (frame["batch"] * scale * frame["tokens"] <= made.most)
    frame = frame[inside]
    lines = {shape: made.line(*shape) for shape in zip(frame["batch"], frame["kv_heads"], strict=True)}
    places = zip(frame["batch"], frame["kv_heads"], frame["tokens"], strict=True)
    predicted = [lines[batch, kv_heads](tokens) for batch, kv_heads, tokens in places]
    return frame["seconds"].to_numpy(dtype=np.float64), np.array(predicted)


def rows_of(grid: pd.Series) -> pd.DataFrame:
    """Return the seconds of iterations that only decode, [rows, KV tokens per row], of a grid of iterations."""
    alone = grid[grid.index.get_level_values("prefill_chunk") == 0].droplevel(["prefill_chunk", "kv_prefill"])
    return alone.unstack("kv_decode").sort_index().sort_index(axis=1)


def grid_decode(grid: pd.Series, kv_heads: int, source: str) -> DecodeAttention:
    """Return decode attention of a grid of iterations; see `measurements.attention_grid`."""
    return decode_table(rows_of(grid), kv_heads, False, source)


def judged_on_grid(made: DecodeAttention, rows: pd.DataFrame) -> DecodeAttention:
    """Return the table with its errors on the decode iterations of a model with other heads, as many KV heads."""
    measured = rows.to_numpy(dtype=np.float64)
    lines = [made.line(count, made.kv_heads) for count in rows.index]
    predicted = np.array([line.each(rows.columns.to_numpy(dtype=np.float64)) for line in lines])
    known = np.isfinite(measured)
    found: dict[str, Any] = errors(measured[known], predicted[known])
    return replace(made, **found)


def judged_chunks(made: ChunkAttention, grid: pd.Series, heads: int) -> ChunkAttention:
    """Return the table with its errors on the chunks of a model with other heads."""
    alone = grid[grid.index.get_level_values("n_decode") == 0].droplevel(["n_decode", "kv_decode"])
    chunk, past = (
        alone.index.get_level_values(name).to_numpy(dtype=np.float64) for name in ("prefill_chunk", "kv_prefill")
    )
    queries, context = chunk * heads / QUERY_HEADS, past + (chunk + 1) / 2
    inside = (queries <= made.queries[-1]) & (past > 0) & (queries < 2 * context)
    surface = made.surface()
    assert surface is not None
    predicted = np.maximum(surface.each(queries[inside], context[inside]), made.walk().each((past + chunk)[inside]))
    found: dict[str, Any] = errors(alone.to_numpy(dtype=np.float64)[inside], predicted)
    return replace(made, **found)


def fit_prompts(versions: pd.DataFrame, datasheet: Hardware, source: str) -> list[PromptAttention]:
    """Return attention of whole prompts for each measured group, judged on the head counts they are not made of.

    Args:
        versions: Seconds by `ATTENTION`, a column per version.
        datasheet: Whose FLOPs no kernel beats.
        source: Where the table comes from.
    """
    table, judge = typical(versions), comparable(versions)
    made = []
    for group, fitted in PROMPT_FIT.items():
        frame = of_heads(table, fitted).rename("seconds").reset_index()
        frame["all_heads"] = frame["batch"] * frame["heads"]
        fewest = (
            frame.sort_values("batch")
            .groupby(["all_heads", "tokens"])["seconds"]
            .first()
            .unstack("tokens")
            .sort_index(axis=1)
        )
        made.append(prompt_table(fewest, group, datasheet, source))
    used = [pair for fitted in PROMPT_FIT.values() for pair in fitted]
    rest = judge[~judge.index.isin(of_heads(judge, used).index)]
    found: dict[str, Any] = errors(*held_out_prompts(made, rest))
    return [replace(made[0], **found), *made[1:]]


def prompt_table(cells: pd.DataFrame, group: int, datasheet: Hardware, source: str) -> PromptAttention:
    """Return a table of seconds [prompts x heads, tokens], gaps allowed, at `HEADS` and `TOKENS`."""
    known = [heads for heads in HEADS if heads in cells.index]
    columns = np.array([log_interpolate(TOKENS, *_points(cells.T[heads])) for heads in known])
    grid = np.array([log_interpolate(HEADS, np.array(known, dtype=np.float64), column) for column in columns.T]).T
    pairs = np.outer(HEADS, [tokens * (tokens + 1) / 2 for tokens in TOKENS])
    grid = ascending_both(np.maximum(grid, pairs * PAIR_FLOPS / datasheet.peak_flops))
    return PromptAttention(
        source=source, group=group, heads=HEADS, tokens=TOKENS, seconds=[rounded(row) for row in grid]
    )


def held_out_prompts(made: Sequence[PromptAttention], table: pd.Series) -> tuple[Array, Array]:
    """Return measured and predicted seconds of the prompts that lie within the tables."""
    frame = table.rename("seconds").reset_index()
    frame["group"] = frame["heads"] // frame["kv_heads"]
    heads = frame["heads"] * frame["batch"]
    inside = (heads <= HEADS[-1]) & (heads >= HEADS[0]) & (frame["group"] <= GROUPS) & (frame["heads"] >= LEAST_HEADS)
    inside &= (frame["tokens"] >= TOKENS[0]) & (frame["tokens"] * frame["batch"] <= MOST_TOKENS)
    measured, predicted = [], []
    for group, part in frame[inside].groupby("group"):
        places = (part["heads"] * part["batch"], part["tokens"])
        surface = prompt_surface(made, float(group))  # type: ignore[arg-type]
        predicted.append(surface.each(*(place.to_numpy(dtype=np.float64) for place in places)))
        measured.append(part["seconds"].to_numpy(dtype=np.float64))
    return np.concatenate(measured), np.concatenate(predicted)


def fit_walk(table: pd.Series, source: str) -> ChunkAttention:
    """Return the time of one head alone along a prompt: of chunks that were not measured the least.

    Args:
        table: Seconds by `ATTENTION`.
        source: Where the table comes from.
    """
    fewest = int(min(table.index.get_level_values("heads")))
    alone = table.xs((fewest, 1, 1), level=("heads", "kv_heads", "batch")).sort_index()
    seconds = np.maximum.accumulate(log_interpolate(WALK, *_points(alone)))
    return ChunkAttention(source=source, walk_context=WALK, walk_seconds=rounded(seconds))


def fit_chunks(grid: pd.Series, heads: int, source: str) -> ChunkAttention:
    """Return attention of measured chunks.

    A chunk of c tokens after p others is c query tokens with a mean context of p + (c + 1) / 2.

    Args:
        grid: Seconds by prefill_chunk, kv_prefill, n_decode, kv_decode.
        heads: Query heads that were measured.
        source: Where it comes from.
    """
    alone = grid[grid.index.get_level_values("n_decode") == 0].droplevel(["n_decode", "kv_decode"])
    cells = (
        alone[alone.index.get_level_values("prefill_chunk") > 0].unstack("kv_prefill").sort_index().sort_index(axis=1)
    )
    columns = {}
    for chunk, row in cells.iterrows():
        known = row.dropna()
        contexts = known.index.to_numpy(dtype=np.float64) + (float(chunk) + 1) / 2  # type: ignore[arg-type]
        queries = float(chunk) * heads / QUERY_HEADS  # type: ignore[arg-type]
        columns[queries] = (contexts, np.maximum.accumulate(known.to_numpy(dtype=np.float64)))
    measured = np.array(sorted(columns))
    rows = np.array([log_interpolate(MEAN_CONTEXT, *columns[queries]) for queries in measured])
    table = np.array([log_interpolate(QUERIES, measured, column) for column in rows.T]).T
    smallest = cells.iloc[0].dropna()
    walk = log_interpolate(
        WALK, smallest.index.to_numpy(dtype=np.float64) + float(cells.index[0]), smallest.to_numpy(dtype=np.float64)
    )
    return ChunkAttention(
        source=source,
        walk_context=WALK,
        walk_seconds=rounded(np.maximum.accumulate(walk)),
        queries=QUERIES,
        context=MEAN_CONTEXT,
        seconds=[rounded(row) for row in ascending_both(table)],
    )


def _points(row: pd.Series) -> tuple[Array, Array]:
    known = row.dropna()
    return known.index.to_numpy(dtype=np.float64), known.to_numpy(dtype=np.float64)
