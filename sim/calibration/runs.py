"""Real end-to-end runs of vLLM, and how well the simulator predicts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.chunked_prefill import ChunkedPrefill
from sim.calibration.kernels.measurements import read_table
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.model import Model
from sim.simulation.simulation import simulate
from workloads.recorded.traces import Trace

Array = npt.NDArray[np.float64]

METRICS = ("mean TPOT", "mean E2E", "mean TTFT", "makespan")
LIMITS = (0.05, 0.05, 0.08, 0.04)
"""Largest relative error that a prediction of each may have."""
ENOUGH_KV = 1_000_000
"""KV tokens of a run whose memory was not binding."""


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """A run of vLLM with the settings that it was made with.

    Attributes:
        file: Below runs/: arrivals, lengths, TTFT and E2E as the client saw them.
        hardware: Name of the GPU.
        tensor_parallel: GPUs that shared each layer.
        model: Name of the model.
        max_batch: vLLM's max_num_seqs.
        token_budget: vLLM's max_num_batched_tokens.
        kv_tokens: KV memory, in tokens.
    """

    file: str
    hardware: str
    tensor_parallel: int
    model: str
    max_batch: int
    token_budget: int
    kv_tokens: int = ENOUGH_KV


RUNS = (
    RealRun(
        file="vllm0.11_h100_codellama_34b_shared_prefix.csv",
        hardware="h100_sxm",
        tensor_parallel=1,
        model="codellama_34b",
        max_batch=256,
        token_budget=4096,
        kv_tokens=40_592,
    ),
    RealRun(
        file="vllm0.19_rtx_pro_6000_tp2_qwen3_32b.csv",
        hardware="rtx_pro_6000",
        tensor_parallel=2,
        model="qwen3_32b",
        max_batch=128,
        token_budget=2048,
    ),
)


class Replay:
    """A real run, to be predicted again and again.

    Attributes:
        run: Its settings.
        measured: Its `METRICS`, seconds.
    """

    def __init__(self, run: RealRun, folder: Path, gpus: Mapping[str, Device], models: Mapping[str, Model]) -> None:
        """Read it.

        Args:
            run: Its settings.
            folder: Where its file lies.
            gpus: Hardware by name.
            models: Models by name.

        Raises:
            InputError: The file is missing or damaged.
        """
        self.run = run
        table = read_table(folder / run.file, ["arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s"])
        self._gpu, self._model = gpus[run.hardware], models[run.model]
        self._requests = Trace(path=str(folder / run.file), max_new_tokens="oracle").build(0)
        arrival, ttft, e2e = (table[name].to_numpy(dtype=np.float64) for name in ("arrival_s", "ttft_s", "e2e_s"))
        self.measured = _metrics(arrival, ttft, e2e, self._requests.output_tokens)

    def predicted(self, engine: EngineConstants) -> Array:
        """Return the `METRICS` that the simulator predicts under an engine, seconds."""
        run = self.run
        policy = ChunkedPrefill(max_batch=run.max_batch, token_budget=run.token_budget)
        gpu = self._gpu.deployed(engine, run.tensor_parallel)
        result = simulate(
            self._requests,
            policy,
            gpu,
            self._model,
            kv_tokens=run.kv_tokens,
            engine=engine,
        )
        arrival, ttft, e2e = (result.columns[name] for name in ("arrival_s", "ttft_s", "e2e_s"))
        return _metrics(arrival, ttft, e2e, self._requests.output_tokens)

    def errors(self, engine: EngineConstants) -> Array:
        """Return the relative errors of the `METRICS`."""
        return self.predicted(engine) / self.measured - 1


def _metrics(arrival: Array, ttft: Array, e2e: Array, output: npt.NDArray[np.generic]) -> Array:
    """Return the `METRICS` of requests [n] without the first, which includes warm-up; the makespan is that of all."""
    tokens = np.asarray(output, dtype=np.float64)
    later = np.arange(len(tokens)) > 0
    several = later & (tokens > 1)
    tpot = (e2e - ttft)[several] / (tokens[several] - 1)
    return np.array([tpot.mean(), e2e[later].mean(), ttft[later].mean(), (arrival + e2e).max() - arrival[0]])


def fit_engine(replays: Sequence[Replay]) -> EngineConstants:
    """Return the constants that meet these runs best: Gauss-Newton on the errors of the `METRICS`, each over its limit.

    Runs say little about some of the constants. What they leave open is held by `EXPECTED`, what real iterations were
    found to take beyond the sum of their kernels, each over its spread. Standard errors are those of this least
    squares, a metric's limit being the deviation that a run may have.
    """
    values, expected, spread = (np.array(column, dtype=np.float64) for column in (_START, _START, _SPREAD))
    for _ in range(ROUNDS):
        before = _residuals(replays, values, expected, spread)
        slopes = np.empty((len(before), len(values)))
        for place, width in enumerate(spread / 4):
            moved = values.copy()
            moved[place] += width
            slopes[:, place] = (_residuals(replays, moved, expected, spread) - before) / width
        values = np.maximum(values - np.linalg.lstsq(slopes, before, rcond=None)[0], LEAST)
    errors = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))
    return constants(values, errors, "fitted")


EXPECTED = {
    "step_overhead_s": (0.5e-3, 0.2e-3),
    "matrix_factor": (1.09, 0.02),
    "mixed_factor": (1.7, 0.3),
    "frontend_latency_s": (0.01, 0.01),
}
"""Constants of vLLM and their spread, before any run is looked at."""
LEAST = (0.0, 1.0, 1.0, 0.0)
ROUNDS = 4
_START = [value for value, _ in EXPECTED.values()]
_SPREAD = [spread for _, spread in EXPECTED.values()]


def constants(values: Array, errors: Array, source: str) -> EngineConstants:
    """Return vLLM's constants, in the order of `EXPECTED`, with four digits, and their standard errors, with two."""
    options: dict[str, Any] = {name: float(f"{value:.4g}") for name, value in zip(EXPECTED, values, strict=True)}
    standard_errors = {name: float(f"{error:.2g}") for name, error in zip(EXPECTED, errors, strict=True)}
    return EngineConstants(name="vllm", source=source, **options, standard_errors=standard_errors)


def _residuals(replays: Sequence[Replay], values: Array, expected: Array, spread: Array) -> Array:
    options: dict[str, Any] = dict(zip(EXPECTED, values.tolist(), strict=True))
    engine = EngineConstants(name="vllm", source="fit", **options)
    errors = [replay.errors(engine) / np.array(LIMITS) for replay in replays]
    return np.concatenate([*errors, (values - expected) / spread])
