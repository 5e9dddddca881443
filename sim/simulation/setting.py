"""What policies run on, resolved."""

from dataclasses import dataclass

from sim.cost.device import Device
from sim.cost.engine_constants import IDEAL, EngineConstants
from sim.cost.memory import kv_capacity
from sim.cost.model import Model
from sim.engine.execution import EAGER, Execution
from sim.metrics.slo import SLO

NO_SLO = SLO()


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What policies run on.

    Attributes:
        hardware: The GPU, or those that share each layer, under the engine; a policy that prefills on another GPU uses
            two of them.
        model: The model on it.
        engine: What runs on it.
        kv_tokens: KV memory of a GPU in tokens; None: what the model leaves free.
        slo: What goodput is judged by.
        execution: How decode steps are executed.
        stretch: Whether promised iterations are run in one event. Iterations, times and answers do not depend on it;
            idle time by cause is that of the mean iteration of each event, exact where the cost is linear in KV.
    """

    hardware: Device
    model: Model
    engine: EngineConstants = IDEAL
    kv_tokens: int | None = None
    slo: SLO = NO_SLO
    execution: Execution = EAGER
    stretch: bool = True

    @property
    def kv_memory(self) -> int:
        """KV memory of a GPU in tokens, what the model leaves free unless it is given.

        Raises:
            InputError: It is not given, and the model does not fit on the GPU.
        """
        return kv_capacity(self.hardware, self.model) if self.kv_tokens is None else self.kv_tokens
