"""The simulator from Python: a workload, policies, a GPU and a model by name or as objects; results as DataFrames."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from policies.errors import InputError
from policies.execution import EAGER, Execution
from policies.policy import Policy
from sim.configuration import MAX_GPUS
from sim.engine_constants import EngineConstants
from sim.execution import check_execution
from sim.hardware import Device
from sim.metrics import SLO
from sim.model import Model
from sim.named import named
from sim.pretrained import Pretrained
from sim.simulation import Result, Simulation
from workloads.checks import whole_number
from workloads.requests import MAX_TOKENS, Requests
from workloads.traces import Frame

if TYPE_CHECKING:
    from pandas import DataFrame


class Buildable(Protocol):
    """A workload: anything that builds requests from a seed."""

    def build(self, seed: int) -> Requests:
        """Build the requests; the same seed gives the same."""


Arriving: TypeAlias = "DataFrame | Buildable | Requests | str"
"""What arrives: a DataFrame with the columns of `workloads.traces.Trace`, a workload, its requests, or a name."""

Policies = Iterable[str] | Mapping[str, Policy | str]

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
"""What a notebook shows of results; `Results.summary` has every metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What policies run on, resolved.

    Attributes:
        hardware: The GPU, or those that share each layer, under the engine.
        engine: What runs on it.
        model: The model on it.
        kv_tokens: KV memory of a GPU in tokens; None: what the model leaves free.
        slo: What goodput is judged by; None: nothing.
        execution: How decode steps are executed.
    """

    hardware: Device
    engine: EngineConstants
    model: Model
    kv_tokens: int | None = None
    slo: SLO | None = None
    execution: Execution = EAGER

    def simulate(self, requests: Requests, policy: Policy) -> Result:
        """Simulate one policy on these requests.

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
            frontend_s=self.engine.frontend_latency_s,
            execution=self.execution,
        ).run()

    def compare(self, requests: Requests, policies: Mapping[str, Policy]) -> "Results":
        """Simulate several policies on these requests; errors as of `simulate`."""
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
        """A DataFrame with one row per policy and one column per metric of `sim.metrics`."""
        import pandas as pd

        frame = pd.DataFrame([result.summary for result in self.values()], index=list(self))
        frame.index.name = "policy"
        return frame

    def _repr_html_(self) -> str:
        """Show the headline metrics in a notebook."""
        summary = self.summary
        shown = [name for name in HEADLINES if summary[name].notna().any()]
        return str(summary[shown].T.to_html(float_format=lambda value: f"{value:,.3g}"))


def simulate(workload: Arriving, policy: Policy | str = "baton", **setting: Any) -> Result:
    """Simulate one policy.

    Args:
        workload: A DataFrame with `arrival_s` (seconds), `prompt_tokens`, `output_tokens` and, if it has them,
            `priority`, `prefix_id` and `prefix_tokens` or `hash_ids`; a workload such as `workloads.ShareGPT`; its
            requests; or a name of conf/workload.
        policy: A policy, or a name of conf/policy.
        setting: See `compare`.

    Raises:
        InputError: as `compare`.
    """
    name = policy if isinstance(policy, str) else "policy"
    return compare(workload, {name: policy}, **setting)[name]


def compare(
    workload: Arriving,
    policies: Policies = ("run_to_completion", "orca", "baton"),
    *,
    max_batch: int | None = None,
    seed: int = 0,
    **setting: Any,
) -> Results:
    """Simulate several policies on the very same requests. The defaults are those of `python -m sim`.

    Args:
        workload: What arrives; see `simulate`.
        policies: Names of conf/policy, or policies (or such names) by a name of your choice.
        max_batch: Most rows in the batch of every policy that is given by name; None: as its file says.
        seed: Of all random streams of a workload that is built here.
        setting: What they run on: `hardware`, `engine`, `model`, `tensor_parallel`, `kv_tokens`, `slo`,
            `execution`; see `read_setting`.

    Raises:
        InputError: A name is unknown, a number is out of range, the DataFrame is not as it must be, the model does not
            fit on the GPU, or the hardware has no costs for it.
    """
    return read_setting(**setting).compare(read_requests(workload, seed), read_policies(policies, max_batch))


def read_setting(
    *,
    hardware: Device | str = "h100_sxm",
    engine: EngineConstants | str = "vllm",
    model: Model | Pretrained | str = "llama3_8b",
    tensor_parallel: int = 1,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    execution: Execution | str = EAGER,
) -> Setting:
    """Return what policies run on.

    Args:
        hardware: A GPU, or a name of conf/hardware.
        engine: What runs on it, or a name of conf/engine.
        model: A model, or a name of conf/model.
        tensor_parallel: GPUs that share each layer.
        kv_tokens: KV memory of a GPU, in tokens; None: what the model leaves free.
        slo: What goodput is judged by; None: nothing.
        execution: How decode steps are executed: `eager` or `graphs`.

    Raises:
        InputError: A name is unknown, a number is out of range, or nothing is known of several such GPUs or of
            recorded steps on such an engine.
    """
    whole_number("tensor_parallel", tensor_parallel, 1, MAX_GPUS)
    if kv_tokens is not None:
        whole_number("kv_tokens", kv_tokens, 1, MAX_TOKENS)
    constants = named("engine", engine, EngineConstants)
    device = named("hardware", hardware, Device).deployed(constants, tensor_parallel)  # type: ignore[type-abstract]
    engine = device.engine_on(constants)
    execution = execution if isinstance(execution, Execution) else Execution(execution)
    check_execution(execution, device, engine)
    return Setting(
        hardware=device,
        engine=engine,
        model=model.dimensions() if isinstance(model, Pretrained) else named("model", model, Model),
        kv_tokens=kv_tokens,
        slo=slo,
        execution=execution,
    )


def read_policies(given: Policies, max_batch: int | None = None) -> dict[str, Policy]:
    """Return policies by name.

    Raises:
        InputError: A name is unknown, or there is none.
    """
    pairs = {} if isinstance(given, str) else dict(given if isinstance(given, Mapping) else ((n, n) for n in given))
    if not pairs:
        raise InputError(f"policies={given!r}: give names, such as ['orca', 'baton'], or policies by name")
    changes = {} if max_batch is None else {"max_batch": max_batch}
    return {name: named("policy", policy, Policy, **changes) for name, policy in pairs.items()}


def read_requests(workload: Arriving, seed: int = 0) -> Requests:
    """Return the requests of whatever describes them; see `simulate`.

    Raises:
        InputError: as `compare`.
    """
    if isinstance(workload, Requests):
        return workload
    source: Any = named("workload", workload, object) if isinstance(workload, str) else workload
    if not hasattr(source, "build"):
        if not hasattr(source, "columns"):
            raise InputError(f"workload={source!r:.60}: give a DataFrame, a workload, its requests or a name")
        source = Frame(frame=source)
    requests: Requests = source.build(seed)
    return requests
