"""One policy served on a network, as `sim.simulation.simulation` simulates one: requests in; metrics and tokens out."""

from collections.abc import Sequence

from policies.policy import Policy
from real.model.network import Network
from real.serving.engine import Engine, OnStep
from sim.cost.device import Device
from sim.engine.iteration_log import IterationLog, Sink
from sim.engine.request_log import RequestLog
from sim.metrics.slo import SLO
from sim.simulation.simulation import Recording, Result, predictor_of
from workloads.requests import Requests


class Serving:
    """One policy on one workload, to be run once.

    Attributes:
        answers: What has become of every request so far.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        network: Network,
        prompts: Sequence[Sequence[int]],
        hardware: Device,
        *,
        kv_tokens: int,
        slo: SLO | None = None,
        time_scale: float = 1.0,
        stop_at_end_token: bool = False,
        sinks: Sequence[Sink] = (),
        on_step: OnStep | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            requests: The workload.
            policy: What to run next.
            network: The model.
            prompts: Tokens of every request's prompt.
            hardware: What idle time is priced by, and MFU and MBU are shares of.
            kv_tokens: KV memory, in tokens.
            slo: What goodput is judged by; None: nothing.
            time_scale: Seconds on the clock per second of the workload's arrivals.
            stop_at_end_token: Whether an answer ends, before its output length, at a token that the model ends by.
            sinks: What else hears the iteration log, slice by slice.
            on_step: What hears of every iteration, see `Engine`.

        Raises:
            InputError: The model or the machine cannot run this, or the hardware has no costs for it.
        """
        self._recording = Recording(policy, hardware, network.dimensions, slo)
        self._log = IterationLog(*self._recording.sinks, *sinks)
        self._engine = Engine(
            requests,
            policy,
            network,
            prompts,
            self._log,
            kv_tokens,
            predictor=predictor_of(policy, requests),
            time_scale=time_scale,
            stop_at_end_token=stop_at_end_token,
            on_step=on_step,
        )
        self.request_log: RequestLog = self._engine.request_log

    def run(self) -> None:
        """Serve to the end.

        Raises:
            NonFinite: The model gave logits that are no numbers; `result` still tells what was done before.
            KeyboardInterrupt: On Ctrl-C; the same.
        """
        try:
            self._engine.run()
        finally:
            self._log.flush()

    @property
    def generated(self) -> dict[int, list[int]]:
        """Tokens generated so far, by request."""
        return self._engine.generated

    @property
    def device_s(self) -> Sequence[float]:
        """Seconds that the device took for each iteration so far, in the order of the log; none on a CPU."""
        return self._engine.device_s

    @property
    def recorded(self) -> tuple[int, float]:
        """Shapes of decode steps that were recorded so far, and the seconds that it took, which no clock counts."""
        graphs = self._engine.executor.graphs
        return graphs.count, graphs.seconds

    @property
    def served(self) -> Requests:
        """The workload as it was served: arrivals on the clock, answers as long as they became."""
        return self._engine.served()

    def result(self) -> Result:
        """Return what was achieved, of a run that stopped early what was achieved so far."""
        return self._recording.result(self.served, self.request_log)
