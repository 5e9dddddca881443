"""The simulator from Python: a workload, policies, a GPU and a model by name or as objects; results as DataFrames."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from policies.errors import InputError
from policies.policy import Policy
from sim.configuration import MAX_GPUS
from sim.engine_constants import EngineConstants
from sim.hardware import Device
from sim.metrics import SLO
from sim.model import Model
from sim.named import named
from sim.pretrained import Pretrained
from sim.setting import NO_SLO, Results, Setting
from sim.simulation import Result
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
        setting: What they run on: `hardware`, `engine`, `model`, `tensor_parallel`, `kv_tokens`, `slo`; see
            `read_setting`.

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
) -> Setting:
    """Return what policies run on.

    Args:
        hardware: A GPU, or a name of conf/hardware.
        engine: What runs on it, or a name of conf/engine.
        model: A model, or a name of conf/model.
        tensor_parallel: GPUs that share each layer.
        kv_tokens: KV memory of a GPU, in tokens; None: what the model leaves free.
        slo: What goodput is judged by; None: nothing.

    Raises:
        InputError: A name is unknown, a number is out of range, or nothing is known of several such GPUs.
    """
    whole_number("tensor_parallel", tensor_parallel, 1, MAX_GPUS)
    if kv_tokens is not None:
        whole_number("kv_tokens", kv_tokens, 1, MAX_TOKENS)
    constants = named("engine", engine, EngineConstants)
    device = named("hardware", hardware, Device).deployed(constants, tensor_parallel)  # type: ignore[type-abstract]
    return Setting(
        hardware=device,
        engine=device.engine_on(constants),
        model=model.dimensions() if isinstance(model, Pretrained) else named("model", model, Model),
        kv_tokens=kv_tokens,
        slo=slo or NO_SLO,
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
