"""A GPU whose kernels were measured, and what an iteration of any dense model takes on it.

Per layer the linear operators, the element-wise work and, with tensor parallelism, two all-reduces of all computed
slots; decode attention; prefill attention; then the output head over the rows that sample. An engine adds constants:

    b + L * (g * matrices(slots) + elementwise(slots) + 2 * all_reduce(slots) + u * decode(rows, KV) + prefill)
      + g * head

u counts in iterations that also prefill. Decode attention is piecewise linear in KV for a fixed number of rows, so runs
of like iterations are summed in closed form, piece by piece. `Work` is an aggregate: its prefill is priced as that many
equal chunks with the same tokens and the same (query, key) pairs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.checks import InputError
from policies.policy import Traits
from sim.cost.device import Array, CostModel, DecodeTime, Demand, Device, computed_rows, computed_slots, decode_kv
from sim.cost.engine_constants import IDEAL, EngineConstants
from sim.cost.kernels.curve import Line
from sim.cost.kernels.shard import shard_of
from sim.cost.kernels.tables import (
    HEAD_DIM,
    QUERY_HEADS,
    AllReduce,
    ChunkAttention,
    DecodeAttention,
    Elementwise,
    MatrixProduct,
    PromptAttention,
    prompt_surface,
)
from sim.cost.model import Model
from sim.cost.work import Work


@dataclass(frozen=True, kw_only=True)
class Calibrated(Device):
    """A GPU, or several that share each layer, whose kernels were measured.

    Attributes:
        license: Of the measurements.
        attention_launch_s: Time per layer of every attention launch after the first.
        matrices: Linear operators and the output head.
        decode: Decode attention, by KV heads.
        prompts: Attention of whole prompts, by query heads per KV head, on the same axes.
        chunks: Attention of chunks.
        elementwise: Everything else in a layer.
        all_reduce: Communication; None: not measured, and tensor parallelism is refused.
        engine: What runs on it, as the root option `engine` says.
        tensor_parallel: GPUs that share each layer, as the root option says.
    """

    takes_engine = True

    license: str
    attention_launch_s: float
    matrices: MatrixProduct
    decode: Sequence[DecodeAttention]
    prompts: Sequence[PromptAttention]
    chunks: ChunkAttention
    elementwise: Elementwise
    all_reduce: AllReduce | None = None
    engine: EngineConstants = IDEAL
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        """Refuse rates that are no positive numbers, and tables of another kind."""
        for option in ("peak_flops", "memory_bandwidth", "memory_bytes", "host_bandwidth", "gpu_bandwidth"):
            value = getattr(self, option)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise InputError(f"hardware.{option}={value}: must be a number above 0")
        for option, kind in _TABLES.items():
            value = getattr(self, option)
            if not isinstance(value, kind) and not (option == "all_reduce" and value is None):
                raise InputError(f"hardware.{option}: must be a {kind.__module__}.{kind.__name__}")
        for option, kind in _LISTS.items():
            value = getattr(self, option)
            if not isinstance(value, list | tuple) or not value or not all(isinstance(one, kind) for one in value):
                raise InputError(f"hardware.{option}: must be a list of {kind.__module__}.{kind.__name__}")

    def deployed(self, engine: EngineConstants, tensor_parallel: int) -> "Calibrated":
        """Return the same GPUs under an engine, so many of them sharing each layer.

        Raises:
            InputError: Communication between so many was not measured.
        """
        measured = self.known_together
        if tensor_parallel > 1 and tensor_parallel not in measured:
            known = f"it was for {', '.join(map(str, measured))} GPUs" if measured else "use tensor_parallel=1"
            raise InputError(
                f"tensor_parallel={tensor_parallel}: communication of hardware={self.name} was not measured; {known}"
            )
        return replace(self, engine=engine, tensor_parallel=tensor_parallel)

    @property
    def known_together(self) -> list[int]:
        """Of how many GPUs communication was measured, ascending."""
        return sorted(self.all_reduce.seconds) if self.all_reduce else []

    @property
    def gpus(self) -> int:
        """GPUs that share each layer."""
        return self.tensor_parallel

    def decode_for(self, mha: bool, kv_heads: float) -> DecodeAttention:
        """Return the closest table of decode attention: one query head per KV head or several, then the KV heads."""
        return min(
            self.decode, key=lambda t: (t.mha != mha, t.kv_heads > kv_heads, abs(math.log(t.kv_heads / kv_heads)))
        )

    def cost_model(self, model: Model, traits: Traits) -> "CalibratedCost":
        """Return what prices the iterations of a model; the kernels are the same for every layout.

        Raises:
            InputError: The model's weights are not 16 bits wide, or its layers cannot be shared by so many GPUs.
        """
        return CalibratedCost(self, model)


_TABLES: dict[str, type] = {
    "matrices": MatrixProduct,
    "chunks": ChunkAttention,
    "elementwise": Elementwise,
    "all_reduce": AllReduce,
    "engine": EngineConstants,
}
_LISTS: dict[str, type] = {"decode": DecodeAttention, "prompts": PromptAttention}


STREAMING = 0.9
"""Share of the memory bandwidth that reading KV reaches at most: tables may have found theirs in the cache."""
REACHABLE = 0.75
"""Share of the datasheet's rates that two lanes on one GPU can reach together."""


class BentTime(DecodeTime):
    """A decode step whose attention is a line by the KV of a row, bent at the points of a table."""

    __slots__ = ("_attention", "_fixed", "_host_floor", "_rows", "_step")

    def __init__(self, rows: int, attention: Line, fixed: float, host_floor: float, step: float) -> None:
        """Take the rows, and seconds: of other kernels, of the host at least, and of the engine's own work."""
        self._attention = attention
        self._rows = rows
        self._fixed = fixed
        self._host_floor = host_floor
        self._step = step

    def steps(self, kv: int, added: int) -> tuple[float, float, float]:
        """What steps in a row take, up to the next bend or to where the device overtakes the host."""
        rows, fixed, floor = self._rows, self._fixed, self._host_floor
        context = kv / rows
        attention, slope, bend = self._attention.piece(context)
        device = fixed + attention
        first = self._step + (device if device > floor else floor)
        if not added:
            return first, 0.0, math.inf
        longer = added / rows
        slope *= longer
        alike = math.inf if bend == math.inf else math.floor((bend - context) / longer) + 1
        late = floor - fixed - attention
        if late <= 0:
            return first, slope, alike
        return first, 0.0, min(alike, math.floor(late / slope) + 1 if slope else math.inf)


class CalibratedCost(CostModel):
    """Prices `Work` by measured kernels.

    Attributes:
        engine: Whose constants are counted.
    """

    has_range = True

    hardware: Calibrated

    def __init__(self, hardware: Calibrated, model: Model) -> None:
        """Bring every table to the dimensions of one GPU's share of the model."""
        if model.bytes_per_value != 2:
            raise InputError(
                f"model.bytes_per_value={model.bytes_per_value}: kernels of hardware={hardware.name} were measured "
                f"with 2 (bf16, fp16); give model.dtype=bfloat16 (model=hf), or use hardware={hardware.name}_datasheet"
            )
        super().__init__(hardware, model)
        self.engine = engine = hardware.engine
        self._gpus = gpus = hardware.tensor_parallel
        self._shard = shard_of(model, gpus)
        self._decode = hardware.decode_for(model.heads == model.kv_heads, self._shard.kv_heads)
        group = self._shard.heads / self._shard.kv_heads
        self._prompts = prompt_surface(hardware.prompts, group)
        self._chunks, self._walk = hardware.chunks.surface(), hardware.chunks.walk()
        self.extrapolated = tuple(self._missing(group))
        self._layers = self._layer_line()
        self._head = self._head_line()
        self._queries = self._shard.heads / QUERY_HEADS
        self._mixed = engine.mixed_factor
        self._step_s = engine.step_overhead_s
        self._host_floor_s = model.layers * engine.host_layer_s
        self.launch_s = model.layers * hardware.attention_launch_s
        self._kv_read_s = model.kv_bytes_per_token / gpus / (STREAMING * hardware.memory_bandwidth)
        self.copy_s = 2 * model.kv_bytes_per_token / gpus / (REACHABLE * hardware.memory_bandwidth)
        self.host_s = model.kv_bytes_per_token / gpus / hardware.host_bandwidth
        self._attentions: dict[int, Line] = {}

    def _missing(self, group: float) -> Iterator[str]:
        hardware, model = self.hardware, self.model
        if self._decode.mha != (model.heads == model.kv_heads):
            yield "decode attention with this many query heads per KV head"
        if not hardware.prompts[0].group <= group <= hardware.prompts[-1].group:
            yield "prefill attention with this many query heads per KV head"
        if model.head_dim != HEAD_DIM:
            yield f"attention heads of width {model.head_dim}"
        if not all(hardware.matrices.covers(*shape) for shape in self._shard.matrices):
            yield "matrices of this size"
        if not all(hardware.matrices.measured(*shape) for shape in self._shard.matrices):
            yield from filter(None, [hardware.matrices.extrapolated])
        tables = [self._decode, *hardware.prompts, hardware.chunks, hardware.elementwise]
        yield from dict.fromkeys(table.extrapolated for table in tables if table.extrapolated)

    def _layer_line(self) -> Line:
        """Return the time of all layers, attention apart, by computed slots."""
        hardware, model = self.hardware, self.model
        matrices = hardware.matrices
        rates = hardware.peak_flops, hardware.memory_bandwidth
        products = sum(
            (matrices.seconds(outputs, inputs, *rates) for outputs, inputs in self._shard.matrices),
            np.zeros(len(matrices.tokens)),
        )
        inner = model.intermediate / self._gpus
        moved = 2 * (8 * model.hidden + (3 if model.gated else 2) * inner)
        moved += 4 * HEAD_DIM * (self._shard.heads + self._shard.kv_heads)
        bytes_moved = np.array(hardware.elementwise.bytes_moved)
        places = [np.array(matrices.tokens, dtype=np.float64), bytes_moved / moved]
        if self._gpus > 1 and hardware.all_reduce:
            places.append(np.array(hardware.all_reduce.message) / (2 * model.hidden))
        slots = np.unique(np.concatenate(places))
        slots = slots[(slots >= 1) & (slots <= matrices.tokens[-1])]
        seconds = self.engine.matrix_factor * Line(matrices.tokens, products).each(slots)
        seconds += hardware.elementwise.line().each(slots * moved)
        if self._gpus > 1 and hardware.all_reduce:
            seconds += 2 * hardware.all_reduce.line(self._gpus).each(slots * 2 * model.hidden)
        return Line(slots.tolist(), (model.layers * seconds).tolist())

    def _head_line(self) -> Line:
        """Return the time of the output head and of sampling, by rows that sample."""
        hardware, model = self.hardware, self.model
        rows = np.array(hardware.matrices.tokens, dtype=np.float64)
        vocabulary = model.vocabulary // self._gpus
        seconds = hardware.matrices.seconds(vocabulary, model.hidden, hardware.peak_flops, hardware.memory_bandwidth)
        sampling = hardware.elementwise.sample_seconds + rows * model.vocabulary * hardware.elementwise.logit_seconds
        return Line(rows.tolist(), (self.engine.matrix_factor * seconds + sampling).tolist())

    def decode(self, rows: int) -> BentTime:
        """What a decode step of so many rows takes."""
        fixed = self._layers(rows) + self._head(rows)
        return BentTime(rows, self._attention(rows), fixed, self._host_floor_s, self._step_s)

    def _attention(self, rows: int) -> Line:
        """Return the time of all layers' decode attention of so many rows, by KV tokens per row."""
        line = self._attentions.get(rows)
        if line is None:
            layer = self._decode.line(rows, self._shard.kv_heads)
            layers, read_s = self.model.layers, rows * self._kv_read_s
            values = [
                max(layers * each, context * read_s) for context, each in zip(layer.at, layer.values, strict=True)
            ]
            line = self._attentions[rows] = Line(layer.at, values)
        return line

    def prefill(self, work: Work) -> float:
        """Seconds of an iteration that prefills, or that computes no row at all."""
        (
            _, rows, held, inserted, prompts, tokens, pairs, padding, padding_pairs, insertion, insertion_pairs,
            kv_read, kv_held, kv_padding, copied, host, launches, _, _, past, dummies, kv_dummy,
        ) = work  # fmt: skip
        rows, kv = rows + held + dummies, kv_read + kv_held + kv_padding + kv_dummy
        queries = tokens + padding + insertion
        seconds = 0.0
        if rows or queries or prompts:
            seconds = self._layers(rows + queries) + self._head(rows + prompts)
            if rows:
                attention = self._attention(rows)(kv / rows)
                seconds += self._mixed * attention if prompts else attention
            pairs += padding_pairs + insertion_pairs
            if prompts and queries > 0 and pairs > 0:
                seconds += self._prefill_seconds(prompts, queries, pairs, past)
            if seconds < self._host_floor_s:
                seconds = self._host_floor_s
        if launches > 1 or copied or host:
            seconds = self.moved(seconds, rows, kv, launches, copied, host, inserted)
        return seconds + self._step_s

    def _moved_seconds(self, copied: Any, host: Any) -> Any:
        """Copies that shape the batch, and transfers to the host."""
        return copied * self.copy_s + host * self.host_s

    def _prefill_seconds(self, prompts: int, tokens: int, pairs: int, kv: int) -> float:
        """All layers' prefill attention of so many chunks, query tokens and pairs, over `kv` tokens of the past."""
        chunk, heads = max(1.0, tokens / prompts), prompts * self._shard.heads
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
        return max(self.model.layers * seconds, (kv + tokens) * self._kv_read_s)

    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""
        parts = self.parts(work)
        kernels = sum((seconds for name, seconds in parts.items() if name not in _OUTSIDE), np.zeros(()))
        computing = computed_slots(work) > 0
        kernels = np.where(computing, np.maximum(kernels, self._host_floor_s), 0.0)
        return np.asarray(kernels + parts["step"] + parts["moved"])

    def parts(self, work: Work) -> dict[str, Array]:
        """Return what each part adds to each of many iterations, in seconds, were the host never late."""
        rows, prompts = np.asarray(computed_rows(work)), np.asarray(work.prefill_rows)
        slots = np.asarray(computed_slots(work), dtype=np.float64)
        launches = np.maximum(np.asarray(work.attention_launches) - 1, 0) * self.launch_s
        return {
            "layers": np.where(slots > 0, self._layers.each(slots), 0.0),
            "head": np.where(slots > 0, self._head.each(rows + prompts), 0.0),
            "decode": np.where(prompts > 0, self._mixed, 1.0) * self._decode_each(rows, work),
            "prefill": self._prefill_each(work),
            "step": np.full(slots.shape, self._step_s),
            "moved": np.asarray(launches + self._moved_seconds(work.kv_copied, work.kv_host), dtype=np.float64),
        }

    def _decode_each(self, rows: npt.NDArray[Any], work: Work) -> Array:
        kv = np.asarray(decode_kv(work), dtype=np.float64)
        seconds = np.zeros(rows.shape)
        for count in np.unique(rows[rows > 0]).tolist():
            which = rows == count
            seconds[which] = self._attention(count).each(kv[which] / count)
        return seconds

    def _prefill_each(self, work: Work) -> Array:
        tokens = np.asarray(work.prefill_tokens + work.prefill_padding + work.insertion_padding, dtype=np.float64)
        pairs: Any = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        some = (np.asarray(work.prefill_rows) > 0) & (tokens > 0) & (np.asarray(pairs) > 0)
        total = np.zeros(tokens.shape)
        if not some.any():
            return total
        counts: Any = (tokens, pairs, work.prefill_rows, work.prefill_kv)
        tokens, pairs, rows, kv = (np.asarray(count, dtype=np.float64)[some] for count in counts)
        chunk, heads, context = np.maximum(tokens / rows, 1.0), rows * self._shard.heads, pairs / tokens
        past = context - (chunk + 1) / 2
        before = np.maximum(past, 1.0)
        seconds = self._prompts.each(heads, before + chunk) - self._prompts.each(heads, before)
        if self._chunks:
            queries = tokens * self._queries
            seconds = np.where(queries < 2 * context, self._chunks.each(queries, context), seconds)
        seconds = np.maximum(seconds, self._walk.each(before + chunk))
        seconds = np.where(past < 1, self._prompts.each(heads, chunk), seconds)
        total[some] = np.maximum(self.model.layers * seconds, (kv + tokens) * self._kv_read_s)
        return total

    def demand(self, work: Work) -> Demand:
        """What an iteration asks of each shared resource at reachable rates; neither exceeds `seconds`."""
        alone = self.seconds(work)
        rates = REACHABLE * self._gpus
        flops = self.computed_flops(work) / (rates * self.hardware.peak_flops)
        traffic = (self.moved_bytes(work)) / (rates * self.hardware.memory_bandwidth)
        return Demand(min(flops, alone), min(traffic, alone))

    def beyond(self, work: Work) -> npt.NDArray[np.bool_]:
        """Return which of many iterations are larger than any that a table was measured with."""
        rows = np.asarray(computed_rows(work), dtype=np.float64)
        kv = np.asarray(decode_kv(work), dtype=np.float64)
        decode, chunks, longest = self._decode, self.hardware.chunks, self.hardware.prompts[0].tokens[-1]
        scale = self._shard.kv_heads / decode.kv_heads
        outside = computed_slots(work) > self.hardware.matrices.tokens[-1]
        outside |= (rows * scale > decode.rows[-1]) | (kv > np.maximum(rows, 1) * decode.context[-1])
        outside |= kv * scale > decode.most
        tokens = np.asarray(work.prefill_tokens + work.prefill_padding + work.insertion_padding, dtype=np.float64)
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        outside |= pairs > tokens * (chunks.context[-1] if len(chunks.context) else longest)
        outside |= work.prefill_rows * self._shard.heads > self.hardware.prompts[0].heads[-1]
        return np.asarray(outside)


_OUTSIDE = ("step", "moved")
"""Parts that no kernel hides."""
