"""How decode steps are executed: what is chosen, what cannot be priced, and what a run says of it."""

from collections.abc import Mapping
from typing import Any

from policies.checks import InputError
from policies.policy import Policy
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.profile import Profile
from sim.engine.execution import EAGER, ROWS_STEP, WINDOW_STEP, Execution
from sim.simulation.setting import Setting


def execution_of(execution: Any, hardware: Device, engine: EngineConstants) -> Execution:
    """Return how decode steps are executed.

    Args:
        execution: An `Execution`, the name of one, or None: as the hardware was profiled, or eager.
        hardware: What they are executed on.
        engine: What runs on it.

    Raises:
        InputError: There is no such execution, or it cannot be priced: the engine launches every kernel from the
            host, or the hardware was profiled otherwise.
    """
    measured = hardware.execution if isinstance(hardware, Profile) else None
    if execution is None:
        return EAGER if measured is None else Execution(measured)
    chosen: Execution = execution if isinstance(execution, Execution) else Execution(execution)
    if measured not in (None, chosen.name):
        raise InputError(
            f"execution={chosen.name}: hardware={hardware.name} was measured with execution={measured}: leave "
            "execution out, or profile again"
        )
    if chosen.captured and hardware.takes_engine and engine.host_layer_s:
        raise InputError(
            f"execution={chosen.name}: engine={engine.name} launches every kernel from the host "
            f"(host_layer_s={engine.host_layer_s:g}), which a recorded step does not: use engine=vllm or engine=ideal"
        )
    return chosen


def setting_facts(setting: Setting) -> dict[str, Any]:
    """Return what `summary.json` says of engine, GPUs and execution: nothing of the latter where it is as always."""
    execution = {"execution": setting.execution.name} if setting.execution.captured else {}
    return {"engine": setting.engine.name, "tensor_parallel": setting.hardware.gpus, **execution}


def execution_notes(setting: Setting, policies: Mapping[str, Policy]) -> list[str]:
    """Return sentences on recorded steps, and on what their prices leave out."""
    execution, hardware, engine = setting.execution, setting.hardware, setting.engine
    if not execution.captured:
        return []
    notes = [
        f"execution={execution.name}: recorded decode steps compute 1, 2, 4 or a multiple of {ROWS_STEP} rows and "
        f"read padded windows of a multiple of {WINDOW_STEP} tokens; what fills them up serves nobody"
    ]
    eager = [name for name, policy in policies.items() if policy.traits.concatenates]
    if eager:
        notes.append(
            f"{', '.join(eager)}: a batch that is made anew at every step cannot be recorded, its steps are eager"
        )
    if hardware.takes_engine and engine.standard_errors:
        notes.append(f"engine={engine.name}: its constants were fitted without counting what fills steps up")
    return notes
