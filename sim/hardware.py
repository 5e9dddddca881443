"""What a device can do: what any kind of hardware tells a run, and the kind that a datasheet describes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from policies.errors import InputError
from policies.policy import Traits

if TYPE_CHECKING:
    from sim.cost import CostModel
    from sim.engine_constants import EngineConstants
    from sim.model import Model


@dataclass(frozen=True, kw_only=True)
class Device(ABC):
    """One GPU, or the machine itself, and how long work takes on it.

    Attributes:
        name: Its name in results.
        source: Where its figures come from.
        peak_flops: Rate that MFU is a share of, FLOP/s.
        memory_bandwidth: Rate that MBU is a share of, bytes/s.
        memory_bytes: Device memory.
        host_bandwidth: Bytes/s to host memory, one direction.
        gpu_bandwidth: Bytes/s to another GPU of the node, one direction.
        usable_memory: Share of `memory_bytes` that weights and KV may take.
        takes_engine: Whether an engine's constants are added, or its figures hold an engine's overheads already.
    """

    takes_engine: ClassVar[bool] = False

    name: str
    source: str
    peak_flops: float
    memory_bandwidth: float
    memory_bytes: float
    host_bandwidth: float
    gpu_bandwidth: float
    usable_memory: float = 0.9

    @abstractmethod
    def cost_model(self, model: "Model", traits: Traits) -> "CostModel":
        """Return what prices the iterations of a model under policies with these traits.

        Raises:
            InputError: this hardware cannot tell.
        """

    def deployed(self, engine: "EngineConstants", tensor_parallel: int) -> "Device":
        """Return what runs when an engine uses so many of these GPUs as one.

        Efficiencies that were met on whole iterations, and profiles, hold an engine's overheads already.

        Raises:
            InputError: nothing is known of several GPUs.
        """
        if tensor_parallel > 1:
            raise InputError(
                f"tensor_parallel={tensor_parallel}: hardware={self.name} has no figures for communication between "
                "GPUs; use tensor_parallel=1, or a calibrated hardware such as h100_sxm"
            )
        return self

    def engine_on(self, engine: "EngineConstants") -> "EngineConstants":
        """Return the engine whose latency the requests of a run on it see: the one that is asked for."""
        return engine

    @property
    def known_together(self) -> list[int]:
        """Of how many such GPUs it is known how they share layers, ascending; one alone left out."""
        return []

    @property
    def gpus(self) -> int:
        """GPUs that this is: more than one where several share each layer."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Hardware(Device):
    """One GPU by its datasheet: rates, and the share of them that kernels reach.

    Attributes:
        peak_flops: Dense bf16/fp16 tensor-core rate, FLOP/s.
        flops_efficiency: Share of `peak_flops` that matrix kernels reach.
        bandwidth_efficiency: Share of `memory_bandwidth` that streaming kernels reach.
        layer_overhead_s: Time per layer that neither rate explains, with one attention launch.
        step_overhead_s: Time per iteration outside the layers.
        attention_launch_s: Time per layer of every attention launch after the first.
    """

    flops_efficiency: float = 0.75
    bandwidth_efficiency: float = 0.8
    layer_overhead_s: float = 12e-6
    step_overhead_s: float = 0.5e-3
    attention_launch_s: float = 5e-6

    def cost_model(self, model: "Model", traits: Traits) -> "CostModel":
        """Return the roofline; its kernels are the same for every layout."""
        from sim.cost import Roofline

        return Roofline(self, model)

    def __post_init__(self) -> None:
        """Refuse what is no number, rates that are not positive and shares outside (0, 1]."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                if not isinstance(value, str):
                    raise InputError(f"hardware.{field.name}={value}: must be text")
                continue
            overhead = field.name.endswith("_s")
            share = field.name.endswith("efficiency") or field.name == "usable_memory"
            number = isinstance(value, int | float) and not isinstance(value, bool)
            low_enough = number and (value <= 1 if share else value < float("inf"))
            if not (low_enough and (value >= 0 if overhead else value > 0)):
                bound = "0 or more" if overhead else "above 0 and at most 1" if share else "above 0"
                raise InputError(f"hardware.{field.name}={value}: must be a number {bound}")
