"""A GPU whose kernels were measured; what iterations take on it is in `sim.calibrated_cost`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policies.errors import InputError
from policies.policy import Traits
from sim.engine_constants import IDEAL, EngineConstants
from sim.hardware import Device
from sim.kernels import (
    AllReduce,
    ChunkAttention,
    DecodeAttention,
    Elementwise,
    MatrixProduct,
    PromptAttention,
)
from sim.model import Model

if TYPE_CHECKING:
    from sim.calibrated_cost import CalibratedCost


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
        from sim.calibrated_cost import CalibratedCost

        return CalibratedCost(self, model)


_TABLES: dict[str, type] = {
    "matrices": MatrixProduct,
    "chunks": ChunkAttention,
    "elementwise": Elementwise,
    "all_reduce": AllReduce,
    "engine": EngineConstants,
}
_LISTS: dict[str, type] = {"decode": DecodeAttention, "prompts": PromptAttention}
