"""Whole-model figures that others have published, and what the cost model says of the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from policies.orca import Orca
from policies.work import Work
from sim.calibrated import Calibrated
from sim.calibration.measurements import read_table
from sim.engine_constants import EngineConstants
from sim.model import Model

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
