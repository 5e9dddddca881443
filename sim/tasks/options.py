"""The options of each task; their defaults are in conf/task/."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from policies.checks import Checked, InputError, Number, Whole, shown
from sim.config.task import Task
from sim.cost.engine_constants import EngineConstants
from sim.metrics.slo import SLO
from workloads.recorded.measured import Measured
from workloads.requests import MAX_TOKENS, Workload

REPLICATIONS = Whole(2, 10_000)
UNCOUNTED = Number(0, 0.9)
WARM_UP = 0.1
"""Share of the requests that is not counted where runs are repeated, unless another is given."""


@dataclass(frozen=True, kw_only=True)
class RepeatedTask(Task):
    """A task that may repeat runs.

    Attributes:
        warm_up: Share of the requests, the first to arrive, that does not count; None: `WARM_UP`.
    """

    warm_up: Annotated[float | None, UNCOUNTED] = None

    @property
    def uncounted(self) -> float:
        """Share of the requests that does not count."""
        return WARM_UP if self.warm_up is None else float(self.warm_up)


@dataclass(frozen=True, kw_only=True)
class RunTask(RepeatedTask):
    """A comparison.

    Attributes:
        repeated: Path of the class that repeats it.
        replications: How often it is made; None: once, and requests of a warm-up count.
        timeline: Whether to write a trace for Perfetto.
        interval: Whether to say how far the prediction may be off.
        vllm_bench: Whether to write the summary as `vllm bench serve` does.

    Raises:
        InputError: An option is out of range, or has no use beside the others.
    """

    repeated: str
    replications: Annotated[int | None, REPLICATIONS]
    timeline: bool
    interval: bool
    vllm_bench: bool

    def __post_init__(self) -> None:
        """Refuse what only one run has in many, and the reverse."""
        super().__post_init__()
        if self.replications is None:
            if self.warm_up is not None:
                raise InputError(
                    f"warm_up={shown(self.warm_up)} has no use without replications=N: leave it out, or give both"
                )
            return
        for option in ("timeline", "interval", "vllm_bench"):
            if getattr(self, option):
                raise InputError(f"{option}=true has no use with replications=N: leave it out, or run once")

    @property
    def chosen_study(self) -> str:
        """Once, or repeated."""
        return self.study if self.replications is None else self.repeated


@dataclass(frozen=True, kw_only=True)
class Objective(SLO):
    """An SLO and the share of the requests that must meet it.

    Attributes:
        attainment: That share, above 0 and below 1.
    """

    attainment: Annotated[float, Number(0.01, 0.9999)]


@dataclass(frozen=True, kw_only=True)
class CapacityTask(RepeatedTask):
    """The search for the highest rate.

    Attributes:
        replications: How often a rate is repeated, at most.
        precision: Step between the rates that are tried, relative to the rate.
    """

    replications: Annotated[int, REPLICATIONS]
    precision: Annotated[float, Number(0.001, 0.5)]

    slo: ClassVar[type[SLO]] = Objective


@dataclass(frozen=True, kw_only=True)
class ExplainTask(Task):
    """A comparison that explains one request.

    Attributes:
        request: Its id.
    """

    request: Annotated[int, Whole(0, MAX_TOKENS)]


@dataclass(frozen=True)
class OverlayOptions(Checked, option="overlay"):
    """How a prediction is set beside a measured run.

    Attributes:
        warmup: Requests at the start that are simulated but not compared.
        times: Who took the times: a `client`, or the `server` itself, which knows nothing of the way to it.
    """

    warmup: Annotated[int, Whole(0, MAX_TOKENS)] = 0
    times: Literal["client", "server"] = "client"


@dataclass(frozen=True, kw_only=True)
class OverlayTask(Task):
    """A comparison with a measured run.

    Attributes:
        overlay: How it is made.
        measured: The file of that run, which the workload reads.
    """

    overlay: OverlayOptions
    measured: str | None

    def check(self, workload: Workload) -> None:
        """Refuse any workload but that run, as it was."""
        if not isinstance(workload, Measured):
            raise InputError("task=overlay replays the measured run: leave workload= out, and give measured=FILE")
        if workload.arrival != "trace" or workload.rate_multiplier not in (None, 1):
            raise InputError("task=overlay keeps the measured arrivals: leave out workload.arrival and its options")

    def engine(self, engine: EngineConstants) -> EngineConstants:
        """A server's own times hold no latency of a frontend."""
        return engine.without_frontend() if self.overlay.times == "server" else engine
