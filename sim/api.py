"""The simulator from Python: a workload, policies, a GPU and a model by name or as objects; results as DataFrames."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, overload
from warnings import warn

from policies.checks import InputError, whole_number
from policies.policy import Policy
from sim.config.named import named, options
from sim.config.pretrained import Pretrained
from sim.config.settings import MAX_GPUS, read_seed
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.memory import check_kv_tokens
from sim.cost.model import Model
from sim.engine.execution import Execution
from sim.metrics.slo import SLO
from sim.simulation.draws import Draws
from sim.simulation.execution import execution_of
from sim.simulation.results import Result, Results
from sim.simulation.setting import NO_SLO, Setting
from sim.simulation.simulation import compare as compare_once
from sim.tasks.capacity.results import Capacities, CapacitySearch, unit_draws
from sim.tasks.options import REPLICATIONS, UNCOUNTED, WARM_UP, CapacityTask, Objective
from sim.tasks.replications.results import Replicated, replicate
from sim.tasks.trial import Trial
from workloads.recorded.traces import Frame
from workloads.requests import MAX_TOKENS, Requests

if TYPE_CHECKING:
    from pandas import DataFrame


class Buildable(Protocol):
    """A workload: anything that builds requests from a seed."""

    def build(self, seed: int) -> Requests:
        """Build the requests; the same seed gives the same."""


Arriving: TypeAlias = "DataFrame | Buildable | Requests | str"
"""What arrives: a workload, its requests, a name, or a DataFrame with columns as `workloads.recorded.traces.Trace`."""

Policies = Iterable[str] | Mapping[str, Policy | str]

COMPARED = ("run_to_completion", "orca", "baton")
"""The policies that are compared unless others are given."""

_CAPACITY = options("task", "capacity")
"""What conf/task/capacity.yaml says."""


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
    results: Results = compare(workload, {name: policy}, replications=None, **setting)
    return results[name]


@overload
def compare(
    workload: Arriving,
    policies: Policies = ...,
    *,
    replications: int,
    warm_up: float = ...,
    max_batch: int | None = None,
    seed: int = 0,
    **setting: Any,
) -> Replicated: ...


@overload
def compare(
    workload: Arriving,
    policies: Policies = ...,
    *,
    replications: None = None,
    warm_up: None = None,
    max_batch: int | None = None,
    seed: int = 0,
    **setting: Any,
) -> Results: ...


def compare(
    workload: Arriving,
    policies: Policies = COMPARED,
    *,
    replications: int | None = None,
    warm_up: float | None = None,
    max_batch: int | None = None,
    seed: int = 0,
    **setting: Any,
) -> Results | Replicated:
    """Simulate several policies on the very same requests. The defaults are those of `python -m sim`.

    Args:
        workload: What arrives; see `simulate`.
        policies: Names of conf/policy, or policies (or such names) by a name of your choice.
        replications: How often, with other random numbers each time, as `replications=N` does; the result then has
            `intervals` and `ratios`. None: once.
        warm_up: Share of the requests, the first to arrive, that replications do not count; None: 0.1.
        max_batch: Most rows in the batch of every policy that is given by name; None: as its file says.
        seed: Of all random streams of a workload that is built here; of the first replication.
        setting: What they run on: `hardware`, `engine`, `model`, `tensor_parallel`, `kv_tokens`, `slo`,
            `execution`; see `read_setting`.

    Raises:
        InputError: A name is unknown, a number is out of range, the DataFrame is not as it must be, the model does not
            fit on the GPU, the hardware has no costs for it, or replications are asked of requests that are built.
    """
    on, chosen = read_setting(**setting), read_policies(policies, max_batch)
    if replications is None:
        if warm_up is not None:
            raise InputError(f"warm_up={warm_up} has no use without replications=N: leave it out, or give both")
        return compare_once(read_requests(workload, seed), chosen, on)
    REPLICATIONS("replications", replications)
    draws = Draws(read_workload(workload), read_seed(seed), replications)
    done = Replicated(chosen, draws.resampled)
    replicate(_trial(on, chosen, draws, warm_up), replications, done)
    return done


def capacity(
    workload: Arriving,
    policies: Policies = COMPARED,
    *,
    slo: SLO,
    attainment: float = _CAPACITY["slo"]["attainment"],
    precision: float = _CAPACITY["precision"],
    replications: int = _CAPACITY["replications"],
    warm_up: float | None = None,
    max_batch: int | None = None,
    seed: int = 0,
    **setting: Any,
) -> Capacities:
    """Find the highest arrival rate at which each policy meets an SLO, as `task=capacity` does.

    Args:
        workload: What arrives, but not its rate; see `simulate`. The gaps of a DataFrame are scaled.
        policies: As of `compare`.
        slo: What requests must meet.
        attainment: Share of them that must.
        precision: Step between the rates that are tried, relative.
        replications: Most of a rate; see `sim.tasks.capacity.search`.
        warm_up: As of `compare`.
        max_batch: As of `compare`.
        seed: Of the first replication.
        setting: As of `compare`.

    Raises:
        InputError: as `compare`, or the SLO has no limit, the workload has no rate, or there are so few requests that
            a single one decides.
    """
    on, chosen = read_setting(**setting, slo=slo), read_policies(policies, max_batch)
    Objective(slo.ttft_s, slo.tpot_s, attainment=attainment)
    CapacityTask(name="capacity", study="", replications=replications, precision=precision)
    draws = unit_draws(read_workload(workload), on.slo, read_seed(seed), replications)
    return CapacitySearch(_trial(on, chosen, draws, warm_up), attainment, precision, replications)()


def _trial(setting: Setting, policies: Mapping[str, Policy], draws: Draws, warm_up: float | None) -> Trial:
    share = WARM_UP if warm_up is None else warm_up
    UNCOUNTED("warm_up", share)
    return Trial(setting=setting, policies=policies, draws=draws, warm_up=share)


def read_setting(
    *,
    hardware: Device | str = "h100_sxm",
    engine: EngineConstants | str = "vllm",
    model: Model | Pretrained | str = "llama3_8b",
    tensor_parallel: int = 1,
    kv_tokens: int | None = None,
    slo: SLO | None = None,
    execution: Execution | str | None = None,
) -> Setting:
    """Return what policies run on.

    Args:
        hardware: A GPU, or a name of conf/hardware.
        engine: What runs on it, or a name of conf/engine.
        model: A model, or a name of conf/model.
        tensor_parallel: GPUs that share each layer.
        kv_tokens: KV memory of a GPU, in tokens; None: what the model leaves free.
        slo: What goodput is judged by; None: nothing.
        execution: How decode steps are executed: `eager` or `graphs`; None: as the hardware was profiled, or eager.

    Raises:
        InputError: A name is unknown, a number is out of range, nothing is known of several such GPUs or of recorded
            steps on such an engine, or KV memory is given for a model that does not fit. Of more KV memory than there
            is, it is warned.
    """
    whole_number("tensor_parallel", tensor_parallel, 1, MAX_GPUS)
    if kv_tokens is not None:
        whole_number("kv_tokens", kv_tokens, 1, MAX_TOKENS)
    constants = named("engine", engine, EngineConstants)
    device = named("hardware", hardware, Device).deployed(constants, tensor_parallel)  # type: ignore[type-abstract]
    engine = device.engine_on(constants)
    chosen = execution_of(execution, device, engine)
    dimensions = model.dimensions() if isinstance(model, Pretrained) else named("model", model, Model)
    if kv_tokens is not None and (note := check_kv_tokens(device, dimensions, kv_tokens)):
        warn(note, stacklevel=3)
    return Setting(
        hardware=device,
        engine=engine,
        model=dimensions,
        kv_tokens=kv_tokens,
        slo=slo or NO_SLO,
        execution=chosen,
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
    return read_workload(workload).build(seed)


def read_workload(given: Arriving) -> Buildable:
    """Return what builds requests, of whatever describes them; see `simulate`.

    Raises:
        InputError: as `compare`, or the requests are built already, so that no others can be drawn.
    """
    if isinstance(given, Requests):
        raise InputError(f"workload: the requests of {given.name} are built: give what builds them, or a DataFrame")
    source: Any = named("workload", given, object) if isinstance(given, str) else given
    if not hasattr(source, "build"):
        if not hasattr(source, "columns"):
            raise InputError(f"workload={source!r:.60}: give a DataFrame, a workload, its requests or a name")
        source = Frame(frame=source)
    built: Buildable = source
    return built
