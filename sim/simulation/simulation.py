"""The simulator as functions: requests, a policy, a GPU and a model in; metrics, latencies and occupancy out."""

from collections.abc import Mapping, Sequence
from typing import Any

from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.policy import Policy
from policies.queue import Predictor, declared
from sim.cost.device import Device
from sim.cost.model import Model
from sim.engine.engine import Engine
from sim.engine.iteration_log import IterationLog, Sink
from sim.engine.request_log import RequestLog
from sim.metrics.breakdown import Breakdown
from sim.metrics.metrics import Metrics
from sim.metrics.occupancy import Occupancy
from sim.metrics.request_columns import request_columns
from sim.metrics.slo import SLO
from sim.metrics.warm_up import WarmUp
from sim.simulation.results import Result, Results
from sim.simulation.setting import NO_SLO, Setting
from workloads.requests import Requests


class Recording:
    """Sums up what one policy does, from its iteration log, whatever runs it.

    Attributes:
        sinks: What must hear the log.
        cost: What its iterations cost.
    """

    def __init__(
        self,
        policy: Policy,
        hardware: Device,
        model: Model,
        slo: SLO = NO_SLO,
        warm_up: WarmUp | None = None,
        breakdown: Breakdown | None = None,
    ) -> None:
        """Begin a run.

        Args:
            policy: The policy.
            hardware: What idle time is priced by, and MFU and MBU are shares of.
            model: The model on it.
            slo: What goodput is judged by.
            warm_up: What metrics do not count; None: they count everything.
            breakdown: What splits the requests' time; None: nothing.

        Raises:
            InputError: The hardware has no costs for this model or layout.
        """
        self._policy = policy
        self._slo = slo
        self._breakdown = breakdown
        self.cost = hardware.cost_model(model, policy.traits)
        self._metrics = Metrics(self.cost, policy.traits, warm_up, breakdown)
        self._occupancy = Occupancy()
        self.sinks: tuple[Sink, ...] = (self._metrics, self._occupancy)

    def result(
        self, requests: Requests, answers: RequestLog, ledger: Ledger | None = None, link_busy_s: float = 0.0
    ) -> Result:
        """Return what was achieved, once the log is flushed; arguments as of `Metrics.summary`."""
        columns = request_columns(requests, answers, self._policy.traits.release_with_batch)
        if self._breakdown:
            columns |= self._breakdown.parts(answers)
        summary = self._metrics.summary(requests, answers, columns, self._slo, ledger, link_busy_s)
        return Result(policy=self._policy, summary=summary, columns=columns, occupancy=self._occupancy.series())


class Simulation:
    """One policy on one workload, to be run once.

    Attributes:
        answers: What has become of every request so far.
        extrapolated: What the model needs of the hardware and was not measured on it, in words.
    """

    def __init__(
        self, requests: Requests, policy: Policy, setting: Setting, *, warm_up: int = 0, sinks: Sequence[Sink] = ()
    ) -> None:
        """Prepare a run.

        Args:
            requests: The workload.
            policy: What to run next.
            setting: What it runs on.
            warm_up: How many requests, the first to arrive, metrics do not count; see `sim.metrics.warm_up`.
            sinks: What else hears the iteration log, slice by slice.

        Raises:
            InputError: The model does not fit on the GPU and no KV memory is given, or the hardware has no costs for
                this model or layout.
        """
        self._requests = requests
        warming = WarmUp(warm_up)
        self._recording = Recording(policy, setting.hardware, setting.model, setting.slo, warming, Breakdown())
        self._engine = Engine(
            requests,
            policy,
            self._recording.cost,
            IterationLog(*self._recording.sinks, *sinks),
            setting.kv_memory,
            predictor=predictor_of(policy, requests),
            stretch=setting.stretch,
            frontend_s=setting.engine.frontend_latency_s,
            execution=setting.execution,
            warm_up=warm_up,
        )
        self.request_log: RequestLog = self._engine.request_log
        warming.watch(self.request_log)
        self.extrapolated = self._recording.cost.extrapolated

    def run(self) -> Result:
        """Simulate to the end."""
        engine = self._engine
        engine.run()
        return self._recording.result(self._requests, self.request_log, engine.ledger, engine.link_busy_s)


def predictor_of(policy: Policy, requests: Requests) -> Predictor:
    """Return what a policy orders its queue by: what requests declare, or their true output lengths."""
    if policy.predictor == "declared":
        return declared
    outputs = requests.output_tokens.tolist()

    def oracle(job: Job) -> float:
        return float(outputs[job.id])

    return oracle


def simulate(
    requests: Requests, policy: Policy, hardware: Device, model: Model, *, warm_up: int = 0, **options: Any
) -> Result:
    """Simulate one policy on a `Setting`, whose `options` are given by name; errors as of `Simulation`."""
    return Simulation(requests, policy, Setting(hardware=hardware, model=model, **options), warm_up=warm_up).run()


def compare(requests: Requests, policies: Mapping[str, Policy], setting: Setting) -> Results:
    """Simulate several policies on the very same requests; errors as of `Simulation`."""
    return Results({name: Simulation(requests, policy, setting).run() for name, policy in policies.items()})
