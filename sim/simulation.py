"""The simulator as functions: requests, a policy, a GPU and a model in; metrics, latencies and occupancy out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.job import Job
from policies.policy import Policy
from policies.queue import Predictor, declared
from sim.answers import Answers
from sim.engine import Engine
from sim.hardware import Device
from sim.log import IterationLog, Sink
from sim.metrics import SLO, Metrics, Summary
from sim.model import Model, kv_capacity
from sim.occupancy import Occupancy, Series
from sim.request_table import Columns, request_columns
from workloads.requests import Requests


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one policy achieved.

    Attributes:
        policy: The policy.
        summary: Metrics by name, see `sim.metrics`.
        columns: An array [n] of each column of `requests.parquet`, see `sim.request_table`.
        occupancy: What the batch and the queue held over time.
    """

    policy: Policy
    summary: Summary
    columns: Columns
    occupancy: Series


class Simulation:
    """One policy on one workload, to be run once.

    Attributes:
        answers: What has become of every request so far.
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
        sinks: Sequence[Sink] = (),
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
            sinks: What else hears the iteration log, slice by slice.

        Raises:
            InputError: The model does not fit on the GPU and `kv_tokens` is not given, or the hardware has no costs for
                this model or layout.
        """
        traits = policy.traits
        cost = hardware.cost_model(model, traits)
        self._requests = requests
        self._policy = policy
        self._slo = slo or SLO()
        self._metrics = Metrics(cost, traits.release_with_batch, traits.gpus)
        self._occupancy = Occupancy()
        self._engine = Engine(
            requests,
            policy,
            cost,
            IterationLog(self._metrics, self._occupancy, *sinks),
            kv_capacity(hardware, model) if kv_tokens is None else kv_tokens,
            predictor=oracle(requests) if policy.predictor == "oracle" else declared,
            stretch=stretch,
        )
        self.answers: Answers = self._engine.answers

    def run(self) -> Result:
        """Simulate to the end."""
        self._engine.run()
        summary = self._metrics.summary(self._requests, self.answers, self._slo)
        grown = self._engine.ledger.stretch_peak
        summary["kv_peak_tokens"] = max(int(summary["kv_peak_tokens"] or 0), grown)
        if self._policy.traits.lanes == "separate" and summary["duration_s"]:
            summary["link_busy_fraction"] = self._engine.link_busy_s / summary["duration_s"]
        return Result(
            policy=self._policy,
            summary=summary,
            columns=request_columns(self._requests, self.answers, self._policy.traits.release_with_batch),
            occupancy=self._occupancy.series(),
        )


def oracle(requests: Requests) -> Predictor:
    """Return the predictor that knows the true output lengths: the best that any could do."""
    outputs = requests.output_tokens.tolist()

    def predict(job: Job) -> float:
        return float(outputs[job.id])

    return predict


def simulate(
    requests: Requests,
    policy: Policy,
    hardware: Device,
    model: Model,
    *,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    stretch: bool = True,
) -> Result:
    """Simulate one policy; see `Simulation` for the arguments and errors."""
    return Simulation(requests, policy, hardware, model, kv_tokens=kv_tokens, slo=slo, stretch=stretch).run()


def compare(
    requests: Requests,
    policies: Mapping[str, Policy],
    hardware: Device,
    model: Model,
    *,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    stretch: bool = True,
) -> dict[str, Result]:
    """Simulate several policies on the very same requests; return their results by name."""
    return {
        name: simulate(requests, policy, hardware, model, kv_tokens=kv_tokens, slo=slo, stretch=stretch)
        for name, policy in policies.items()
    }
