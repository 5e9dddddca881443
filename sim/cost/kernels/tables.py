"""What kernels of one GPU take, by measurement: small tables that a calibration writes and a cost model reads.

Each table belongs to one kind of kernel, says where it comes from and how well it predicts shapes it was not fitted on,
and is scaled to a model's dimensions by the law that its kernels follow:

- a matrix product reaches a share of the roofline that depends on its three dimensions;
- decode attention depends on rows x KV heads, the tasks it can spread over the GPU, and on the KV of each row;
- attention of whole prompts depends on prompts x heads and on their length;
- a chunk cannot be faster than one head's walk along its longest context, and where chunks were measured they depend on
  query tokens x heads and on the mean context of a query token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from policies.checks import InputError, check_options
from sim.cost.device import Array, Device
from sim.cost.kernels.curve import Line, Surface
from sim.cost.rules import Axis, Count, Kind, Positive, Seconds, ascending, is_positive

HEAD_DIM = 128
"""Width of the heads that attention was measured with."""
QUERY_HEADS = 32
"""Heads that the query tokens of `ChunkAttention` belong to."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A measured table.

    Attributes:
        source: Which measurements it was made of.
        median_error: Median relative error on shapes that it was not made of; None: not judged.
        p90_error: 90th percentile of the same.
        residuals: log(measured / predicted) of some of these shapes, spread evenly over their order.
        extrapolated: What of it was not measured, in words; empty if all was.
    """

    source: str
    median_error: float | None = None
    p90_error: float | None = None
    residuals: Sequence[float] = ()
    extrapolated: str = ""

    def __post_init__(self) -> None:
        """Refuse tables that are no tables: axes that do not ascend, values that are no positive numbers."""
        kind = type(self).__name__
        check_options(self, f"hardware: {kind}")
        self._check(kind)

    def _check(self, kind: str) -> None:
        """Refuse values that do not fit the axes."""


def _check_values(kind: str, name: str, values: object, *shape: int) -> None:
    """Refuse what is no nested list of positive numbers of this shape."""
    if not isinstance(values, list | tuple) or len(values) != shape[0]:
        raise InputError(f"hardware: {kind}: {name} must be lists of positive numbers, {' x '.join(map(str, shape))}")
    for value in values:
        if len(shape) > 1:
            _check_values(kind, name, value, *shape[1:])
        elif not is_positive(value):
            raise InputError(f"hardware: {kind}: {name} holds {value}: must be a positive number")


@dataclass(frozen=True, kw_only=True)
class MatrixProduct(Table):
    """(tokens x inputs) times (inputs x outputs), 2 bytes per value: share of the roofline that is reached.

    The roofline of m tokens, k inputs and n outputs is the longer of 2mnk FLOPs at the datasheet's rate and
    2(nk + m(n + k)) bytes at its bandwidth. Between the measured shapes the logarithm of the share is linear in the
    logarithms of n and k; beyond them it stays what it is.

    Attributes:
        tokens: m, [a].
        outputs: n, [b].
        inputs: k, [c].
        share: Of the roofline, [b, c, a].
    """

    tokens: Axis
    outputs: Axis
    inputs: Axis
    share: Sequence[Sequence[Sequence[float]]]

    def _check(self, kind: str) -> None:
        _check_values(kind, "share", self.share, len(self.outputs), len(self.inputs), len(self.tokens))

    def seconds(self, outputs: int, inputs: int, flops: float, bandwidth: float) -> Array:
        """Return the time of each of `tokens` [a] through one matrix, at these datasheet rates."""
        share = np.log(np.array(self.share))
        for axis, place in ((self.outputs, outputs), (self.inputs, inputs)):
            start, part = _between(np.log(np.array(axis, dtype=np.float64)), float(np.log(place)))
            share = share[start] if part == 0 else share[start] + part * (share[start + 1] - share[start])
        tokens = np.array(self.tokens, dtype=np.float64)
        return np.asarray(roofline_seconds(tokens, outputs, inputs, flops, bandwidth) / np.exp(share))

    def measured(self, outputs: int, inputs: int) -> bool:
        """Whether a matrix has the sides of measured ones."""
        return outputs in self.outputs and inputs in self.inputs

    def covers(self, outputs: int, inputs: int) -> bool:
        """Whether a matrix lies within the measured ones."""
        return self.outputs[0] <= outputs <= self.outputs[-1] and self.inputs[0] <= inputs <= self.inputs[-1]


def roofline_seconds(tokens: Array, outputs: Array | int, inputs: Array | int, flops: float, bandwidth: float) -> Array:
    """Return what a matrix product takes at full datasheet rates, whichever of the two is the limit."""
    moved = 2.0 * (np.multiply(outputs, inputs) + tokens * np.add(outputs, inputs))
    return np.asarray(np.maximum(moved / bandwidth, 2.0 * tokens * outputs * inputs / flops))


def _between(axis: Array, place: float) -> tuple[int, float]:
    """Return the interval in which a place lies, and its share of it: the ends of the axis hold beyond them."""
    if place <= axis[0] or len(axis) == 1:
        return 0, 0.0
    if place >= axis[-1]:
        return len(axis) - 1, 0.0
    start = int(np.searchsorted(axis, place, side="right")) - 1
    return start, float((place - axis[start]) / (axis[start + 1] - axis[start]))


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Table):
    """One query token per row over its KV, in one layer: seconds by rows and KV tokens per row.

    Attributes:
        kv_heads: KV heads (of `HEAD_DIM`) that were measured; more of them count as more rows.
        mha: Whether each had one query head, or several.
        rows: [a].
        context: KV tokens of a row, [b].
        seconds: [a, b]; where memory did not allow a measurement, continued in proportion to the KV.
        most: Largest rows x context that was measured.
    """

    kv_heads: Count
    mha: bool
    rows: Axis
    context: Axis
    seconds: Sequence[Sequence[float]]
    most: Positive

    def _check(self, kind: str) -> None:
        _check_values(kind, "seconds", self.seconds, len(self.rows), len(self.context))

    def line(self, rows: float, kv_heads: float) -> Line:
        """Return the time by KV tokens per row, for so many rows of so many KV heads."""
        tasks = rows * kv_heads / self.kv_heads
        return Line(self.context, [Line(self.rows, column)(tasks) for column in np.array(self.seconds).T])


@dataclass(frozen=True, kw_only=True)
class PromptAttention(Table):
    """Whole prompts, causal, in one layer: seconds by prompts x query heads and tokens per prompt.

    Attributes:
        group: Query heads per KV head.
        heads: Prompts times query heads (of `HEAD_DIM`), [a].
        tokens: Of each prompt, [b].
        seconds: [a, b].
    """

    group: int
    heads: Axis
    tokens: Axis
    seconds: Sequence[Sequence[float]]

    def _check(self, kind: str) -> None:
        if len(self.heads) < 2 or len(self.tokens) < 2:
            raise InputError(f"hardware: {kind}: heads and tokens must have two places or more")
        _check_values(kind, "seconds", self.seconds, len(self.heads), len(self.tokens))


def prompt_surface(tables: Sequence[PromptAttention], group: float) -> Surface:
    """Return the time by prompts x heads and tokens, for any number of query heads per KV head.

    Between two measured groups the logarithm of the time is linear in that of the group; the tables share their axes.
    """
    groups = np.log([table.group for table in tables])
    start, part = _between(groups, float(np.log(group)))
    seconds = np.array(tables[start].seconds)
    if part:
        seconds = seconds ** (1 - part) * np.array(tables[start + 1].seconds) ** part
    return Surface(tables[start].heads, tables[start].tokens, seconds.tolist())


@dataclass(frozen=True, kw_only=True)
class ChunkAttention(Table):
    """Chunks of prompts over the KV of what came before, in one layer.

    Attributes:
        walk_context: Longest context of a chunk, [c].
        walk_seconds: Time of one head alone along it, [c]: the least that any chunk takes.
        queries: Query tokens of all chunks, of `QUERY_HEADS` heads (other heads in proportion), [a]; empty where no
            chunks were measured. Then, and where there are more of them than twice the mean context, which one
            chunk of `QUERY_HEADS` heads cannot have, a chunk of c tokens after p takes what a prompt of p + c takes
            longer than one of p.
        context: Mean number of keys that a query token meets, [b].
        seconds: [a, b].
    """

    walk_context: Axis
    walk_seconds: Sequence[float]
    queries: Sequence[float] = ()
    context: Sequence[float] = ()
    seconds: Sequence[Sequence[float]] = ()

    def _check(self, kind: str) -> None:
        _check_values(kind, "walk_seconds", self.walk_seconds, len(self.walk_context))
        if len(self.queries):
            ascending(f"hardware: {kind}.queries", self.queries)
            ascending(f"hardware: {kind}.context", self.context)
            _check_values(kind, "seconds", self.seconds, len(self.queries), len(self.context))

    def walk(self) -> Line:
        """Return the least time by the longest context."""
        return Line(self.walk_context, self.walk_seconds)

    def surface(self) -> Surface | None:
        """Return the time by query tokens and mean context, if it was measured."""
        return Surface(self.queries, self.context, self.seconds) if len(self.queries) else None


@dataclass(frozen=True, kw_only=True)
class Elementwise(Table):
    """Norms, rotary embedding and activation of one layer: seconds by the bytes that they read and write.

    Attributes:
        bytes_moved: [a].
        seconds: [a].
        sample_seconds: Choosing the next tokens of a step, whatever their number.
        logit_seconds: The same, for each row and word of the vocabulary.
    """

    bytes_moved: Axis
    seconds: Sequence[float]
    sample_seconds: float = 0.0
    logit_seconds: float = 0.0

    def _check(self, kind: str) -> None:
        _check_values(kind, "seconds", self.seconds, len(self.bytes_moved))

    def line(self) -> Line:
        """Return the time by bytes."""
        return Line(self.bytes_moved, self.seconds)


@dataclass(frozen=True, kw_only=True)
class AllReduce(Table):
    """Sum over the GPUs of a node: seconds by message size, for each number of GPUs that was measured.

    Attributes:
        message: Bytes, [a].
        seconds: By number of GPUs, [a] each.
    """

    message: Axis
    seconds: Mapping[int, Sequence[float]]

    def __post_init__(self) -> None:
        """Read numbers of GPUs that are text, as JSON names its entries, and refuse what is none."""
        if isinstance(self.seconds, Mapping):
            seconds = {int(gpus) if str(gpus).isdecimal() else gpus: each for gpus, each in self.seconds.items()}
            object.__setattr__(self, "seconds", seconds)
        super().__post_init__()

    def _check(self, kind: str) -> None:
        if not isinstance(self.seconds, Mapping) or not all(isinstance(gpus, int) for gpus in self.seconds):
            raise InputError(f"hardware: {kind}: seconds must be a list for each number of GPUs")
        for gpus, values in self.seconds.items():
            _check_values(kind, f"seconds.{gpus}", values, len(self.message))

    def line(self, gpus: int) -> Line:
        """Return the time by bytes."""
        return Line(self.message, self.seconds[gpus])


@dataclass(frozen=True, kw_only=True)
class KernelTables(Device):
    """A GPU whose kernels were measured.

    Attributes:
        license: Of the measurements.
        attention_launch_s: Time per layer of every attention launch after the first.
        matrices: Linear operators and the output head.
        decode: Decode attention, by KV heads.
        prompts: Attention of whole prompts, by query heads per KV head, on the same axes.
        chunks: Attention of chunks.
        elementwise: Everything else in a layer.
        all_reduce: Communication; None: not measured, and tensor parallelism is refused.
    """

    license: str
    attention_launch_s: Seconds
    matrices: Annotated[MatrixProduct, Kind(MatrixProduct)]
    decode: Annotated[Sequence[DecodeAttention], Kind(DecodeAttention, several=True)]
    prompts: Annotated[Sequence[PromptAttention], Kind(PromptAttention, several=True)]
    chunks: Annotated[ChunkAttention, Kind(ChunkAttention)]
    elementwise: Annotated[Elementwise, Kind(Elementwise)]
    all_reduce: Annotated[AllReduce | None, Kind(AllReduce)] = None

    def decode_for(self, mha: bool, kv_heads: float) -> DecodeAttention:
        """Return the closest table of decode attention: one query head per KV head or several, then the KV heads."""
        return min(
            self.decode, key=lambda t: (t.mha != mha, t.kv_heads > kv_heads, abs(math.log(t.kv_heads / kv_heads)))
        )
