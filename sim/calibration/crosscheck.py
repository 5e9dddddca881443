"""Attention kernels of the H100 as another project measured them: nothing of it was used to make the tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from policies.errors import InputError
from sim.calibrated import Calibrated
from sim.calibration.cleaning import Array
from sim.calibration.measurements import read_table
from sim.kernels import prompt_surface

_US = 1e-6


class CrossCheck(NamedTuple):
    """How far the tables lie from another project's measurements.

    Attributes:
        kernel: Which kernels.
        shapes: How many shapes of them.
        bias: Median of the signed relative errors.
        median_error: Median of the absolute ones.
        p90_error: Their 90th percentile.
    """

    kernel: str
    shapes: int
    bias: float
    median_error: float
    p90_error: float


def blis_attention(folder: Path, gpu: Calibrated) -> Iterator[CrossCheck]:
    """Yield the comparisons with BLIS's H100 attention in bf16 (its matrix products are fp8, and no match for ours).

    Args:
        folder: Its `mha` folder: files are named HEADS-KVHEADS-WIDTH, in decode with the GPUs that share them.
        gpu: The H100.

    Raises:
        InputError: A table is missing or damaged.
    """
    yield _compared("prefill, one whole prompt", folder / "prefill" / "h100", _prefill, gpu)
    yield _compared("decode", folder / "decode" / "h100", _decode, gpu)


_Predict = Callable[[Path, Calibrated, float, float], Array]
"""Relative errors on one file, of so many query and KV heads on a GPU."""


def _compared(kernel: str, folder: Path, predict: _Predict, gpu: Calibrated) -> CrossCheck:
    found = []
    for path in sorted(folder.glob("*.csv")):
        heads, kv_heads, _, *gpus = path.stem.split("-")
        share = int(gpus[0].removeprefix("tp")) if gpus else 1
        found.append(predict(path, gpu, int(heads) / share, int(kv_heads) / share))
    if not found:
        raise InputError(f"{folder}: holds no tables; give the folder that holds profiles/")
    errors = np.concatenate(found)
    sizes = np.abs(errors)
    return CrossCheck(
        kernel, len(errors), float(np.median(errors)), float(np.median(sizes)), float(np.quantile(sizes, 0.9))
    )


def _prefill(path: Path, gpu: Calibrated, heads: float, kv_heads: float) -> Array:
    table = read_table(path, ["seq_len", "latency_us"])
    table = table[table["seq_len"] <= gpu.prompts[0].tokens[-1]]
    tokens, measured = (table[name].to_numpy(dtype=np.float64) for name in ("seq_len", "latency_us"))
    predicted = prompt_surface(gpu.prompts, heads / kv_heads).each(np.full(len(tokens), heads), tokens)
    return np.asarray(predicted / (_US * measured) - 1)


def _decode(path: Path, gpu: Calibrated, heads: float, kv_heads: float) -> Array:
    table = read_table(path, ["batch_size", "kv_len", "latency_us"])
    decode = gpu.decode_for(heads == kv_heads, kv_heads)
    tasks = table["batch_size"] * kv_heads / decode.kv_heads
    inside = (tasks >= decode.rows[0]) & (tasks <= decode.rows[-1]) & (table["kv_len"] <= decode.context[-1])
    table = table[inside & (tasks * table["kv_len"] <= decode.most)]
    places = zip(table["batch_size"], table["kv_len"], strict=True)
    predicted = np.array([decode.line(batch, kv_heads)(tokens) for batch, tokens in places])
    return np.asarray(predicted / (_US * table["latency_us"].to_numpy(dtype=np.float64)) - 1)
