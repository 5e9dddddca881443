"""What a machine is and reaches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from real.model.network import device_of
from real.serving.machine import Machine, copy_rate, machine_of, measure, memory_of, product_rate, warm_up
from sim.cost.profile import Profile
from tests.real.models import network

HERE = Machine(
    device="cpu",
    machine="a processor, 2 cores",
    dtype="float32",
    attention="sdpa",
    execution="eager",
    threads=2,
    versions={"torch": "2.13.0", "transformers": "5.23.0"},
)


def profile(**changes: Any) -> Profile:
    """Return a profile taken here, but for some changes."""
    rates = dict.fromkeys(("peak_flops", "memory_bandwidth", "memory_bytes", "host_bandwidth", "gpu_bandwidth"), 1e9)
    facts = vars(HERE) | {"name": "p", "source": "", "model": "m", "date": "", "measurements": "", "layouts": []}
    return Profile(**(facts | rates | changes))


def test_a_profile_taken_here_differs_in_nothing() -> None:
    assert list(HERE.differences(profile())) == []


def test_what_was_otherwise_is_named() -> None:
    other = profile(machine="another", threads=4, versions={"torch": "2.12.0"})
    assert list(HERE.differences(other)) == [
        "machine another, not a processor, 2 cores",
        "threads 4, not 2",
        "torch 2.12.0, not 2.13.0",
        "transformers None, not 5.23.0",
    ]
    assert "threads 4, not 2" not in replace(HERE, device="cuda").differences(profile(threads=4))


def test_measured_rates_are_reached_ones() -> None:
    tiny = network("tiny_llama")
    step_s = warm_up(tiny)
    assert 0 < step_s < 1
    hardware = measure(tiny, step_s)
    assert hardware.flops_efficiency == hardware.bandwidth_efficiency == 1
    assert 1e8 < hardware.peak_flops < 1e16
    assert 1e8 < hardware.memory_bandwidth < 1e14
    # A step of this model takes what was measured: it reads almost nothing.
    assert hardware.layer_overhead_s * tiny.dimensions.layers == pytest.approx(step_s, rel=0.2)
    assert machine_of(tiny, "sdpa").machine == hardware.name


def test_a_product_is_timed_with_values_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal ones a GPU runs at a higher clock than it does at work."""
    spreads: list[float] = []

    def product(one: Tensor, other: Tensor) -> Tensor:
        spreads.extend(float(matrix.std()) for matrix in (one, other))
        return multiply(one, other)

    multiply = torch.matmul
    monkeypatch.setattr("real.serving.machine.torch.matmul", product)
    product_rate(torch.device("cpu"), torch.float32)
    assert spreads and min(spreads) > 0.9


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "auto"])
def test_whoever_asks_for_a_gpu_gets_attention_that_needs_no_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        device_of("cpu")
        assert torch.backends.cuda.cudnn_sdp_enabled()
        assert device_of(name).type == "cuda"
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_a_device_can_be_asked_without_a_network() -> None:
    cpu = torch.device("cpu")
    assert product_rate(cpu, torch.float32) > 1e8
    assert copy_rate(cpu, cpu) > 1e8
    assert 1 << 28 < memory_of(cpu) < 1 << 50
