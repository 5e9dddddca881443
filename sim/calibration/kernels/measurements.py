"""Reads kernel tables as their projects publish them, and refuses what is not what it should be.

Every reader returns seconds, indexed by the dimensions of the kernel, one column per engine and version.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from policies.checks import InputError

ATTENTION = ["heads", "kv_heads", "batch", "tokens"]
"""Dimensions of an attention kernel: of each of `batch` sequences, `tokens` is the KV (decode) or prompt length."""
_HEADS = {"num_heads": "heads", "num_key_value_heads": "kv_heads", "batch_size": "batch"}
_MS, _US = 1e-3, 1e-6
HEAD_DIM = 128
PART = 0.1
"""A version that measured less than this share of what the others did is left out: its table is a part of one."""


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return a table that must have these columns and positive times.

    Raises:
        InputError: The file is missing, cannot be read, or is another table than it should be.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such table; give the folder that holds profiles/") from None
    except Exception as error:  # a damaged file raises whatever its parser does
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch it again") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}: it is another kind of table, or a part of one")
    times = [column for column in columns if column in ("latency", "time_us")]
    for column in times:
        wrong = ~(pd.to_numeric(table[column], errors="coerce") > 0)
        if wrong.any():
            raise InputError(
                f"{path}: {column} of row {int(np.argmax(wrong)) + 1} is no positive number; fetch it again"
            )
    if table.empty:
        raise InputError(f"{path}: holds no rows; fetch it again")
    return table


def _versions(folder: Path, name: str, engines: Sequence[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield engine and version, and the path, of every table of that name below a folder."""
    for path in sorted(folder.glob(f"*/*/{name}_perf.parquet")):
        engine, version = path.parts[-3:-1]
        if engines is None or engine in engines:
            yield f"{engine} {version}", path


def _joined(found: dict[str, pd.Series], folder: Path, name: str) -> pd.DataFrame:
    if not found:
        raise InputError(
            f"{folder}: holds no {name}_perf.parquet with bf16 kernels; give the folder that holds profiles/"
        )
    most = max(map(len, found.values()))
    whole = {version: times for version, times in found.items() if len(times) >= PART * most}
    return pd.concat(whole, axis=1).sort_index()


def matrix_products(folder: Path) -> pd.DataFrame:
    """Return seconds of bf16 matrix products, indexed by m, n, k, of every engine and version.

    Args:
        folder: A GPU's `gemm` folder of AIConfigurator.
    """
    found = {}
    for version, path in _versions(folder, "gemm", None):
        table = read_table(path, ["gemm_dtype", "m", "n", "k", "latency"])
        table = table[table["gemm_dtype"] == "bfloat16"]
        if len(table):
            found[version] = _MS * table.groupby(["m", "n", "k"])["latency"].median()
    return _joined(found, folder, "gemm")


def attention(folder: Path, phase: str, engines: Sequence[str] | None = None) -> pd.DataFrame:
    """Return seconds of bf16 attention without a window, indexed by `ATTENTION`, of every engine and version.

    Args:
        folder: A GPU's `attention` folder of AIConfigurator.
        phase: `generation` or `context`.
        engines: Those whose kernels count; None: all.
    """
    name, length = f"{phase}_attention", "step" if phase == "generation" else "isl"
    columns = [*_HEADS, "head_dim", "kv_cache_dtype", "attn_dtype", length, "latency"]
    found = {}
    for version, path in _versions(folder, name, engines):
        table = read_table(path, columns)
        window = table.get("window_size", 0)
        plain = (table["kv_cache_dtype"] == "bfloat16") & (table["attn_dtype"] == "bfloat16") & (window == 0)
        table = table[plain & (table["head_dim"] == HEAD_DIM)].rename(columns=_HEADS)
        tokens = table[length] + (1 if phase == "generation" else 0)
        if len(table):
            found[version] = _MS * table.assign(tokens=tokens).groupby(ATTENTION)["latency"].median()
    return _joined(found, folder, name)


def all_reduces(folder: Path) -> pd.DataFrame:
    """Return seconds of bf16 all-reduces, indexed by GPUs and bytes, of vLLM's kernel in a graph and of NCCL.

    Args:
        folder: A GPU's `comm` folder of AIConfigurator.
    """
    found = {}
    for version, path in _versions(folder, "custom_allreduce", ["vllm"]):
        table = read_table(path, ["num_gpus", "message_size", "latency", "kernel_source", "allreduce_dtype"])
        table = table[table["kernel_source"].str.contains("graph") & (table["allreduce_dtype"] == "bfloat16")]
        found[version] = _MS * table.groupby(["num_gpus", "message_size"])["latency"].median()
    for version, path in _versions(folder, "nccl", None):
        table = read_table(path, ["num_gpus", "message_size", "latency", "op_name", "nccl_dtype"])
        table = table[(table["op_name"] == "all_reduce") & (table["nccl_dtype"] == "half")]
        if len(table):
            found[version] = _MS * table.groupby(["num_gpus", "message_size"])["latency"].median()
    return _joined(found, folder, "custom_allreduce")


def layers(folder: Path) -> pd.DataFrame:
    """Return seconds of the operators of a layer, indexed by tokens, a column each: LLMServingSim's `dense.csv`."""
    table = read_table(folder / "dense.csv", ["layer", "tokens", "time_us"])
    return _US * table.pivot_table(index="tokens", columns="layer", values="time_us", aggfunc="median")


def per_sequence(folder: Path) -> pd.DataFrame:
    """Return seconds of output head and sampler, indexed by sequences, a column each: `per_sequence.csv`."""
    table = read_table(folder / "per_sequence.csv", ["layer", "sequences", "time_us"])
    return _US * table.pivot_table(index="sequences", columns="layer", values="time_us", aggfunc="median")


def attention_grid(folder: Path) -> pd.Series:
    """Return seconds of attention in prefill, decode and mixed iterations: LLMServingSim's `attention.csv.gz`.

    The index is prefill_chunk, kv_prefill, n_decode, kv_decode: one chunk over its past beside `n_decode` rows.
    """
    index = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    table = read_table(folder / "attention.csv.gz", [*index, "time_us"])
    return _US * table.groupby(index)["time_us"].median()


def vidur_operators(path: Path) -> pd.DataFrame:
    """Return median seconds of the operators of a layer on one GPU, indexed by tokens: Vidur's `mlp.csv.gz`."""
    table = read_table(path, ["num_tokens", "num_tensor_parallel_workers"])
    table = table[table["num_tensor_parallel_workers"] == 1].set_index("num_tokens").sort_index()
    columns = [column for column in map(str, table) if column.endswith(".median")]
    return _MS * table[columns].rename(columns=lambda column: str(column).split(".")[1])
