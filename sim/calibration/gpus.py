"""Which tables describe which GPU, and what is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sim.calibration.kernels import attention, layers, matrices, measurements
from sim.calibration.kernels.cleaning import typical
from sim.cost.datasheet import Hardware
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.kernels.tables import DecodeAttention, Elementwise
from sim.cost.model import Model

Say = Callable[[str], None]
"""Told what is being done."""

AICONFIGURATOR, LLMSERVINGSIM, VIDUR = "aiconfigurator", "llmservingsim", "vidur"
LICENSES = {AICONFIGURATOR: "Apache-2.0", LLMSERVINGSIM: "MIT", VIDUR: "MIT"}
FUSED = "rtx_pro_6000"
"""The GPU whose fused element-wise kernels stand in where only large ones were measured."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Folders of one GPU's tables below profiles/, by project; empty where a project has none.

    Attributes:
        aiconfigurator: Below `aiconfigurator/data`.
        llmservingsim: Below `llmservingsim/perf`.
        vidur: Below `vidur/compute`.
        communication: The version of AIConfigurator's all-reduces whose server is the one to describe.
    """

    aiconfigurator: str = ""
    llmservingsim: str = ""
    vidur: str = ""
    communication: str = "vllm"

    @property
    def license(self) -> str:
        """Licences of the projects, named once each."""
        used = [project for project in LICENSES if getattr(self, project) or project == LLMSERVINGSIM]
        return ", ".join(f"{project}: {LICENSES[project]}" for project in used)


GPUS = {
    "a100_sxm": Sources(aiconfigurator="a100_sxm", vidur="a100"),
    "h100_sxm": Sources(aiconfigurator="h100_sxm", vidur="h100"),
    "h200_sxm": Sources(aiconfigurator="h200_sxm"),
    "l40s": Sources(aiconfigurator="l40s"),
    "rtx4090": Sources(llmservingsim="RTX4090"),
    # Two versions, two servers: vLLM 0.24 took a third of the time. The real run on two of these GPUs, in
    # ../shared/data/runs, goes with the slower one.
    "rtx_pro_6000": Sources(
        aiconfigurator="rtx_pro_6000_server", llmservingsim="RTXPRO6000", communication="vllm 0.19.0"
    ),
}
MODEL, ONE_MODEL = "llama3_8b", "meta-llama/Llama-3.1-8B/bf16/tp1"
"""The model whose tables of LLMServingSim are used."""
JUDGES, JUDGE_HEADS = ("Qwen/Qwen3-32B/bf16/tp1", "Qwen/Qwen3-32B/bf16/tp2"), 64
"""The model whose tables of LLMServingSim are kept for judging, and its query heads: one GPU, two GPUs."""
H100_BANDWIDTH = 3.35e12
VIDUR_MODELS = {"llama2_7b": "meta-llama/Llama-2-7b-hf", "codellama_34b": "codellama/CodeLlama-34b-Instruct-hf"}


def calibrate(
    name: str, profiles: Path, datasheets: Mapping[str, Hardware], models: Mapping[str, Model], say: Say
) -> Calibrated:
    """Return a GPU with the tables that its measurements give.

    Args:
        name: One of `GPUS`.
        profiles: The folder of the projects' tables.
        datasheets: Hardware by name.
        models: Models by name, those of `VIDUR_MODELS` and `llama3_8b`.
        say: Told what is being done.

    Raises:
        InputError: A table is missing, damaged or another one than it should be.
    """
    sources, datasheet = GPUS[name], datasheets[name]
    if sources.aiconfigurator:
        folder = profiles / AICONFIGURATOR / "data" / sources.aiconfigurator
        tables = _kernel_by_kernel(folder, datasheet, sources.communication, say)
    else:
        tables = _of_one_model(profiles, sources, models[MODEL], datasheet, say)
    if sources.aiconfigurator and sources.llmservingsim:
        tables |= _chunks_and_decode(profiles, sources, models[MODEL], tables["decode"], say)
    say("element-wise work")
    tables["elementwise"] = _elementwise(profiles, sources, datasheet, datasheets[FUSED], models)
    return _assembled(name, sources, datasheet, tables)


def _kernel_by_kernel(folder: Path, datasheet: Hardware, preferred: str, say: Say) -> dict[str, Any]:
    """Return the tables that AIConfigurator's measurements of every kernel give."""
    say("matrix products")
    products = measurements.matrix_products(folder / "gemm")
    say("attention in prefill")
    context = measurements.attention(folder / "attention", "context", ["vllm"])
    say("attention in decode")
    generation = measurements.attention(folder / "attention", "generation", ["vllm"])
    say("communication")
    communication = measurements.all_reduces(folder / "comm")
    decode = [attention.fit_decode(generation, pair, _named(generation)) for pair in attention.DECODE_FIT.values()]
    return {
        "matrices": matrices.fit_products(matrices.clean_products(products, datasheet), datasheet, _named(products)),
        "prompts": attention.fit_prompts(context, datasheet, _named(context)),
        "chunks": attention.fit_walk(typical(context), _named(context)),
        "decode": [*decode, attention.fit_multi_head_decode(generation, _named(generation))],
        "all_reduce": layers.fit_all_reduce(communication, _named(communication), preferred),
    }


def _named(versions: pd.DataFrame) -> str:
    return f"{AICONFIGURATOR}: {', '.join(map(str, versions.columns))}"


def _of_one_model(profiles: Path, sources: Sources, model: Model, datasheet: Hardware, say: Say) -> dict[str, Any]:
    """Return the tables that LLMServingSim's measurements of one model give."""
    folder, source = _grids(profiles, sources)
    say("matrix products")
    table, heads = measurements.layers(folder), measurements.per_sequence(folder)
    say("attention")
    grid = measurements.attention_grid(folder)
    found = layers.layer_matrices(table, heads, model, datasheet, source)
    return {
        "matrices": replace(found, extrapolated="matrices other than those of Llama 3 8B"),
        "prompts": layers.single_prompts(grid, model, datasheet, source),
        "chunks": attention.fit_chunks(grid, model.heads, source),
        "decode": [attention.grid_decode(grid, model.kv_heads, source)],
        "all_reduce": None,
    }


def _chunks_and_decode(
    profiles: Path, sources: Sources, model: Model, decode: Sequence[DecodeAttention], say: Say
) -> dict[str, Any]:
    """Return attention as it was measured in an engine, whose KV is not left in the cache by the step before."""
    say("attention in chunks and mixed iterations")
    folder, source = _grids(profiles, sources)
    grid = measurements.attention_grid(folder)
    shard = measurements.attention_grid(folder.parent / "tp2")
    found = [
        attention.grid_decode(shard, model.kv_heads // 2, source),
        attention.grid_decode(grid, model.kv_heads, source),
    ]
    others = [table for table in decode if table.mha or table.kv_heads < found[0].kv_heads]
    judges = [profiles / LLMSERVINGSIM / "perf" / sources.llmservingsim / path for path in JUDGES]
    measured = [attention.rows_of(measurements.attention_grid(path)) for path in judges]
    found = [attention.judged_on_grid(table, rows) for table, rows in zip(found, reversed(measured), strict=True)]
    return {
        "chunks": attention.judged_chunks(
            attention.fit_chunks(grid, model.heads, source), measurements.attention_grid(judges[0]), JUDGE_HEADS
        ),
        "decode": [*others, *found],
    }


def _grids(profiles: Path, sources: Sources) -> tuple[Path, str]:
    folder = profiles / LLMSERVINGSIM / "perf" / sources.llmservingsim
    return folder / ONE_MODEL, f"{LLMSERVINGSIM}: {sources.llmservingsim}, {ONE_MODEL}, vllm 0.19.0"


def _elementwise(
    profiles: Path, sources: Sources, datasheet: Hardware, fused: Hardware, models: Mapping[str, Model]
) -> Elementwise:
    """Return element-wise times: measured whole, measured for large kernels only, or scaled."""
    folder, source = _grids(profiles, sources if sources.llmservingsim else GPUS[FUSED])
    known = layers.fit_elementwise(
        measurements.layers(folder), measurements.per_sequence(folder), models[MODEL], source
    )
    if sources.llmservingsim:
        return known
    measured = sources.vidur or "h100"
    tables = {
        model: measurements.vidur_operators(profiles / VIDUR / "compute" / measured / path / "mlp.csv.gz")
        for model, path in VIDUR_MODELS.items()
    }
    rate = layers.streaming_rate(tables, models)
    if not sources.vidur:
        rate *= datasheet.memory_bandwidth / H100_BANDWIDTH
    return layers.scale_elementwise(
        known,
        datasheet.memory_bandwidth,
        fused.memory_bandwidth,
        rate,
        f"{VIDUR}: {measured}; small kernels: {source}",
        "" if sources.vidur else "element-wise work (H100's share of the bandwidth)",
    )


def _assembled(name: str, sources: Sources, datasheet: Hardware, tables: Mapping[str, Any]) -> Calibrated:
    kept = ("peak_flops", "memory_bandwidth", "memory_bytes", "host_bandwidth", "gpu_bandwidth", "usable_memory")
    return Calibrated(
        name=name,
        source=f"{datasheet.source}; kernels: python -m sim.calibration",
        license=sources.license,
        attention_launch_s=datasheet.attention_launch_s,
        **{option: getattr(datasheet, option) for option in kept},
        **tables,
    )
