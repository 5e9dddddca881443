"""What policies run on, resolved; and what they achieved there, as DataFrames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.policy import Policy
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.model import Model
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import Sink
from sim.metrics.slo import SLO
from sim.simulation.simulation import Result, Simulation
from workloads.requests import Requests

if TYPE_CHECKING:
    from pandas import DataFrame

NO_SLO = SLO()

HEADLINES = (
    "saturated",
    "request_throughput",
    "output_throughput",
    "mean_ttft_ms",
    "mean_tpot_ms",
    "p99_e2el_ms",
    "idle_time_fraction",
    "wasted_time_fraction",
    "gpu_busy_fraction",
    "kv_peak_tokens",
)
"""What a notebook shows of results; their `summary` has every metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What policies run on.

    Attributes:
        hardware: The GPU, or those that share each layer, under the engine.
        engine: What runs on it.
        model: The model on it.
        kv_tokens: KV memory of a GPU in tokens; None: what the model leaves free.
        slo: What goodput is judged by.
        execution: How decode steps are executed.
        stretch: Whether promised iterations are run in one event. Iterations, times and answers do not depend on it;
            idle time by cause is that of the mean iteration of each event, exact where the cost is linear in KV.
    """

    hardware: Device
    engine: EngineConstants
    model: Model
    kv_tokens: int | None = None
    slo: SLO = NO_SLO
    execution: Execution = EAGER
    stretch: bool = True

    def simulation(
        self, requests: Requests, policy: Policy, *, warm_up: int = 0, sinks: Sequence[Sink] = ()
    ) -> Simulation:
        """Prepare a run of one policy on these requests.

        Args:
            requests: The workload.
            policy: What to run next.
            warm_up: How many requests, the first to arrive, metrics do not count.
            sinks: What else hears the iteration log.

        Raises:
            InputError: The model does not fit on the GPU, or the hardware has no costs for it.
        """
        return Simulation(
            requests,
            policy,
            self.hardware,
            self.model,
            kv_tokens=self.kv_tokens,
            slo=self.slo,
            stretch=self.stretch,
            frontend_s=self.engine.frontend_latency_s,
            warm_up=warm_up,
            sinks=sinks,
            execution=self.execution,
        )

    def simulate(self, requests: Requests, policy: Policy, *, warm_up: int = 0) -> Result:
        """Simulate one policy on these requests; arguments and errors as of `simulation`."""
        return self.simulation(requests, policy, warm_up=warm_up).run()

    def compare(self, requests: Requests, policies: Mapping[str, Policy]) -> "Results":
        """Simulate several policies on these requests; errors as of `simulation`."""
        return Results({name: self.simulate(requests, policy) for name, policy in policies.items()})


class Results(Mapping[str, Result]):
    """The results of several policies on the same requests, by name, in the order in which they were given."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = dict(results)

    def __getitem__(self, name: str) -> Result:
        """Return the result of a policy."""
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter(self._results)

    def __len__(self) -> int:
        """Return the number of policies."""
        return len(self._results)

    @property
    def summary(self) -> "DataFrame":
        """A DataFrame with one row per policy and one column per metric of `sim.metrics.metrics`."""
        import pandas as pd

        frame = pd.DataFrame([result.summary for result in self.values()], index=list(self))
        frame.index.name = "policy"
        return frame

    def __repr__(self) -> str:
        """Show the headline metrics as text."""
        return str(self._headlines().to_string())

    def _repr_html_(self) -> str:
        """Show the headline metrics in a notebook."""
        return str(self._headlines().to_html())

    def _headlines(self) -> "DataFrame":
        """Return a row per headline metric that any policy has, and a column per policy, as text."""
        summary = self.summary
        known = [name for name in HEADLINES if summary[name].notna().any()]
        return summary[known].T.map(short)


def short(value: bool | float | None) -> str:
    """Return a metric as a table shows it: three significant digits, thousands whole, a dash for none."""
    if value is None or value != value:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
