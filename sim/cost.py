"""How long an iteration takes: one function of its `Work`.

A roofline. Linear layers take the longer of reading their weights and multiplying the computed token slots;
attention reads KV in decode and multiplies (query, key) pairs in prefill; shaping copies KV inside the GPU; parking
moves it over the host link; every attention launch after the first, every layer and every step has a fixed time. All
terms but the first maximum are linear in `Work`, which is what lets a run of like iterations be summed in closed form.

The shape and the default efficiencies (0.8 of the bandwidth, 0.75 of the FLOPs, 12 us per layer, 0.5 ms per step) met
real vLLM runs on an H100 within 6 %. Activations, norms and element-wise work are inside the fixed time per layer.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.work import Work
from sim.hardware import Hardware
from sim.model import Model

Array = npt.NDArray[np.float64]


class Demand(NamedTuple):
    """What an iteration asks of a GPU that it shares: seconds of FLOPs and of memory traffic at reachable rates."""

    flops_s: float
    traffic_s: float


class CostModel:
    """Prices `Work` on one hardware and model.

    `seconds` takes the counts of one iteration, or a `Work` of equally long arrays: the formula is the same.
    """

    def __init__(self, hardware: Hardware, model: Model) -> None:
        self.hardware = hardware
        self.model = model
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
        self._pass_s = model.layers * hardware.layer_overhead_s

    def seconds(self, work: Work) -> float:
        """Duration of one iteration alone on its GPU, in seconds."""
        return self._price(work, max)  # type: ignore[no-any-return]

    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations: every field of `work` is an array."""
        return np.asarray(self._price(work, np.maximum), dtype=np.float64)

    def _price(self, work: Any, maximum: Any) -> Any:
        (_, rows, held, _, prompts, tokens, pairs, padding, padding_pairs, insertion, insertion_pairs) = work[:11]
        kv_read, kv_held, kv_padding, copied, host, launches = work[11:]
        slots = rows + held + tokens + padding + insertion
        sampled = rows + held + prompts
        computed = slots > 0
        return (
            self.hardware.step_overhead_s
            + computed * (self._pass_s + maximum(slots * self._layers_flops_s, self._layers_read_s))
            + computed * maximum(sampled * self._head_flops_s, self._head_read_s)
            + (kv_read + kv_held + kv_padding) * self._kv_s
            + (pairs + padding_pairs + insertion_pairs) * self._pair_s
            + maximum(launches - 1, 0) * self._launch_s
            + copied * self._copy_s
            + host * self._host_s
        )

    def growth(self, rows: int) -> float:
        """How much longer, in seconds, each decode step of `rows` rows takes than the one before."""
        return rows * self._kv_s

    def demand(self, work: Work) -> Demand:
        """What an iteration asks of each shared resource; neither exceeds `seconds`."""
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        kv = work.kv_read + work.kv_held + work.kv_padding
        slots = work.rows + work.held_rows + work.prefill_tokens + work.prefill_padding + work.insertion_padding
        sampled = work.rows + work.held_rows + work.prefill_rows
        flops_s = slots * self._layers_flops_s + sampled * self._head_flops_s + (pairs + kv) * self._pair_s
        traffic_s = kv * self._kv_read_s + work.kv_copied * self._copy_s
        if slots:
            traffic_s += self._layers_read_s + self._head_read_s
        return Demand(flops_s, traffic_s)

    def useful_flops(self, work: Work) -> Any:
        """FLOPs that served a request: no padding, no finished rows. Takes counts or arrays."""
        model = self.model
        tokens = work.rows + work.prefill_tokens
        sampled = work.rows + work.prefill_rows
        pairs = work.prefill_pairs + work.kv_read
        linear = 2 * (tokens * (model.layers * model.layer_parameters) + sampled * model.head_parameters)
        return linear + pairs * model.attention_flops_per_pair

    def moved_bytes(self, work: Work) -> Any:
        """Bytes read or written in GPU memory, padding counted. Takes counts or arrays."""
        model = self.model
        weights = (model.layers * model.layer_parameters + model.head_parameters) * model.bytes_per_value
        slots = work.rows + work.held_rows + work.prefill_tokens
        kv = work.kv_read + work.kv_held + work.kv_padding + 2 * work.kv_copied
        return (slots > 0) * weights + kv * model.kv_bytes_per_token

    def link_seconds(self, tokens: int) -> float:
        """Time to send the KV of `tokens` tokens to another GPU."""
        return tokens * self.model.kv_bytes_per_token / self.hardware.gpu_bandwidth
