"""Figures of whole models and kernels of attention that others have published, and what is predicted of the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from policies.checks import InputError
from policies.orca import Orca
from sim.calibration.kernels.cleaning import Array
from sim.calibration.kernels.measurements import read_table
from sim.cost.engine_constants import EngineConstants
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.kernels.tables import prompt_surface
from sim.cost.model import Model
from sim.cost.work import Work

PROMPT = 5
"""Tokens of gpt-fast's prompt."""
GENERATED = 200
"""Tokens it generates; its speed is that of all of them."""


class Comparison(NamedTuple):
    """One figure.

    Attributes:
        what: It is of.
        measured_s: Published, seconds.
        predicted_s: Predicted, seconds.
    """

    what: str
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1


def gpt_fast(folder: Path, gpu: Calibrated, engine: EngineConstants, models: dict[str, Model]) -> Iterator[Comparison]:
    """Yield decode steps of gpt-fast at batch 1 in bf16, whose GPUs each hold the whole output head.

    Args:
        folder: Of the published tables.
        gpu: The A100.
        engine: Whose constants are added.
        models: By the names in the table.

    Raises:
        InputError: The table is missing or damaged.
    """
    table = read_table(folder / "gpt-fast_a100_bs1.csv", ["model", "dtype", "tp", "ms_per_token"])
    for row in table[table["dtype"] == "bf16"].to_dict("records"):
        gpus, model = int(row["tp"]), models[row["model"]]
        whole_head = replace(model, vocabulary=model.vocabulary * gpus)
        cost = gpu.deployed(engine, gpus).cost_model(whole_head, Orca().traits)
        step = Work(rows=1, kv_read=PROMPT + GENERATED // 2, attention_launches=1)
        yield Comparison(f"{row['model']}, {gpus} GPU", row["ms_per_token"] / 1e3, cost.seconds(step))


def first_token(
    folder: Path, gpu: Calibrated, engine: EngineConstants, models: dict[str, Model]
) -> Iterator[Comparison]:
    """Yield first-token latencies of TensorRT-LLM on A100 in fp16, one prompt; see `gpt_fast` for the arguments."""
    columns = ["gpu", "dtype", "model", "tp", "batch_size", "input_len", "first_token_ms"]
    table = read_table(folder / "trtllm_v0.5_first_token_latency.csv", columns)
    for row in table[(table["gpu"] == "A100") & table["model"].isin(list(models))].to_dict("records"):
        gpus, tokens = int(row["tp"]), int(row["input_len"])
        cost = gpu.deployed(engine, gpus).cost_model(models[row["model"]], Orca().traits)
        pairs = tokens * (tokens + 1) // 2
        prompt = Work(prefill_rows=1, prefill_tokens=tokens, prefill_pairs=pairs, attention_launches=1)
        what = f"{row['model']}, {gpus} GPU, {tokens} tokens"
        yield Comparison(what, row["first_token_ms"] / 1e3, cost.seconds(prompt))


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
