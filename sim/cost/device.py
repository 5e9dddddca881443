"""What a device can do, and how long an iteration takes on it: one function of its `Work`.

`CostModel` is what the engine and the metrics ask. `sim.cost.datasheet`, `sim.cost.profile` and
`sim.cost.kernels.calibrated` answer, each for one kind of device.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.checks import InputError
from policies.policy import Traits
from sim.cost.model import Model
from sim.cost.work import Work

if TYPE_CHECKING:
    from sim.cost.engine_constants import EngineConstants


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


Array = npt.NDArray[np.float64]


class Demand(NamedTuple):
    """What an iteration asks of a GPU that it shares: seconds of FLOPs and of memory traffic at reachable rates."""

    flops_s: float
    traffic_s: float


def computed_slots(work: Work) -> Any:
    """Token slots that went through the linear layers, whether they served anybody. Takes counts or arrays."""
    return computed_rows(work) + work.prefill_tokens + work.prefill_padding + work.insertion_padding


def computed_rows(work: Work) -> Any:
    """Rows that a decode step computed, finished ones and dummies counted. Takes counts or arrays."""
    return work.rows + work.held_rows + work.dummy_rows


def decode_kv(work: Work) -> Any:
    """KV slots that decode attention read, for whomever. Takes counts or arrays."""
    return work.kv_read + work.kv_held + work.kv_padding + work.kv_dummy


class CostModel(ABC):
    """Prices `Work` of one model on one device.

    Attributes:
        hardware: The device.
        model: The model.
        counts_insertions: Whether a decode step takes longer for rows that it decodes for the first time.
        has_range: Whether costs were measured, so that iterations can be `beyond` what was.
        extrapolated: What this model needs of the device and was not measured on it, in words.
    """

    counts_insertions = False
    has_range = False
    extrapolated: tuple[str, ...] = ()

    def __init__(self, hardware: Device, model: Model) -> None:
        """Know whose rates and dimensions count."""
        self.hardware = hardware
        self.model = model

    @abstractmethod
    def seconds(self, work: Work) -> float:
        """Duration of one iteration alone on its GPU, in seconds: `seconds_each` of one, and much faster."""

    def decode_seconds(self, rows: int, kv: int, launches: int, copied: int, host: int, inserted: int) -> float:
        """Duration of a decode step that computes `rows` rows and reads `kv` tokens for them: `seconds` of it."""
        return self.seconds(
            Work(
                rows=rows,
                inserted_rows=inserted,
                kv_read=kv,
                kv_copied=copied,
                kv_host=host,
                attention_launches=launches,
            )
        )

    @abstractmethod
    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""

    @abstractmethod
    def growth(self, rows: int, kv: int, added: int) -> tuple[float, float]:
        """How much longer, in seconds, each decode step takes than the one before, and for how many steps that holds.

        The first of these steps computes `rows` rows and reads `kv` tokens, each later one `added` tokens more.
        """

    @abstractmethod
    def demand(self, work: Work) -> Demand:
        """What an iteration asks of each shared resource: two that run at once slow each other by what exceeds it."""

    def beyond(self, work: Work) -> npt.NDArray[np.bool_]:
        """Return which of many iterations are larger than any that was measured: none, where nothing was."""
        return np.zeros(np.shape(work.rows), dtype=bool)

    def useful_flops(self, work: Work) -> Any:
        """FLOPs that served a request: no padding, no finished rows, nothing a second time. Takes counts or arrays."""
        model = self.model
        tokens = work.rows + work.prefill_tokens - work.recomputed_tokens
        sampled = work.rows + work.prefill_rows
        pairs = work.prefill_pairs - work.recomputed_pairs + work.kv_read
        linear = 2 * (tokens * (model.layers * model.layer_parameters) + sampled * model.head_parameters)
        return linear + pairs * model.attention_flops_per_pair

    def moved_bytes(self, work: Work) -> Any:
        """Bytes read or written in GPU memory, padding and dummies counted. Takes counts or arrays."""
        model = self.model
        weights = (model.layers * model.layer_parameters + model.head_parameters) * model.bytes_per_value
        slots = computed_slots(work)
        kv = decode_kv(work) + work.prefill_kv + 2 * work.kv_copied
        return (slots > 0) * weights + kv * model.kv_bytes_per_token

    def link_seconds(self, tokens: int) -> float:
        """Time to send the KV of `tokens` tokens to another GPU."""
        return tokens * self.model.kv_bytes_per_token / self.hardware.gpu_bandwidth
