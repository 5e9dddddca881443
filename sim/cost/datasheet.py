"""Prices from a datasheet: rates, the share of them that kernels reach, and the roofline that they make.

Linear layers take the longer of reading their weights and multiplying the computed token slots; attention reads KV in
decode; in prefill it takes the longer of multiplying (query, key) pairs and reading the KV of earlier chunks; shaping
copies KV inside the GPU; parking moves it over the host link; every attention launch after the first, every layer and
every step has a fixed time. For decode steps all terms but the first maximum are linear in `Work`, which is what lets a
run of like iterations be summed in closed form.

The shape and the default efficiencies (0.8 of the bandwidth, 0.75 of the FLOPs, 12 us per layer, 0.5 ms per step) met
real vLLM runs on an H100 within 6 %. Activations, norms and element-wise work are inside the fixed time per layer.
"""

from dataclasses import dataclass

import numpy as np

from policies.policy import Traits
from sim.cost.device import (
    FOREVER,
    Array,
    CostModel,
    DecodeLine,
    Demand,
    Device,
    computed_rows,
    computed_slots,
    decode_kv,
)
from sim.cost.model import Model
from sim.cost.rules import Seconds, Share
from sim.cost.work import Work


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

    flops_efficiency: Share = 0.75
    bandwidth_efficiency: Share = 0.8
    layer_overhead_s: Seconds = 12e-6
    step_overhead_s: Seconds = 0.5e-3
    attention_launch_s: Seconds = 5e-6

    def cost_model(self, model: Model, traits: Traits) -> CostModel:
        """Return the roofline; its kernels are the same for every layout."""
        return Roofline(self, model)


_new = tuple.__new__


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
        self.copy_s = 2 * kv_bytes / bandwidth
        self.host_s = kv_bytes / hardware.host_bandwidth
        self.launch_s = model.layers * hardware.attention_launch_s
        self._step_s = hardware.step_overhead_s
        self._pass_s = model.layers * hardware.layer_overhead_s

    def _products(self, slots: int, sampled: int) -> tuple[float, float]:
        """Seconds of so many token slots in all layers, attention apart, and of so many rows in the output head."""
        layers, layers_read = slots * self._layers_flops_s, self._layers_read_s
        head, head_read = sampled * self._head_flops_s, self._head_read_s
        return self._pass_s + (layers if layers > layers_read else layers_read), head if head > head_read else head_read

    def decode(self, rows: int) -> DecodeLine:
        """What decode steps of so many rows take: the same for each token of KV."""
        step, kv_s, (layers, head) = self._step_s, self._kv_s, self._products(rows, rows)
        return lambda kv, added: (step + kv * kv_s + layers + head, added * kv_s, FOREVER)

    def prefill(self, work: Work) -> float:
        """Seconds of an iteration that prefills, or of any other."""
        (
            _, rows, held, inserted, prompts, tokens, pairs, padding, padding_pairs, insertion, insertion_pairs,
            kv_read, kv_held, kv_padding, copied, host, launches, _, _, prefill_kv, dummies, kv_dummy,
        ) = work  # fmt: skip
        kv = kv_read + kv_held + kv_padding + kv_dummy
        seconds = self._step_s + kv * self._kv_s
        rows += held + dummies
        slots = rows + tokens + padding + insertion
        if slots:
            layers, head = self._products(slots, rows + prompts)
            seconds += layers
            seconds += head
        if prompts:
            attention = (pairs + padding_pairs + insertion_pairs) * self._pair_s
            attention_read = prefill_kv * self._kv_read_s
            seconds += attention if attention > attention_read else attention_read
        if launches > 1 or copied or host:
            seconds = self.moved(seconds, rows, kv, launches, copied, host, inserted)
        return seconds

    seconds = prefill  # any iteration is such a sum; a call in between takes 6 % of the time

    def seconds_each(self, work: Work) -> Array:
        """Durations of many iterations, each alone on its GPU: every field of `work` is an array."""
        kv = decode_kv(work)
        pairs = work.prefill_pairs + work.prefill_padding_pairs + work.insertion_padding_pairs
        slots = computed_slots(work)
        sampled = computed_rows(work) + work.prefill_rows
        layers = self._pass_s + np.maximum(slots * self._layers_flops_s, self._layers_read_s)
        head = np.maximum(sampled * self._head_flops_s, self._head_read_s)
        launches = np.maximum(work.attention_launches - 1, 0)
        fixed = self._step_s + (slots > 0) * (layers + head) + launches * self.launch_s
        moved = work.kv_copied * self.copy_s + work.kv_host * self.host_s
        attention = np.maximum(pairs * self._pair_s, work.prefill_kv * self._kv_read_s)
        return np.asarray(fixed + kv * self._kv_s + attention + moved, dtype=np.float64)

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
        traffic_s = (kv + prefill_kv) * self._kv_read_s + copied * self.copy_s
        if slots:
            traffic_s += self._layers_read_s + self._head_read_s
        return _new(Demand, (flops_s, traffic_s))
