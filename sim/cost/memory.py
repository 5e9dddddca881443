"""What fits: the KV memory that a model leaves free on a device."""

from policies.checks import InputError
from sim.cost.device import Device
from sim.cost.model import Model


def kv_capacity(hardware: Device, model: Model) -> int:
    """Return the KV tokens that fit beside the weights into the usable memory of a GPU, or of those that share layers.

    Raises:
        InputError: The weights alone do not fit.
    """
    tokens = _kv_tokens(hardware, model, hardware.gpus)
    if tokens < 1:
        usable = hardware.gpus * hardware.memory_bytes * hardware.usable_memory
        raise InputError(f"{_does_not_fit(hardware, model, usable, 'usable')}; {_remedy(hardware, model)}")
    return tokens


def check_kv_tokens(hardware: Device, model: Model, kv_tokens: int) -> str | None:
    """Return a sentence if KV memory that was asked for is more than the whole memory has beside the weights.

    Raises:
        InputError: The weights alone are more than the whole memory: nothing could be run, whatever the KV memory.
    """
    whole = hardware.gpus * hardware.memory_bytes
    if model.weight_bytes >= whole:
        raise InputError(
            f"{_does_not_fit(hardware, model, whole, 'in all')}, whatever kv_tokens={kv_tokens} says; "
            f"{_remedy(hardware, model)}, or assume a larger memory with hardware.memory_bytes="
        )
    needed = model.weight_bytes + kv_tokens * model.kv_bytes_per_token
    if needed <= whole:
        return None
    return (
        f"kv_tokens={kv_tokens} is more than there is: with the weights that is {needed / 1e9:.1f} GB, and "
        f"hardware={hardware.name} has {whole / 1e9:.1f} GB; these are predictions for a GPU with more memory"
    )


def _kv_tokens(hardware: Device, model: Model, gpus: int) -> int:
    free = gpus * hardware.memory_bytes * hardware.usable_memory - model.weight_bytes
    return int(free // model.kv_bytes_per_token)


def _does_not_fit(hardware: Device, model: Model, memory: float, which: str) -> str:
    where = f"hardware={hardware.name}" + (f" tensor_parallel={hardware.gpus}" if hardware.gpus > 1 else "")
    return (
        f"model={model.name} does not fit on {where}: {model.weight_bytes / 1e9:.1f} GB of weights, "
        f"{memory / 1e9:.1f} GB {which}"
    )


def _remedy(hardware: Device, model: Model) -> str:
    """Say how the model would fit: on the fewest such GPUs that can share its layers, or elsewhere."""
    for gpus in hardware.gpu_counts:
        if model.indivisible(gpus) is None and _kv_tokens(hardware, model, gpus) >= 1:
            return f"give tensor_parallel={gpus}, or choose another"
    if not hardware.gpu_counts:
        return "choose another (tensor_parallel= needs one whose communication was measured, such as h100_sxm)"
    return f"choose another: no number of GPUs for which hardware={hardware.name} was measured holds it"
