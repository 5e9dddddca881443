"""What results were achieved on, for whoever reads them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.policy import Policy
from sim.cost.model import Model
from sim.simulation.setting import Setting
from sim.version import __version__
from workloads.requests import Requests


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a comparison was made on.

    Attributes:
        workload: Its name.
        requests: How many.
        arrivals: How they arrive.
        declared: How `max_new_tokens` was declared to the scheduler.
        hardware: Name of the GPU.
        engine: Name of the engine that a simulation assumes; None: there is a real one.
        model: Name of the model.
        kv_tokens: KV memory of a GPU, in tokens.
        max_positions: Longest sequence that the model was made for.
        too_long: Requests that are longer than that.
        seed: Of all random streams.
        notes: Plain sentences on the input.
    """

    workload: str
    requests: int
    arrivals: str
    declared: str
    hardware: str
    model: str
    kv_tokens: int
    max_positions: int
    engine: str | None = None
    too_long: int = 0
    seed: int = 0
    notes: tuple[str, ...] = ()

    def facts(self, policies: Mapping[str, Policy], **more: Any) -> dict[str, Any]:
        """Return what every `summary.json` says of what its results were achieved on, as JSON values.

        Args:
            policies: Those that were run, by name.
            more: What this one says beside.
        """
        return {
            "workload": self.workload,
            "hardware": self.hardware,
            "model": self.model,
            "seed": self.seed,
            "version": __version__,
            "num_requests": self.requests,
            "arrivals": self.arrivals,
            "max_new_tokens": self.declared,
            "kv_tokens": self.kv_tokens,
            **more,
            "options": {name: asdict(policy) for name, policy in policies.items()},
        }


def context_of(requests: Requests, model: Model, **more: Any) -> Context:
    """Return what results on these requests were achieved on, with `more` attributes of `Context`."""
    longest = model.max_positions
    return Context(
        workload=requests.name,
        requests=len(requests),
        **{"arrivals": requests.arrivals, **more},
        declared=requests.declared,
        model=model.name,
        max_positions=longest,
        too_long=int(np.count_nonzero(requests.prompt_tokens + requests.output_tokens > longest)),
    )


def context_on(setting: Setting, requests: Requests, seed: int, **more: Any) -> Context:
    """Return what results of a simulation on these requests were achieved on, with `more` attributes of `Context`."""
    hardware, engine, memory = setting.hardware.name, setting.engine.name, setting.kv_memory
    return context_of(requests, setting.model, hardware=hardware, engine=engine, kv_tokens=memory, seed=seed, **more)
