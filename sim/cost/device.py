"""What a device can do, and how long an iteration takes on it: one function of its `Work`.

`CostModel` is what the engine and the metrics ask. `sim.cost.datasheet`, `sim.cost.profile` and
`sim.cost.kernels.calibrated` answer, each for one kind of device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.checks import Checked, InputError
from policies.policy import Traits
from sim.cost.engine_constants import EngineConstants
from sim.cost.model import Model
from sim.cost.rules import Positive, Share
from sim.cost.work import Work


@dataclass(frozen=True, kw_only=True)
class Device(Checked, ABC, option="hardware"):
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
    peak_flops: Positive
    memory_bandwidth: Positive
    memory_bytes: Positive
    host_bandwidth: Positive
    gpu_bandwidth: Positive
    usable_memory: Share = 0.9

    @abstractmethod
    def cost_model(self, model: Model, traits: Traits) -> "CostModel":
        """Return what prices the iterations of a model under policies with these traits.

        Raises:
            InputError: this hardware cannot tell.
        """

    def deployed(self, engine: EngineConstants, tensor_parallel: int) -> "Device":
        """Return what runs when an engine uses so many of these GPUs as one.

        Efficiencies that were met on whole iterations, and profiles, hold an engine's overheads already.

        Raises:
            InputError: communication between several GPUs was not measured.
        """
        if tensor_parallel > 1:
            raise InputError(
                f"tensor_parallel={tensor_parallel}: hardware={self.name} has no figures for communication between "
                "GPUs; use tensor_parallel=1, or a calibrated hardware such as h100_sxm"
            )
        return self

    def engine_on(self, engine: EngineConstants) -> EngineConstants:
        """Return the engine whose latency the requests of a run on it see: the one that is asked for."""
        return engine

    def doubts(self) -> list[str]:
        """Return what speaks against its figures, as sentences: nothing, unless it was measured and met badly."""
        return []

    @property
    def gpu_counts(self) -> list[int]:
        """Numbers of GPUs whose communication was measured, ascending; one alone left out."""
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


Steps = tuple[float, float, float]
"""Like decode steps in a row: seconds of the first; how much longer each later one takes; for how many that holds."""

DecodeLine = Callable[[int, int], Steps]
"""What decode steps of some number of rows take, but for launches and moves: a line in KV, with what bends it has.

Takes the KV tokens that the first step reads, and how many more each later one does."""

FOREVER = math.inf
"""Steps for which a line without a bend holds."""


class CostModel(ABC):
    """Prices `Work` of one model on one device.

    A subclass says what a decode step takes by its rows (`decode`) and what any other iteration takes (`prefill`); one
    whose launches and moves have no plain rates says what they add (`moved`). The rest follows. `seconds_each` says the
    same of arrays.

    Attributes:
        hardware: The device.
        model: The model.
        counts_insertions: Whether a decode step takes longer for rows that it decodes for the first time.
        has_range: Whether costs were measured, so that iterations can be `beyond` what was.
        extrapolated: What this model needs of the device and was not measured on it, in words.
        launch_s: Seconds of every attention launch after the first, all layers.
        copy_s: Seconds of each KV token that is copied inside GPU memory.
        host_s: Seconds of each KV token that is moved to or from host memory.
        launches_within: Attention launches that `decode` counts already.
    """

    counts_insertions = False
    has_range = False
    extrapolated: tuple[str, ...] = ()
    launch_s = copy_s = host_s = 0.0
    launches_within = 1

    def __init__(self, hardware: Device, model: Model) -> None:
        """Know whose rates and dimensions count."""
        self.hardware = hardware
        self.model = model
        self._lines: dict[int, DecodeLine] = {}

    @abstractmethod
    def decode(self, rows: int) -> DecodeLine:
        """What decode steps take that compute so many rows, at least one, by the KV that they read for them."""

    @abstractmethod
    def prefill(self, work: Work) -> float:
        """Seconds of an iteration that prefills, or that computes no row at all."""

    @abstractmethod
    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""

    @abstractmethod
    def demand(self, work: Work) -> Demand:
        """What an iteration asks of each shared resource: two that run at once slow each other by what exceeds it."""

    def moved(self, seconds: float, rows: int, kv: int, launches: int, copied: int, host: int, inserted: int) -> float:
        """Seconds of an iteration that takes `seconds` but for its launches and moves."""
        if launches > 1:
            seconds += (launches - 1) * self.launch_s
        if copied or host:
            seconds += copied * self.copy_s + host * self.host_s
        return seconds

    def seconds(self, work: Work) -> float:
        """Duration of one iteration alone on its GPU, in seconds: `seconds_each` of one, and much faster."""
        if work.prefill_rows:
            return self.prefill(work)
        (
            _, live, held, inserted, _, tokens, _, padding, _, insertion, _, kv_read, kv_held, kv_padding,
            copied, host, launches, _, _, _, dummies, kv_dummy,
        ) = work  # fmt: skip
        rows, kv = live + held + dummies, kv_read + kv_held + kv_padding + kv_dummy
        if not rows or tokens or padding or insertion:
            return self.prefill(work)
        return self.decode_steps(rows, kv, 0, launches, copied, host, inserted)[0]

    def decode_steps(
        self, rows: int, kv: int, added: int, launches: int = 1, copied: int = 0, host: int = 0, inserted: int = 0
    ) -> Steps:
        """What decode steps in a row take, the first reading `kv` tokens and each later one `added` tokens more."""
        try:
            line = self._lines[rows]
        except KeyError:
            line = self._lines[rows] = self.decode(rows)
        steps = line(kv, added)
        if launches > self.launches_within or copied or host or inserted:
            first, growth, alike = steps
            return self.moved(first, rows, kv, launches, copied, host, inserted), growth, alike
        return steps

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

    def computed_flops(self, work: Work) -> Any:
        """FLOPs that were computed, whoever they served. Takes counts or arrays."""
        model = self.model
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs + decode_kv(work)
        sampled = computed_rows(work) + work.prefill_rows
        linear = computed_slots(work) * model.layers * model.layer_parameters + sampled * model.head_parameters
        return 2 * linear + pairs * model.attention_flops_per_pair

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
