"""The GPU's kernels, run by Triton's interpreter where there is no GPU, against float64."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

pytest.importorskip("triton", reason="triton is not installed")
from real.model import kernels, streams
from real.model.attention import Attention, Places, alibi_slopes
from real.model.graphs import Recording
from real.model.merged import added, rotated
from real.model.network import Network
from sim.engine.execution import EAGER, GRAPHS, Execution
from tests.real.models import TINY, dimensions, original
from tests.real.runs import differences, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALVES = [torch.float16, *([torch.bfloat16] if CUDA else [])]
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


@pytest.fixture(params=["rows", "splits"])
def splits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PROGRAMS_PER_PROCESSOR", 20 if request.param == "splits" else 0)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width", "capacity"), SHAPES)
def test_rows_of_a_rectangle(heads: int, kv_heads: int, width: int, capacity: int, whole: bool, biased: bool) -> None:
    torch.manual_seed(heads)
    buffer = torch.randn(2, 5, kv_heads, capacity, width, device=DEVICE)
    lengths = torch.tensor([0, capacity - 1, capacity // 2], device=DEVICE)
    query = torch.randn(3, 1, heads, width, device=DEVICE).transpose(1, 2)[:, :, 0]
    slopes = alibi_slopes(heads).to(DEVICE) if biased else None
    keys, values = buffer[:, :3]
    seen = [[part[row, :, : int(length) + 1] for row, length in enumerate(lengths)] for part in (keys, values)]
    wanted = expected(query, seen[0], seen[1], 0.3, slopes)
    for row, length in enumerate(lengths.tolist()):
        buffer[:, row, :, length + 1 :] = (
            1e4 if whole else torch.nan
        )  # what is not a row's has no weight, or is not read
    found = kernels.attend_rows(query, keys, values, 0.3, lengths, slopes=slopes, whole=whole)
    assert error(found, wanted) < 1e-5
    reference = Attention("sdpa", slopes)
    clean = buffer.nan_to_num()
    if not CUDA:
        assert error(reference.rows(query, clean[0, :3], clean[1, :3], 0.3, lengths), wanted) < 1e-5


@pytest.mark.usefixtures("splits")
def test_a_whole_row_is_read_to_its_last_column() -> None:
    """A number that is none shows what was read."""
    torch.manual_seed(0)
    query, buffer = torch.randn(2, 4, 16, device=DEVICE), torch.randn(2, 2, 2, 100, 16, device=DEVICE)
    lengths = torch.tensor([99, 3], device=DEVICE)
    buffer[1, 1, :, 99] = torch.nan
    for whole in (False, True):
        found = kernels.attend_rows(query, buffer[0], buffer[1], 0.3, lengths, whole=whole)
        assert found.isfinite().all(dim=(1, 2)).tolist() == [True, not whole]


@pytest.mark.usefixtures("splits")
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


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("dtype", HALVES)
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


RUNS = [
    *itertools.product(["baton", "baton_ragged", "orca", "orca_per_request", "run_to_completion"], ["tiny_llama"]),
    ("chunked_prefill_small", "tiny_llama"),
    *itertools.product(["baton", "orca"], [model for model in TINY if model != "tiny_llama"]),
]


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=lambda execution: execution.name)
@pytest.mark.parametrize(("name", "model"), RUNS)
def test_whole_runs_on_the_kernels_are_exact(
    name: str, model: str, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU as on one, but for the recording, which cannot trace what Triton launches."""
    launched = Counter[str]()
    for kernel in ("attend_rows", "turn", "gate_by_silu"):
        monkeypatch.setattr(kernels, kernel, counted(launched, kernel))
    if not CUDA:
        monkeypatch.setattr(streams, "has_kernels", lambda tensor: True)
        monkeypatch.setattr(Recording, "_traced", lambda self: self._run)
        monkeypatch.setattr("real.model.network.pack_linears", lambda module, apart_from: None)
    requests = requests_of([(0.0, 5, 6), (0.0, 9, 4), (4.0, 3, 5)])
    on_kernels = unpacked(model, execution)
    run = real_run(requests, ONE_DEVICE[name], model, execution=execution, on=on_kernels)
    assert differences(run, model) == []
    if CUDA and execution.captured:
        assert run.engine.executor.graphs.count > 0
        return  # what a graph launches is not counted
    layers, gated = on_kernels.dimensions.layers, on_kernels.dimensions.gated
    works: Any = [work for event in run.tape if (work := getattr(event, "work", None))]
    if name != "run_to_completion" and (name != "orca_per_request" or execution.captured):
        assert launched["attend_rows"] >= layers * sum(work.rows > 0 for work in works)
    passes = layers * sum(work.rows + work.prefill_rows > 0 for work in works)
    assert launched["turn"] == launched["gate_by_silu"] == passes * gated


def unpacked(model: str, execution: Execution) -> Network:
    """Return a model with the weights of `original(model)` where the kernels run."""
    module = deepcopy(original(model)).to(DEVICE)
    return Network(module, dimensions(model), execution=execution)


def counted(launched: Counter[str], kernel: str) -> Callable[..., Tensor]:
    launch: Callable[..., Tensor] = getattr(kernels, kernel)

    def count(*given: Any, **named: Any) -> Tensor:
        launched[kernel] += 1
        return launch(*given, **named)

    return count


@pytest.fixture(scope="module")
def compiled() -> Any:
    """Without the interpreter. No GPU is needed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.real.model.compile_kernels"],
            env=environment | {"TRITON_CACHE_DIR": folder},
            capture_output=True,
            text=True,
        )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_they_compile_for_gpus_and_fit_their_shared_memory(compiled: Any) -> None:
    """99 KiB is what a block may have of the smallest of them (compute capability 8.6)."""
    shared = compiled["shared"]
    assert len(shared) == 8
    assert all(size <= 99 * 1024 for size in shared.values()), shared


def test_a_model_needs_a_few_compiled_ones_however_many_rows_and_tokens_there_are(compiled: Any) -> None:
    """Attention with and without a table; heads laid in a rectangle or a pool, or nowhere."""
    assert compiled["forms"] == {"_attend_split": 2, "_join_splits": 1, "_turn": 2, "_gate": 1}


def angles(batch: int, queries: int, width: int) -> tuple[Tensor, Tensor]:
    angle = torch.randn(batch, queries, width // 2, device=DEVICE).repeat(1, 1, 2)
    return angle.cos(), angle.sin()


def turned(heads: Tensor, turns: tuple[Tensor, Tensor], norm: Tensor | None, epsilon: float) -> Tensor:
    """Return heads [b, q, heads, head_dim] normed and turned, in float64."""
    heads = heads.double()
    if norm is not None:
        heads = norm.double() * heads / (heads.square().mean(-1, keepdim=True) + epsilon).sqrt()
    cosines, sines = (part.double() for part in turns)
    wanted, _ = apply_rotary_pos_emb(heads, heads, cosines, sines, unsqueeze_dim=2)
    assert isinstance(wanted, Tensor)
    return wanted


HEADS = [(3, 1, 16), (5, 5, 80), (16, 4, 64)]
"""Heads, heads of keys, their width."""


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), HEADS)
def test_heads_are_turned(heads: int, kv_heads: int, width: int, normed: bool) -> None:
    torch.manual_seed(heads)
    projected, turns = torch.randn(2, 7, heads + 2 * kv_heads, width, device=DEVICE), angles(2, 7, width)
    norms = tuple(torch.rand(2, width, device=DEVICE) + 0.5) if normed else (None, None)
    wanted = torch.cat([
        turned(projected[:, :, :heads], turns, norms[0], 0.1),
        turned(projected[:, :, heads:-kv_heads], turns, norms[1], 0.1),
    ], dim=2)  # fmt: skip
    found = kernels.turn(projected, *turns, kv_heads, (norms[0], norms[1], 0.1) if normed else None)
    assert error(found, wanted) < 1e-6
    if not normed:
        assert error(rotated(projected[:, :, :-kv_heads], *turns), wanted) < 1e-6
    assert error(kernels.turn(projected, turns[0], -turns[1], kv_heads), wanted) > 0.1


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), HEADS)
def test_what_is_turned_is_laid_in_its_place_and_nowhere_else(
    heads: int, kv_heads: int, width: int, pooled: bool, normed: bool
) -> None:
    torch.manual_seed(heads)
    rows, capacity = 3, 40
    everything = torch.randn(rows + 2, 1, heads + 2 * kv_heads, width, device=DEVICE)
    everything[rows:] = torch.nan  # what is behind the rows is not read
    projected, turns = everything[:rows], angles(rows, 1, width)
    norms = tuple(torch.rand(2, width, device=DEVICE) + 0.5) if normed else (None, None)
    parts = projected.split([heads, kv_heads, kv_heads], dim=2)
    query, key = (turned(part, turns, norm, 0.1) for part, norm in zip(parts[:2], norms, strict=True))
    at, row = torch.tensor([capacity - 1, 0, 17], device=DEVICE), torch.arange(rows, device=DEVICE)
    shape = (capacity, kv_heads, width) if pooled else (rows + 1, kv_heads, capacity, width)
    memory = torch.randn(2, *shape, device=DEVICE)
    wanted = memory.double()
    if pooled:
        wanted[0, at], wanted[1, at] = key[:, 0], parts[2][:, 0].double()
    else:
        wanted[0, row, :, at], wanted[1, row, :, at] = key[:, 0], parts[2][:, 0].double()
    places = Places(memory[0], memory[1], at) if pooled else Places(memory[0, :rows], memory[1, :rows], at, row)
    before = memory.clone()
    found = kernels.turn(projected, *turns, kv_heads, (norms[0], norms[1], 0.1) if normed else None, places)
    assert error(found, query) < 1e-6
    assert error(memory, wanted) < 1e-6
    untouched = wanted == before.double()
    assert int((~untouched).sum()) == 2 * rows * kv_heads * width
    assert torch.equal(memory[untouched], before[untouched])


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projected, norms = torch.randn(3, 1, 8, 32, device=DEVICE).to(dtype), torch.rand(2, 32, device=DEVICE).to(dtype)
    cosines, sines = angles(3, 1, 32)
    turns = cosines.to(dtype), sines.to(dtype)
    memory, at = torch.zeros(2, 10, 2, 32, device=DEVICE, dtype=dtype), torch.tensor([7, 0, 4], device=DEVICE)
    query = kernels.turn(projected, *turns, 2, (norms[0], norms[1], 0.1), Places(memory[0], memory[1], at))
    digits = torch.finfo(dtype).eps
    assert error(query, turned(projected[:, :, :4], turns, norms[0], 0.1)) < digits
    assert error(memory[0, at], turned(projected[:, :, 4:6], turns, norms[1], 0.1)[:, 0]) < digits
    assert torch.equal(memory[1, at], projected[:, 0, 6:])
    gate, up = projected[..., :16].double(), projected[..., 16:].double()
    assert error(kernels.gate_by_silu(projected), silu(gate) * up) < digits


def test_a_residual_is_added_by_the_product() -> None:
    torch.manual_seed(0)
    values, residual = torch.randn(2, 3, 40, device=DEVICE), torch.randn(2, 3, 24, device=DEVICE)
    for bias in (False, True):
        linear = torch.nn.Linear(40, 24, bias, device=DEVICE)
        with torch.inference_mode():
            wanted = residual.double() + deepcopy(linear).double()(values.double())
            given = residual.clone()
            found = added(values, linear, given)
        assert error(found, wanted) < 1e-6
        assert (found is given) is not bias  # a layer with a bias has no place for a sum


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
