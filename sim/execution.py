"""What a run says of the way in which its decode steps are executed, and what cannot be priced."""

from typing import TYPE_CHECKING, Any

from policies.errors import InputError
from policies.execution import ROWS_STEP, WINDOW_STEP, Execution
from sim.engine_constants import EngineConstants
from sim.hardware import Device
from sim.profile import Profile

if TYPE_CHECKING:
    from sim.configuration import Settings


def check_execution(execution: Execution, hardware: Device, engine: EngineConstants) -> None:
    """Refuse recorded steps on an engine whose host launches every kernel.

    Raises:
        InputError: They cannot be priced.
    """
    if execution.recorded and hardware.takes_engine and engine.host_layer_s:
        raise InputError(
            f"execution={execution.name}: engine={engine.name} launches every kernel from the host "
            f"(host_layer_s={engine.host_layer_s:g}), which a recorded step does not: use engine=vllm or engine=ideal"
        )


def execution_facts(settings: "Settings") -> dict[str, Any]:
    """Return what `summary.json` says of it: nothing where it is as always."""
    return {"execution": settings.execution.name} if settings.execution.recorded else {}


def execution_notes(settings: "Settings") -> list[str]:
    """Return sentences on recorded steps, and on what their prices leave out."""
    execution, hardware, engine = settings.execution, settings.hardware, settings.engine
    if not execution.recorded:
        return []
    notes = [
        f"execution={execution.name}: recorded decode steps compute 1, 2, 4 or a multiple of {ROWS_STEP} rows and "
        f"read padded windows of a multiple of {WINDOW_STEP} tokens; what fills them up serves nobody"
    ]
    eager = [name for name, policy in settings.policies.items() if policy.traits.concatenates]
    if eager:
        notes.append(
            f"{', '.join(eager)}: a batch that is made anew at every step cannot be recorded, its steps are eager"
        )
    if isinstance(hardware, Profile):
        notes.append(f"hardware={hardware.name}: recorded steps are priced as the decode steps that were measured, "
                     "however those were executed")  # fmt: skip
    elif hardware.takes_engine and engine.standard_errors:
        notes.append(f"engine={engine.name}: its constants were fitted without counting what fills steps up")
    return notes
