"""Small real runs, checked against every request run alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policies.policy import Policy
from real.layouts.rectangle import Rectangular
from real.model.network import Network
from real.serving.clock import WallClock
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import DTYPE, IterationLog, Slice
from sim.engine.replay import Tape
from sim.simulation.simulation import predictor_of
from tests.real.models import dimensions, logits_alone, network
from workloads.requests import Requests

TOLERANCE = 1e-4
"""Of logits, relative to the largest: fp32, another order of additions."""


class StepClock(WallClock):
    """One tick at every look, whatever the machine does: arrivals fall among the same iterations in every run."""

    def __init__(self, tick: float = 1.0) -> None:
        super().__init__()
        self._tick, self._now = tick, 0.0

    def start(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += self._tick
        return self._now

    def skip(self, seconds: float) -> None:
        pass

    def sleep_until(self, moment: float) -> None:
        self._now = max(self._now, moment)


@dataclass
class RealRun:
    """What a run left behind."""

    engine: Engine
    prompts: list[list[int]]
    logits: dict[int, list[Tensor]]
    tape: Tape
    records: Slice


def real_run(
    requests: Requests,
    policy: Policy,
    model: str = "tiny_llama",
    kv_tokens: int = 4000,
    attention: str = "sdpa",
    watch: Callable[[Engine], None] = lambda engine: None,
    execution: Execution = EAGER,
    on: Network | None = None,
) -> RealRun:
    """Serve requests; arrivals are in ticks: two for every iteration, one for every other question."""
    prompts = random_prompts(requests, dimensions(model).vocabulary, seed=1)
    slices: list[Slice] = [np.empty(0, dtype=DTYPE)]
    tape: Tape = []
    engine = Engine(
        requests,
        policy,
        on or network(model, attention, execution),
        prompts,
        IterationLog(lambda part: slices.append(part.copy())),
        kv_tokens,
        predictor=predictor_of(policy, requests),
        tape=tape,
        clock=StepClock(),
        on_step=lambda finished, tokens, now: watch(engine),
    )
    engine.executor.logits = {}
    engine.run()
    return RealRun(engine, prompts, engine.executor.logits, tape, np.concatenate(slices))


def memory_is_sound(engine: Engine) -> None:
    """Tensors hold no more than the book allows, and nothing but numbers."""
    executor = engine.executor
    assert executor.kv_slots <= engine.kv_tokens
    if isinstance(executor, Rectangular):
        assert bool(torch.isfinite(executor._buffer).all())


def differences(run: RealRun, model: str, requests: Sequence[int] | None = None) -> list[str]:
    """Compare logits and tokens of a run with those of each request alone; return what differs, in words."""
    found = []
    for request, tokens in sorted(run.engine.generated.items()):
        if requests is not None and request not in requests:
            continue
        prompt = run.prompts[request]
        alone = logits_alone(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        logits = torch.stack(run.logits[request][: len(tokens)]).cpu()  # a held row goes on
        scale = alone.abs().max()
        error = float((logits - alone).abs().max() / scale)
        if error > TOLERANCE:
            found.append(f"request {request}: logits differ by {error:.1e}")
        best, second = alone.topk(2).values.unbind(-1)
        clear = best - second > 10 * TOLERANCE * scale
        if not torch.equal(alone.argmax(-1)[clear], torch.tensor(tokens)[clear]):
            found.append(f"request {request}: tokens differ")
    return found
