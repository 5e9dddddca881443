"""A device to measure on, and what is said of it beside every result."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from policies.checks import InputError
from real.model.network import device_of
from real.serving.machine import memory_of, name_of

PACKAGES = ("torch", "transformers", "triton", "numpy", "kernels", "flash-attn")


def device_named(name: str) -> torch.device:
    """Return a device, ready to be measured.

    Raises:
        InputError: There is no such device.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "torch finds no CUDA GPU here; to rehearse without one give --device cpu --models tiny_llama --rehearse"
        )
    device = device_of(name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # a rehearsal: what is tiny is fastest on one thread, above all beside other programs
        return device
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    return device


def machine_facts(device: torch.device, dtype: str) -> dict[str, Any]:
    """Return what the device and the software are."""
    return {
        "machine": name_of(device),
        "device": device.type,
        "dtype": dtype,
        "memory_bytes": memory_of(device),
        "threads": torch.get_num_threads(),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return next(iter(found.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
