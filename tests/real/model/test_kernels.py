"""The GPU's decode attention, run by Triton's interpreter where there is no GPU, against float64."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

pytest.importorskip("triton", reason="triton is not installed")
from real.model import kernels, streams
from real.model.attention import Attention, alibi_slopes
from real.model.graphs import Recording
from real.model.merged import rotated
from sim.engine.execution import EAGER, GRAPHS, Execution
from tests.real.runs import differences, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SHAPES = [(4, 4, 16, 300), (8, 2, 64, 200), (6, 2, 80, 130), (32, 8, 128, 257)]
"""Heads, heads of keys, their width, and capacity."""


def expected(query: Tensor, keys: list[Tensor], values: list[Tensor], scale: float, slopes: Tensor | None) -> Tensor:
    """Attend in float64, row by row, over keys and values [kv_heads, tokens, head_dim]."""
    rows = []
    for asked, key, value in zip(query.double(), keys, values, strict=True):
        group = asked.shape[0] // key.shape[0]
        scores = torch.einsum("hd,hnd->hn", asked, key.double().repeat_interleave(group, 0)) * scale
        if slopes is not None:
            scores += slopes.double()[:, None] * torch.arange(1 - key.shape[1], 1, device=key.device)
        rows.append(torch.einsum("hn,hnd->hd", scores.softmax(-1), value.double().repeat_interleave(group, 0)))
    return torch.stack(rows)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.fixture(autouse=True)
def several_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PROGRAMS_PER_PROCESSOR", 20)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width", "capacity"), SHAPES)
def test_rows_of_a_rectangle(heads: int, kv_heads: int, width: int, capacity: int, biased: bool) -> None:
    torch.manual_seed(heads)
    buffer = torch.randn(2, 5, kv_heads, capacity, width, device=DEVICE)
    lengths = torch.tensor([0, capacity - 1, capacity // 2], device=DEVICE)
    query = torch.randn(3, 1, heads, width, device=DEVICE).transpose(1, 2)[:, :, 0]
    slopes = alibi_slopes(heads).to(DEVICE) if biased else None
    keys, values = buffer[:, :3]
    seen = [[part[row, :, : int(length) + 1] for row, length in enumerate(lengths)] for part in (keys, values)]
    wanted = expected(query, seen[0], seen[1], 0.3, slopes)
    for row, length in enumerate(lengths.tolist()):
        buffer[:, row, :, length + 1 :] = torch.nan  # what is not a row's is not read
    found = kernels.attend_rows(query, keys, values, 0.3, lengths, slopes=slopes)
    assert error(found, wanted) < 1e-5
    reference = Attention("sdpa", slopes)
    clean = buffer.nan_to_num()
    if not CUDA:
        assert error(reference.rows(query, clean[0, :3], clean[1, :3], 0.3, lengths), wanted) < 1e-5


@pytest.mark.parametrize(("heads", "kv_heads", "width", "capacity"), SHAPES[:2])
def test_slots_of_a_pool(heads: int, kv_heads: int, width: int, capacity: int) -> None:
    torch.manual_seed(width)
    pool = torch.randn(2, 3 * capacity, kv_heads, width, device=DEVICE)
    table = torch.randperm(3 * capacity, device=DEVICE).view(3, capacity)
    lengths = torch.tensor([capacity - 1, 3, 70], device=DEVICE)
    query = torch.randn(3, heads, width, device=DEVICE)
    seen = [
        [part[table[row, : int(length) + 1]].transpose(0, 1) for row, length in enumerate(lengths)] for part in pool
    ]
    found = kernels.attend_rows(query, pool[0], pool[1], 0.2, lengths, table)
    assert error(found, expected(query, seen[0], seen[1], 0.2, None)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if CUDA else [])])
def test_half_precision_keeps_its_digits(dtype: torch.dtype) -> None:
    """On a GPU in bf16 too, whose products Triton's interpreter gets wrong."""
    torch.manual_seed(0)
    buffer = torch.randn(2, 2, 2, 90, 32, device=DEVICE, dtype=dtype)
    lengths = torch.tensor([80, 9], device=DEVICE)
    query = torch.randn(2, 4, 32, device=DEVICE, dtype=dtype)
    seen: Any = [[part[row, :, : int(length) + 1] for row, length in enumerate(lengths)] for part in buffer]
    found = kernels.attend_rows(query, buffer[0], buffer[1], 0.2, lengths)
    assert found.dtype is dtype
    assert error(found, expected(query, seen[0], seen[1], 0.2, None)) < 1e-2


@pytest.mark.parametrize("execution", [EAGER, GRAPHS])
@pytest.mark.parametrize("name", ["baton_ragged", "orca", "orca_per_request", "chunked_prefill_small"])
def test_whole_runs_on_the_kernels_are_exact(name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but for the recording, which cannot trace what Triton launches."""
    launched = Counter[str]()
    for kernel in ("attend_rows", "rotate", "gate_by_silu"):
        monkeypatch.setattr(kernels, kernel, counted(launched, kernel))
    monkeypatch.setattr(streams, "has_kernels", lambda tensor: True)
    monkeypatch.setattr(Recording, "_traced", lambda self: self._run)
    requests = requests_of([(0.0, 5, 6), (0.0, 9, 4), (4.0, 3, 5)])
    run = real_run(requests, ONE_DEVICE[name], execution=execution)
    assert differences(run, "tiny_llama") == []
    steps = [work for event in run.tape if (work := getattr(event, "work", None)) and work.rows]
    if name != "orca_per_request" or execution.captured:
        assert launched["attend_rows"] >= 2 * len(steps)  # two layers
    assert launched["rotate"] == launched["gate_by_silu"] > 0


def counted(launched: Counter[str], kernel: str) -> Callable[..., Tensor]:
    launch: Callable[..., Tensor] = getattr(kernels, kernel)

    def count(*given: Any) -> Tensor:
        launched[kernel] += 1
        return launch(*given)

    return count


def test_they_compile_for_gpus_and_fit_their_shared_memory() -> None:
    """No GPU is needed for that. 99 KiB is what a block may have of the smallest of them (compute capability 8.6)."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.real.model.compile_kernels"],
        env=environment | {"TRITON_CACHE_DIR": tempfile.mkdtemp()},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    shared = json.loads(found.stdout)
    assert len(shared) == 7
    assert all(size <= 99 * 1024 for size in shared.values()), shared


@pytest.mark.parametrize(("heads", "width"), [(3, 16), (5, 80)])
def test_heads_are_turned(heads: int, width: int) -> None:
    torch.manual_seed(heads)
    projected = torch.randn(2, 7, heads + 2, width, device=DEVICE)
    values, angles = projected[:, :, :heads], torch.randn(2, 7, width // 2, device=DEVICE).repeat(1, 1, 2)
    wanted, _ = apply_rotary_pos_emb(
        values.double(), values.double(), angles.double().cos(), angles.double().sin(), unsqueeze_dim=2
    )
    found = kernels.rotate(values, angles.cos(), angles.sin())
    assert error(found, wanted) < 1e-6
    if not CUDA:
        assert error(rotated(values, angles.cos(), angles.sin()), wanted) < 1e-6
    assert error(kernels.rotate(values, angles.cos(), -angles.sin()), wanted) > 0.1


@pytest.mark.parametrize("width", [96, 1500])
def test_the_feed_forward_layer_is_gated(width: int) -> None:
    torch.manual_seed(width)
    both = torch.randn(2, 3, 2 * width, device=DEVICE)
    gate, up = both.double().chunk(2, dim=-1)
    assert error(kernels.gate_by_silu(both), silu(gate) * up) < 1e-6


def test_one_column_too_few_is_seen() -> None:
    """A negative control of the comparison itself."""
    torch.manual_seed(0)
    buffer = torch.randn(2, 2, 2, 50, 16, device=DEVICE)
    lengths = torch.tensor([20, 9], device=DEVICE)
    query = torch.randn(2, 4, 16, device=DEVICE)
    seen: Any = [[part[row, :, : int(length) + 1] for row, length in enumerate(lengths)] for part in buffer]
    found = kernels.attend_rows(query, buffer[0], buffer[1], 0.3, lengths - 1)
    assert error(found, expected(query, seen[0], seen[1], 0.3, None)) > 1e-2
