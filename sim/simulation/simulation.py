"""The simulator as functions: requests, a policy, a GPU and a model in; metrics, latencies and occupancy out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.job import Job
from policies.policy import Policy
from policies.queue import Predictor, declared
from sim.cost.device import Device
from sim.cost.memory import kv_capacity
from sim.cost.model import Model
from sim.engine.engine import Engine
from sim.engine.execution import EAGER, Execution
from sim.engine.iteration_log import IterationLog, Sink
from sim.engine.request_log import RequestLog
from sim.metrics.breakdown import Breakdown
from sim.metrics.metrics import Metrics, Summary
from sim.metrics.occupancy import Occupancy, Series
from sim.metrics.request_columns import Columns, request_columns
from sim.metrics.slo import SLO
from sim.metrics.warm_up import WarmUp
from workloads.requests import Requests

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one policy achieved.

    Attributes:
        policy: The policy.
        summary: Metrics by name, see `sim.metrics.metrics`.
        columns: An array [n] of each column of `requests.parquet`, see `sim.metrics.request_columns`.
        occupancy: What the batch and the queue held over time.
    """

    policy: Policy
    summary: Summary
    columns: Columns
    occupancy: Series

    @property
    def requests(self) -> "DataFrame":
        """A DataFrame with one row per request: the columns of `requests.parquet`, NaN where undefined."""
        import pandas as pd

        return pd.DataFrame(self.columns).set_index("request_id")


class Recording:
    """Sums up what one policy does, from its iteration log, whatever runs it.

    Attributes:
        sinks: What must hear the log.
    """

    def __init__(
        self,
        policy: Policy,
        hardware: Device,
        model: Model,
        slo: SLO | None = None,
        warm_up: WarmUp | None = None,
        breakdown: Breakdown | None = None,
    ) -> None:
        """Begin a run.

        Args:
            policy: The policy.
            hardware: What idle time is priced by, and MFU and MBU are shares of.
            model: The model on it.
            slo: What goodput is judged by; None: nothing.
            warm_up: What metrics do not count; None: they count everything.
            breakdown: What splits the requests' time; None: nothing.

        Raises:
            InputError: The hardware has no costs for this model or layout.
        """
        traits = policy.traits
        self._policy = policy
        self._slo = slo or SLO()
        self.cost = hardware.cost_model(model, traits)
        self._metrics = Metrics(self.cost, traits.release_with_batch, traits.gpus, warm_up, breakdown)
        self._occupancy = Occupancy()
        self.sinks: tuple[Sink, ...] = (self._metrics, self._occupancy)

    def result(self, requests: Requests, request_log: RequestLog, kv_peak: int = 0) -> Result:
        """Return what was achieved, once the log is flushed.

        Args:
            requests: The workload.
            request_log: What became of it.
            kv_peak: KV tokens that were held at some time, where the log may not show it.
        """
        summary = self._metrics.summary(requests, request_log, self._slo)
        summary["kv_peak_tokens"] = max(int(summary["kv_peak_tokens"] or 0), kv_peak)
        return Result(
            policy=self._policy,
            summary=summary,
            columns=request_columns(requests, request_log, self._policy.traits.release_with_batch),
            occupancy=self._occupancy.series(),
        )


class Simulation:
    """One policy on one workload, to be run once.

    Attributes:
        answers: What has become of every request so far.
        extrapolated: What the model needs of the hardware and was not measured on it, in words.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        hardware: Device,
        model: Model,
        *,
        kv_tokens: int | None = None,
        slo: SLO | None = None,
        stretch: bool = True,
        frontend_s: float = 0.0,
        warm_up: int = 0,
        sinks: Sequence[Sink] = (),
        execution: Execution = EAGER,
    ) -> None:
        """Prepare a run.

        Args:
            requests: The workload.
            policy: What to run next.
            hardware: The GPU (two of them, for a policy that prefills on another one).
            model: The model on it.
            kv_tokens: KV memory of each GPU, in tokens; None: what the model leaves free.
            slo: What goodput is judged by; None: nothing.
            stretch: Whether promised iterations are run in one event; the results do not depend on it.
            frontend_s: How long after a request is sent the scheduler sees it.
            warm_up: How many requests, the first to arrive, metrics do not count; see `sim.metrics.warm_up`.
            sinks: What else hears the iteration log, slice by slice.
            execution: How decode steps are executed.

        Raises:
            InputError: The model does not fit on the GPU and `kv_tokens` is not given, or the hardware has no costs for
                this model or layout.
        """
        self._requests = requests
        self._policy = policy
        warming = WarmUp(warm_up)
        self._breakdown = Breakdown()
        self._recording = Recording(policy, hardware, model, slo, warming, self._breakdown)
        self._engine = Engine(
            requests,
            policy,
            self._recording.cost,
            IterationLog(*self._recording.sinks, *sinks),
            kv_capacity(hardware, model) if kv_tokens is None else kv_tokens,
            predictor=predictor_of(policy, requests),
            stretch=stretch,
            frontend_s=frontend_s,
            execution=execution,
            warm_up=warm_up,
        )
        self.request_log: RequestLog = self._engine.request_log
        warming.watch(self.request_log)
        self.extrapolated = self._recording.cost.extrapolated

    def run(self) -> Result:
        """Simulate to the end."""
        self._engine.run()
        result = self._recording.result(self._requests, self.request_log, self._engine.ledger.stretch_peak)
        if self._policy.traits.lanes == "separate" and result.summary["duration_s"]:
            result.summary["link_busy_fraction"] = self._engine.link_busy_s / result.summary["duration_s"]
        if self._policy.traits.finds_prefixes:
            chunks = self._engine.ledger.chunks
            result.summary["prefix_hit_tokens"] = chunks.admitted.found
            result.summary["prefix_hit_rate"] = chunks.admitted.rate
            result.summary["readmitted_hit_tokens"] = chunks.readmitted.found
            result.summary["readmitted_hit_rate"] = chunks.readmitted.rate
        result.columns.update(
            {f"{name}_part_s": part for name, part in self._breakdown.parts(self.request_log).items()}
        )
        return result


def predictor_of(policy: Policy, requests: Requests) -> Predictor:
    """Return what a policy orders its queue by: what requests declare, or their true output lengths."""
    if policy.predictor == "declared":
        return declared
    outputs = requests.output_tokens.tolist()

    def oracle(job: Job) -> float:
        return float(outputs[job.id])

    return oracle


def simulate(
    requests: Requests,
    policy: Policy,
    hardware: Device,
    model: Model,
    *,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    stretch: bool = True,
    frontend_s: float = 0.0,
    warm_up: int = 0,
    execution: Execution = EAGER,
) -> Result:
    """Simulate one policy; see `Simulation` for the arguments and errors."""
    options: dict[str, Any] = {"kv_tokens": kv_tokens, "slo": slo, "stretch": stretch, "frontend_s": frontend_s}
    options |= {"warm_up": warm_up, "execution": execution}
    return Simulation(requests, policy, hardware, model, **options).run()


def compare(
    requests: Requests,
    policies: Mapping[str, Policy],
    hardware: Device,
    model: Model,
    *,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    stretch: bool = True,
    execution: Execution = EAGER,
) -> dict[str, Result]:
    """Simulate several policies on the very same requests; return their results by name."""
    options: dict[str, Any] = {"kv_tokens": kv_tokens, "slo": slo, "stretch": stretch, "execution": execution}
    return {name: simulate(requests, policy, hardware, model, **options) for name, policy in policies.items()}
