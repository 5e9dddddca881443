"""What an inference engine adds to the kernels of a GPU: the same for every model and GPU that it runs on."""

from dataclasses import dataclass, fields

from policies.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EngineConstants:
    """Constants of an engine.

    Attributes:
        name: Its name in results.
        source: How the constants were found.
        step_overhead_s: Time of every iteration that no kernel explains: scheduling, input preparation, sampling.
        matrix_factor: How many times longer matrix products take than alone, in a loop.
        mixed_factor: How many times longer decode attention takes in an iteration that also prefills.
        frontend_latency_s: From a request's arrival until the scheduler sees it: HTTP, tokenizer, queues.
        host_layer_s: Host time per layer of an engine that launches every kernel from the host; an iteration takes no
            less. 0 where launches are recorded once (CUDA graphs) or always ahead of the GPU.
    """

    name: str
    source: str
    step_overhead_s: float = 0.0
    matrix_factor: float = 1.0
    mixed_factor: float = 1.0
    frontend_latency_s: float = 0.0
    host_layer_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative times, and factors below 1."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                if not isinstance(value, str):
                    raise InputError(f"engine.{field.name}={value}: must be text")
                continue
            least = 1 if field.name.endswith("factor") else 0
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and least <= value < float("inf")):
                raise InputError(f"engine.{field.name}={value}: must be a number of at least {least}")


IDEAL = EngineConstants(name="ideal", source="kernels back to back, nothing between them")
