"""The tables of element-wise work and of communication, and those of a GPU that was measured with one model only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sim.calibration.kernels.attention import HEADS, TOKENS, prompt_table
from sim.calibration.kernels.cleaning import Array, ascending, errors, log_interpolate, rounded, typical
from sim.calibration.kernels.matrices import TOKENS as MATRIX_TOKENS
from sim.cost.datasheet import Hardware
from sim.cost.kernels.tables import HEAD_DIM, AllReduce, Elementwise, MatrixProduct, PromptAttention, roofline_seconds
from sim.cost.model import Model

BYTES = (16384, 262144, 1048576, 4194304, 16777216, 67108864, 268435456, 1073741824)
"""Places of the element-wise table."""
MESSAGES = tuple(2**power for power in range(8, 30))
"""Places of the all-reduce table, bytes."""
ELEMENTWISE = ("layernorm", "layernorm", "rotary_emb", "act_fn")
"""LLMServingSim's element-wise kernels of a layer (the norm runs twice)."""
VIDUR_ELEMENTWISE = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act")
"""Vidur's."""
VIDUR_TOKENS = 1024
"""Vidur's kernels are timed one by one with a clock of 1 us: with fewer tokens launches hide what they take."""


def bytes_per_token(model: Model, gpus: int = 1) -> float:
    """Return what the element-wise kernels of a layer read and write per token: norms, activation, rotary embedding."""
    width = 8 * model.hidden + (3 if model.gated else 2) * model.intermediate / gpus
    return float(2 * (width + 2 * HEAD_DIM * (model.heads + model.kv_heads) / gpus))


def fit_elementwise(layers: pd.DataFrame, heads: pd.DataFrame, model: Model, source: str) -> Elementwise:
    """Return element-wise times of fused kernels, as LLMServingSim measured them with one model.

    Args:
        layers: Seconds of the operators of a layer, by tokens.
        heads: Seconds of output head and sampler, by sequences.
        model: The model that was measured.
        source: Where the tables come from.
    """
    seconds = sum(layers[kernel] for kernel in ELEMENTWISE)
    at = layers.index.to_numpy(dtype=np.float64) * bytes_per_token(model)
    found = np.interp(BYTES, at, ascending(seconds.to_numpy(dtype=np.float64)))  # type: ignore[union-attr]
    beyond = np.array(BYTES) > at[-1]
    found[beyond] = found[~beyond][-1] * np.array(BYTES)[beyond] / np.array(BYTES)[~beyond][-1]
    sampler = heads["sampler"].dropna()
    slope, constant = np.polyfit(sampler.index.to_numpy(dtype=np.float64), sampler.to_numpy(dtype=np.float64), 1)
    return Elementwise(
        source=source,
        bytes_moved=BYTES,
        seconds=rounded(ascending(found)),
        sample_seconds=float(f"{max(constant, sampler.iloc[0] - slope):.3g}"),
        logit_seconds=float(f"{slope / model.vocabulary:.3g}"),
    )


def scale_elementwise(
    known: Elementwise, bandwidth: float, known_bandwidth: float, streaming: float, source: str, extrapolated: str
) -> Elementwise:
    """Return element-wise times of a GPU where only large kernels were measured, or none.

    The time of small kernels is what it is elsewhere; what they stream is added at the bandwidth they reach.

    Args:
        known: Those of another GPU.
        bandwidth: Datasheet bandwidth here.
        known_bandwidth: Datasheet bandwidth there.
        streaming: Bytes per second that large kernels reach here.
        source: Where the figures come from.
        extrapolated: What was not measured, in words.
    """
    seconds = known.seconds[0] + np.array(BYTES) / streaming
    scale = known_bandwidth / bandwidth
    return Elementwise(
        source=source,
        extrapolated=extrapolated,
        bytes_moved=BYTES,
        seconds=rounded(seconds),
        sample_seconds=known.sample_seconds,
        logit_seconds=float(f"{known.logit_seconds * scale:.3g}"),
    )


def streaming_rate(operators: Mapping[str, pd.DataFrame], models: Mapping[str, Model]) -> float:
    """Return bytes per second that large element-wise kernels reach: Vidur's, the median over models and tokens."""
    rates = []
    for name, table in operators.items():
        large = table[table.index >= VIDUR_TOKENS]
        seconds = sum(large[kernel] for kernel in VIDUR_ELEMENTWISE)
        rates.append(large.index.to_numpy(dtype=np.float64) * bytes_per_token(models[name]) / seconds)
    return float(np.median(np.concatenate(rates)))


def fit_all_reduce(versions: pd.DataFrame, source: str, preferred: str = "vllm") -> AllReduce:
    """Return all-reduce times by bytes: the engine's kernel where it was measured, others where it was not.

    More GPUs never take less time than fewer.

    Args:
        versions: Seconds by number of GPUs and 2-byte elements, a column per version.
        source: Where the tables come from.
        preferred: How the names of the versions begin that are used where they measured.
    """
    own = [column for column in versions if str(column).startswith(preferred)]
    times = typical(versions[own]) if own else typical(versions)
    times = times.combine_first(typical(versions))
    seconds: dict[int, list[float]] = {}
    fewer = np.zeros(len(MESSAGES))
    for gpus, column in times.groupby(level=0):
        line = column.droplevel(0).sort_index()
        at = 2 * line.index.to_numpy(dtype=np.float64)
        found = ascending(log_interpolate(MESSAGES, at, line.to_numpy(dtype=np.float64)))
        fewer = np.maximum(found, fewer)
        seconds[int(str(gpus))] = rounded(fewer)
    return AllReduce(source=source, message=MESSAGES, seconds=seconds)


def layer_matrices(
    layers: pd.DataFrame, heads: pd.DataFrame, model: Model, datasheet: Hardware, source: str
) -> MatrixProduct:
    """Return matrix products of a GPU that was measured with one model only: its four matrices and its output head.

    A matrix between them reaches the share that its neighbours reach; sizes that were not measured reach that of the
    measured one closest in weights. Judged by leaving out each matrix in turn.
    """
    shapes = {
        (model.head_dim * (model.heads + 2 * model.kv_heads), model.hidden): layers["qkv_proj"],
        (model.hidden, model.heads * model.head_dim): layers["o_proj"],
        (2 * model.intermediate, model.hidden): layers["gate_up_proj"],
        (model.hidden, model.intermediate): layers["down_proj"],
        (model.vocabulary, model.hidden): heads["lm_head"].dropna(),
    }
    tokens = np.array([count for count in MATRIX_TOKENS if count <= layers.index[-1]], dtype=np.float64)
    shares = {shape: _share(line, shape, tokens, datasheet) for shape, line in shapes.items()}
    outputs = sorted({shape[0] for shape in shapes})
    inputs = sorted({shape[1] for shape in shapes})
    share = [[rounded(_nearest(shares, (n, k))) for k in inputs] for n in outputs]
    measured, predicted = [], []
    for shape, line in list(shapes.items())[:4]:
        others = {other: value for other, value in shares.items() if other != shape}
        roofline = roofline_seconds(tokens, *shape, datasheet.peak_flops, datasheet.memory_bandwidth)
        predicted.append(roofline / _nearest(others, shape))
        measured.append(np.interp(tokens, line.index.to_numpy(dtype=np.float64), line.to_numpy(dtype=np.float64)))
    found: dict[str, Any] = errors(np.concatenate(measured), np.concatenate(predicted))
    return MatrixProduct(
        source=source, tokens=tokens.astype(int).tolist(), outputs=outputs, inputs=inputs, share=share, **found
    )


def _share(line: pd.Series, shape: tuple[int, int], tokens: Array, datasheet: Hardware) -> Array:
    at, seconds = line.index.to_numpy(dtype=np.float64), ascending(line.to_numpy(dtype=np.float64))
    reached = roofline_seconds(at, *shape, datasheet.peak_flops, datasheet.memory_bandwidth) / seconds
    return np.asarray(np.minimum(np.interp(tokens, at, reached), 1.0))


def _nearest(shares: Mapping[tuple[int, int], Array], shape: tuple[int, int]) -> Array:
    """Return the share of a shape, or of the one closest in weights, of those as deep first."""
    weights = np.log(shape[0] * shape[1])
    return shares[min(shares, key=lambda known: (known != shape, abs(np.log(known[0] * known[1]) - weights)))]


def single_prompts(grid: pd.Series, model: Model, datasheet: Hardware, source: str) -> list[PromptAttention]:
    """Return attention of whole prompts of a GPU where they were measured one at a time with one model.

    Several at once take what one takes, until the GPU is as busy as with its longest prompt.
    """
    alone = grid[(grid.index.get_level_values("n_decode") == 0) & (grid.index.get_level_values("kv_prefill") == 0)]
    line = alone.droplevel(["kv_prefill", "n_decode", "kv_decode"]).sort_index()
    one = ascending(line.to_numpy(dtype=np.float64))
    at = line.index.to_numpy(dtype=np.float64)
    tokens = np.array(TOKENS, dtype=np.float64)
    seconds = log_interpolate(tokens, at, one)
    busy = one[-1] / (at[-1] * (at[-1] + 1) / 2)
    cells = {}
    for heads in HEADS:
        prompts = heads / model.heads
        cells[heads] = np.maximum(seconds * min(1.0, max(prompts, 0.5)), prompts * busy * tokens * (tokens + 1) / 2)
        if prompts >= 1:
            cells[heads] = np.maximum(seconds, cells[heads])
    table = pd.DataFrame(cells, index=TOKENS).T
    return [prompt_table(table, model.heads // model.kv_heads, datasheet, source)]
