"""What an inference engine adds to the kernels of a GPU: the same for every model and GPU that it runs on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from policies.checks import Checked, InputError, Number
from sim.cost.rules import Factor, Seconds


@dataclass(frozen=True, kw_only=True)
class EngineConstants(Checked, option="engine"):
    """Constants of an engine.

    Attributes:
        name: Its name in results.
        source: How the constants were measured.
        step_overhead_s: Time of every iteration that no kernel explains: scheduling, input preparation, sampling.
        matrix_factor: How many times longer matrix products take than alone, in a loop.
        mixed_factor: How many times longer decode attention takes in an iteration that also prefills.
        frontend_latency_s: From a request's arrival until the scheduler sees it: HTTP, tokenizer, queues.
        host_layer_s: Host time per layer of an engine that launches every kernel from the host; an iteration takes no
            less. 0 where launches are recorded once (CUDA graphs) or always ahead of the GPU.
        assumed: What of it nobody measured, in words, which stands with every result; empty if nothing.
        standard_errors: What the fit of a constant left open, by its name; constants without one are taken as exact.
    """

    name: str
    source: str
    step_overhead_s: Seconds = 0.0
    matrix_factor: Factor = 1.0
    mixed_factor: Factor = 1.0
    frontend_latency_s: Seconds = 0.0
    host_layer_s: Seconds = 0.0
    assumed: str = ""
    standard_errors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse errors of what is no constant, too."""
        super().__post_init__()
        constants = [each.name for each in fields(self) if each.type in (Seconds, Factor)]
        errors = self.standard_errors
        if not isinstance(errors, Mapping) or not all(name in constants for name in errors):
            raise InputError(f"engine.standard_errors: give one for some of {', '.join(constants)}")
        for name, error in errors.items():
            Number(0)(f"engine.standard_errors.{name}", error)

    def without_frontend(self) -> "EngineConstants":
        """Return the engine as requests see it that are timed where they reach the scheduler."""
        errors = {name: error for name, error in self.standard_errors.items() if name != "frontend_latency_s"}
        return replace(self, frontend_latency_s=0.0, standard_errors=errors)

    @staticmethod
    def least(name: str) -> int:
        """Return the least value that a constant can have."""
        return 1 if name.endswith("factor") else 0


IDEAL = EngineConstants(name="ideal", source="kernels back to back, nothing between them")
