"""How long an iteration takes: one function of its `Work`.

`CostModel` is what the engine and the metrics ask. `Roofline` answers from a datasheet: linear layers take the longer
of reading their weights and multiplying the computed token slots; attention reads KV in decode; in prefill it takes the
longer of multiplying (query, key) pairs and reading the KV of earlier chunks; shaping copies KV inside the GPU; parking
moves it over the host link; every attention launch after the first, every layer and every step has a fixed time. For
decode steps all terms but the first maximum are linear in `Work`, which is what lets a run of like iterations be summed
in closed form.

The shape and the default efficiencies (0.8 of the bandwidth, 0.75 of the FLOPs, 12 us per layer, 0.5 ms per step) met
real vLLM runs on an H100 within 6 %. Activations, norms and element-wise work are inside the fixed time per layer.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.work import Work
from sim.hardware import Device, Hardware
from sim.model import Model

Array = npt.NDArray[np.float64]


_new = tuple.__new__


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


class Roofline(CostModel):
    """Prices `Work` by the rates of a datasheet."""

    def __init__(self, hardware: Hardware, model: Model) -> None:
        """Derive the coefficients, each in seconds per unit of work."""
        super().__init__(hardware, model)
        flops = hardware.peak_flops * hardware.flops_efficiency
        bandwidth = hardware.memory_bandwidth * hardware.bandwidth_efficiency
        kv_bytes = model.kv_bytes_per_token
        self._layers_flops_s = 2 * model.layers * model.layer_parameters / flops
        self._layers_read_s = model.layers * model.layer_parameters * model.bytes_per_value / bandwidth
        self._head_flops_s = 2 * model.head_parameters / flops
        self._head_read_s = model.head_parameters * model.bytes_per_value / bandwidth
        self._pair_s = model.attention_flops_per_pair / flops
        self._kv_read_s = kv_bytes / bandwidth
        self._kv_s = max(self._kv_read_s, self._pair_s)
        self._copy_s = 2 * kv_bytes / bandwidth
        self._host_s = kv_bytes / hardware.host_bandwidth
        self._launch_s = model.layers * hardware.attention_launch_s
        self._step_s = hardware.step_overhead_s
        self._pass_s = model.layers * hardware.layer_overhead_s

    def seconds(self, work: Work) -> float:
        """Duration of one iteration alone on its GPU, in seconds: `seconds_each` of one, and much faster."""
        (
            _, rows, held, _, prompts, tokens, pairs, padding, padding_pairs, insertion, insertion_pairs,
            kv_read, kv_held, kv_padding, copied, host, launches, _, _, prefill_kv, dummies, kv_dummy,
        ) = work  # fmt: skip
        seconds = self._step_s + (kv_read + kv_held + kv_padding + kv_dummy) * self._kv_s
        rows += held + dummies
        slots = rows + tokens + padding + insertion
        if slots:
            layers, layers_read = slots * self._layers_flops_s, self._layers_read_s
            head, head_read = (rows + prompts) * self._head_flops_s, self._head_read_s
            seconds += self._pass_s + (layers if layers > layers_read else layers_read)
            seconds += head if head > head_read else head_read
        if prompts:
            attention = (pairs + padding_pairs + insertion_pairs) * self._pair_s
            attention_read = prefill_kv * self._kv_read_s
            seconds += attention if attention > attention_read else attention_read
        if launches > 1:
            seconds += (launches - 1) * self._launch_s
        if copied or host:
            seconds += copied * self._copy_s + host * self._host_s
        return seconds

    def decode_seconds(self, rows: int, kv: int, launches: int, copied: int, host: int, inserted: int) -> float:
        """Duration of a decode step that computes `rows` rows and reads `kv` tokens: `seconds` of it, and faster."""
        layers, layers_read = rows * self._layers_flops_s, self._layers_read_s
        head, head_read = rows * self._head_flops_s, self._head_read_s
        seconds = self._step_s + kv * self._kv_s
        seconds += self._pass_s + (layers if layers > layers_read else layers_read)
        seconds += head if head > head_read else head_read
        if launches > 1:
            seconds += (launches - 1) * self._launch_s
        if copied or host:
            seconds += copied * self._copy_s + host * self._host_s
        return seconds

    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""
        kv = decode_kv(work)
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        slots = computed_slots(work)
        sampled = computed_rows(work) + work.prefill_rows
        layers = self._pass_s + np.maximum(slots * self._layers_flops_s, self._layers_read_s)
        head = np.maximum(sampled * self._head_flops_s, self._head_read_s)
        launches = np.maximum(work.attention_launches - 1, 0)
        fixed = self._step_s + (slots > 0) * (layers + head) + launches * self._launch_s
        moved = work.kv_copied * self._copy_s + work.kv_host * self._host_s
        attention = np.maximum(pairs * self._pair_s, work.prefill_kv * self._kv_read_s)
        return np.asarray(fixed + kv * self._kv_s + attention + moved, dtype=np.float64)

    def growth(self, rows: int, kv: int, added: int) -> tuple[float, float]:
        """How much longer each decode step takes than the one before: always the same."""
        return added * self._kv_s, math.inf

    def demand(self, work: Work) -> Demand:
        """What an iteration asks of each shared resource; neither exceeds `seconds`."""
        (
            _, rows, held, _, prompts, tokens, pairs, padding, padding_pairs, insertion, insertion_pairs,
            kv_read, kv_held, kv_padding, copied, _, _, _, _, prefill_kv, dummies, kv_dummy,
        ) = work  # fmt: skip
        kv = kv_read + kv_held + kv_padding + kv_dummy
        pairs += padding_pairs + insertion_pairs
        rows += held + dummies
        slots = rows + tokens + padding + insertion
        flops_s = slots * self._layers_flops_s + (rows + prompts) * self._head_flops_s
        flops_s += (pairs + kv) * self._pair_s
        traffic_s = (kv + prefill_kv) * self._kv_read_s + copied * self._copy_s
        if slots:
            traffic_s += self._layers_read_s + self._head_read_s
        return _new(Demand, (flops_s, traffic_s))
