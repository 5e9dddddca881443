"""One GPU's share of a model, and what its kernels take: the measured tables at the dimensions of that share."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from policies.checks import InputError
from sim.cost.device import Array
from sim.cost.kernels.curve import Line
from sim.cost.kernels.tables import HEAD_DIM, QUERY_HEADS, KernelTables, prompt_surface
from sim.cost.model import Model

STREAMING = 0.9
"""Share of the memory bandwidth that reading KV reaches at most: tables may have found theirs in the cache."""


class Shard(NamedTuple):
    """The part of a layer that one GPU of several holds.

    Attributes:
        heads: Query heads, as so many of `HEAD_DIM`.
        kv_heads: KV heads, as so many of `HEAD_DIM`.
        matrices: Outputs and inputs of each linear operator.
    """

    heads: float
    kv_heads: float
    matrices: tuple[tuple[int, int], ...]


def shard_of(model: Model, gpus: int) -> Shard:
    """Return what one of so many GPUs holds of each layer: heads and the width of the feed-forward layer are divided.

    Raises:
        InputError: They do not divide.
    """
    if option := model.indivisible(gpus):
        raise InputError(f"tensor_parallel={gpus}: must divide model.{option}={getattr(model, option)}")
    heads, kv_heads = model.heads // gpus, model.kv_heads // gpus
    width, inner = model.hidden, model.intermediate // gpus
    matrices = (
        ((heads + 2 * kv_heads) * model.head_dim, width),
        (width, heads * model.head_dim),
        ((2 if model.gated else 1) * inner, width),
        (width, inner),
    )
    scale = model.head_dim / HEAD_DIM
    return Shard(heads * scale, kv_heads * scale, matrices)


class ShardTimes:
    """Seconds of the kernels of one GPU's share of a model.

    Attributes:
        shard: The share.
        decode_table: The measured decode attention that is closest to its heads.
        layers: All layers, attention apart, by computed slots.
        head: The output head and sampling, by rows that sample.
        extrapolated: What of it was not measured, in words.
    """

    def __init__(self, tables: KernelTables, model: Model, gpus: int, matrix_factor: float) -> None:
        """Bring every table to the dimensions of the share.

        Args:
            tables: The measured kernels.
            model: The model.
            gpus: GPUs that share each layer.
            matrix_factor: How many times longer matrix products take than alone.
        """
        self._tables = tables
        self._model = model
        self._gpus = gpus
        self._matrix_factor = matrix_factor
        self.shard = shard = shard_of(model, gpus)
        self.decode_table = tables.decode_for(model.heads == model.kv_heads, shard.kv_heads)
        self._prompts = prompt_surface(tables.prompts, shard.heads / shard.kv_heads)
        self._chunks, self._walk = tables.chunks.surface(), tables.chunks.walk()
        self._queries = shard.heads / QUERY_HEADS
        self._kv_read_s = model.kv_bytes_per_token / gpus / (STREAMING * tables.memory_bandwidth)
        self._decode_lines: dict[int, Line] = {}
        self.layers = self._layer_line()
        self.head = self._head_line()
        self.extrapolated = tuple(self._missing())

    def _missing(self) -> Iterator[str]:
        tables, model, shard = self._tables, self._model, self.shard
        group = shard.heads / shard.kv_heads
        if self.decode_table.mha != (model.heads == model.kv_heads):
            yield "decode attention with this many query heads per KV head"
        if not tables.prompts[0].group <= group <= tables.prompts[-1].group:
            yield "prefill attention with this many query heads per KV head"
        if model.head_dim != HEAD_DIM:
            yield f"attention heads of width {model.head_dim}"
        if not all(tables.matrices.covers(*shape) for shape in shard.matrices):
            yield "matrices of this size"
        if not all(tables.matrices.measured(*shape) for shape in shard.matrices):
            yield from filter(None, [tables.matrices.extrapolated])
        others = [self.decode_table, *tables.prompts, tables.chunks, tables.elementwise]
        yield from dict.fromkeys(table.extrapolated for table in others if table.extrapolated)

    def _layer_line(self) -> Line:
        """Return the time of all layers, attention apart, by computed slots."""
        tables, model = self._tables, self._model
        matrices = tables.matrices
        rates = tables.peak_flops, tables.memory_bandwidth
        products = sum(
            (matrices.seconds(outputs, inputs, *rates) for outputs, inputs in self.shard.matrices),
            np.zeros(len(matrices.tokens)),
        )
        inner = model.intermediate / self._gpus
        moved = 2 * (8 * model.hidden + (3 if model.gated else 2) * inner)
        moved += 4 * HEAD_DIM * (self.shard.heads + self.shard.kv_heads)
        bytes_moved = np.array(tables.elementwise.bytes_moved)
        places = [np.array(matrices.tokens, dtype=np.float64), bytes_moved / moved]
        if self._gpus > 1 and tables.all_reduce:
            places.append(np.array(tables.all_reduce.message) / (2 * model.hidden))
        slots = np.unique(np.concatenate(places))
        slots = slots[(slots >= 1) & (slots <= matrices.tokens[-1])]
        seconds = self._matrix_factor * Line(matrices.tokens, products).each(slots)
        seconds += tables.elementwise.line().each(slots * moved)
        if self._gpus > 1 and tables.all_reduce:
            seconds += 2 * tables.all_reduce.line(self._gpus).each(slots * 2 * model.hidden)
        return Line(slots.tolist(), (model.layers * seconds).tolist())

    def _head_line(self) -> Line:
        """Return the time of the output head and of sampling, by rows that sample."""
        tables, model = self._tables, self._model
        rows = np.array(tables.matrices.tokens, dtype=np.float64)
        vocabulary = model.vocabulary // self._gpus
        seconds = tables.matrices.seconds(vocabulary, model.hidden, tables.peak_flops, tables.memory_bandwidth)
        sampling = tables.elementwise.sample_seconds + rows * model.vocabulary * tables.elementwise.logit_seconds
        return Line(rows.tolist(), (self._matrix_factor * seconds + sampling).tolist())

    def decode(self, rows: int) -> Line:
        """Return the time of all layers' decode attention of so many rows, by KV tokens per row."""
        line = self._decode_lines.get(rows)
        if line is None:
            layer = self.decode_table.line(rows, self.shard.kv_heads)
            layers, read_s = self._model.layers, rows * self._kv_read_s
            values = [max(layers * each, kv * read_s) for kv, each in zip(layer.at, layer.values, strict=True)]
            line = self._decode_lines[rows] = Line(layer.at, values)
        return line

    def prefill(self, prompts: int, tokens: int, pairs: int, kv: int) -> float:
        """Return the time of all layers' prefill attention.

        Args:
            prompts: Chunks of prompts.
            tokens: Query tokens of all of them.
            pairs: (query, key) pairs of all of them.
            kv: KV tokens from before the iteration.
        """
        chunk, heads = max(1.0, tokens / prompts), prompts * self.shard.heads
        context = pairs / tokens
        past = context - (chunk + 1) / 2
        if past < 1:
            seconds = self._prompts(heads, chunk)
        else:
            if self._chunks and tokens * self._queries < 2 * context:
                seconds = self._chunks(tokens * self._queries, context)
            else:
                seconds = self._prompts(heads, past + chunk) - self._prompts(heads, past)
            seconds = max(seconds, self._walk(past + chunk))
        return max(self._model.layers * seconds, (kv + tokens) * self._kv_read_s)

    def prefill_each(self, prompts: Array, tokens: Array, pairs: Array, kv: Array) -> Array:
        """Return the times of many prefills, none of them empty."""
        chunk, heads, context = np.maximum(tokens / prompts, 1.0), prompts * self.shard.heads, pairs / tokens
        past = context - (chunk + 1) / 2
        before = np.maximum(past, 1.0)
        seconds = self._prompts.each(heads, before + chunk) - self._prompts.each(heads, before)
        if self._chunks:
            queries = tokens * self._queries
            seconds = np.where(queries < 2 * context, self._chunks.each(queries, context), seconds)
        seconds = np.maximum(seconds, self._walk.each(before + chunk))
        seconds = np.where(past < 1, self._prompts.each(heads, chunk), seconds)
        return np.maximum(self._model.layers * seconds, (kv + tokens) * self._kv_read_s)
