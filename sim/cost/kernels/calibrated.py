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
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from policies.checks import InputError
from policies.policy import Traits
from sim.cost.device import (
    FOREVER,
    Array,
    CostModel,
    DecodeLine,
    Demand,
    Steps,
    computed_rows,
    computed_slots,
    decode_kv,
)
from sim.cost.engine_constants import IDEAL, EngineConstants
from sim.cost.kernels.shard import ShardTimes
from sim.cost.kernels.tables import KernelTables
from sim.cost.model import Model
from sim.cost.rules import Kind
from sim.cost.work import Work


@dataclass(frozen=True, kw_only=True)
class Calibrated(KernelTables):
    """A GPU, or several that share each layer, whose kernels were measured, with what runs on it.

    Attributes:
        engine: What runs on it, as the root option `engine` says.
        tensor_parallel: GPUs that share each layer, as the root option says.
    """

    takes_engine = True

    engine: Annotated[EngineConstants, Kind(EngineConstants)] = IDEAL
    tensor_parallel: int = 1

    def deployed(self, engine: EngineConstants, tensor_parallel: int) -> "Calibrated":
        """Return the same GPUs under an engine, so many of them sharing each layer.

        Raises:
            InputError: Communication between so many was not measured.
        """
        counts = self.gpu_counts
        if tensor_parallel > 1 and tensor_parallel not in counts:
            remedy = f"it was for {', '.join(map(str, counts))} GPUs" if counts else "use tensor_parallel=1"
            raise InputError(
                f"tensor_parallel={tensor_parallel}: communication of hardware={self.name} was not measured; {remedy}"
            )
        return replace(self, engine=engine, tensor_parallel=tensor_parallel)

    @property
    def gpu_counts(self) -> list[int]:
        """Numbers of GPUs whose communication was measured, ascending."""
        return sorted(self.all_reduce.seconds) if self.all_reduce else []

    @property
    def gpus(self) -> int:
        """GPUs that share each layer."""
        return self.tensor_parallel

    def cost_model(self, model: Model, traits: Traits) -> "CalibratedCost":
        """Return what prices the iterations of a model; the kernels are the same for every layout.

        Raises:
            InputError: The model's weights are not 16 bits wide, or its layers cannot be shared by so many GPUs.
        """
        return CalibratedCost(self, model)


REACHABLE = 0.75
"""Share of the datasheet's rates that two lanes on one GPU can reach together."""


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
        self._kernels = kernels = ShardTimes(hardware, model, gpus, engine.matrix_factor)
        self._layers, self._head = kernels.layers, kernels.head
        self.extrapolated = kernels.extrapolated
        self._mixed = engine.mixed_factor
        self._step_s = engine.step_overhead_s
        self._host_floor_s = model.layers * engine.host_layer_s
        self.launch_s = model.layers * hardware.attention_launch_s
        self.copy_s = 2 * model.kv_bytes_per_token / gpus / (REACHABLE * hardware.memory_bandwidth)
        self.host_s = model.kv_bytes_per_token / gpus / hardware.host_bandwidth

    def decode(self, rows: int) -> DecodeLine:
        """What decode steps of so many rows take: a line in the KV of a row, bent at the points of a table.

        The host hides what the device takes longer, until that overtakes it.
        """
        fixed, attention_at = self._layers(rows) + self._head(rows), self._kernels.decode(rows).piece
        step, host = self._step_s, self._host_floor_s

        def steps(kv: int, added: int) -> Steps:
            context = kv / rows
            attention, slope, bend = attention_at(context)
            device = fixed + attention
            first = step + (device if device > host else host)
            if not added:
                return first, 0.0, FOREVER
            longer = added / rows
            slope *= longer
            alike = FOREVER if bend == math.inf else math.floor((bend - context) / longer) + 1
            late = host - fixed - attention
            if late <= 0:
                return first, slope, alike
            return first, 0.0, min(alike, math.floor(late / slope) + 1 if slope else FOREVER)

        return steps

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
                attention = self._kernels.decode(rows)(kv / rows)
                seconds += self._mixed * attention if prompts else attention
            pairs += padding_pairs + insertion_pairs
            if prompts and queries > 0 and pairs > 0:
                seconds += self._kernels.prefill(prompts, queries, pairs, past)
            if seconds < self._host_floor_s:
                seconds = self._host_floor_s
        if launches > 1 or copied or host:
            seconds = self.moved(seconds, rows, kv, launches, copied, host, inserted)
        return seconds + self._step_s

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
        moved = work.kv_copied * self.copy_s + work.kv_host * self.host_s
        return {
            "layers": np.where(slots > 0, self._layers.each(slots), 0.0),
            "head": np.where(slots > 0, self._head.each(rows + prompts), 0.0),
            "decode": np.where(prompts > 0, self._mixed, 1.0) * self._decode_each(rows, work),
            "prefill": self._prefill_each(work),
            "step": np.full(slots.shape, self._step_s),
            "moved": np.asarray(launches + moved, dtype=np.float64),
        }

    def _decode_each(self, rows: npt.NDArray[Any], work: Work) -> Array:
        kv = np.asarray(decode_kv(work), dtype=np.float64)
        seconds = np.zeros(rows.shape)
        for count in np.unique(rows[rows > 0]).tolist():
            which = rows == count
            seconds[which] = self._kernels.decode(count).each(kv[which] / count)
        return seconds

    def _prefill_each(self, work: Work) -> Array:
        tokens = np.asarray(work.prefill_tokens + work.prefill_padding + work.insertion_padding, dtype=np.float64)
        pairs: Any = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        some = (np.asarray(work.prefill_rows) > 0) & (tokens > 0) & (np.asarray(pairs) > 0)
        total = np.zeros(tokens.shape)
        if not some.any():
            return total
        counts: Any = (work.prefill_rows, tokens, pairs, work.prefill_kv)
        total[some] = self._kernels.prefill_each(*(np.asarray(count, dtype=np.float64)[some] for count in counts))
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
        shard, decode, chunks = self._kernels.shard, self._kernels.decode_table, self.hardware.chunks
        scale, longest = shard.kv_heads / decode.kv_heads, self.hardware.prompts[0].tokens[-1]
        outside = computed_slots(work) > self.hardware.matrices.tokens[-1]
        outside |= (rows * scale > decode.rows[-1]) | (kv > np.maximum(rows, 1) * decode.context[-1])
        outside |= kv * scale > decode.most
        tokens = np.asarray(work.prefill_tokens + work.prefill_padding + work.insertion_padding, dtype=np.float64)
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        outside |= pairs > tokens * (chunks.context[-1] if len(chunks.context) else longest)
        outside |= work.prefill_rows * shard.heads > self.hardware.prompts[0].heads[-1]
        return np.asarray(outside)


_OUTSIDE = ("step", "moved")
"""Parts that no kernel hides."""
