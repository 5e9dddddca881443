"""What a task runs on: the model on its device, the machine, the requests."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from policies.checks import InputError
from real.configuration import Settings
from real.model.network import DTYPES, Network, device_of, random_network
from real.model.pretrained import fetch, pretrained_network
from real.serving.engine import check_context
from real.serving.machine import Machine, machine_of, measure, memory_left, memory_of, warm_up
from real.serving.memory import USABLE, kv_tokens_within, needs_of
from real.serving.prompts import random_prompts
from real.serving.texts import read_texts, with_texts
from sim.cost.device import Device
from sim.cost.model import Model
from sim.cost.profile import Profile
from workloads.requests import Requests
from workloads.reshape import capped, scaled

LARGE = 2e9
"""Bytes of weights from which it is said that they are being made or loaded."""

_DTYPE_BY_BYTES = {4: "float32", 2: "bfloat16"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A model on a device, warmed up.

    Attributes:
        network: The model.
        machine: Where and how it runs.
        step_s: Its shortest decode step.
    """

    network: Network
    machine: Machine
    step_s: float

    def measured(self) -> Device:
        """Measure the rates that the device reaches."""
        return measure(self.network, self.step_s)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """What policies are compared on.

    Attributes:
        network: The model, warmed up.
        machine: Where and how it runs.
        hardware: What idle time is priced by.
        requests: The workload.
        prompts: Tokens of every request's prompt.
        kv_tokens: KV memory, in tokens.
    """

    network: Network
    machine: Machine
    hardware: Device
    requests: Requests
    prompts: Sequence[Sequence[int]]
    kv_tokens: int


def load(settings: Settings) -> Network:
    """Make the network that settings ask for.

    Raises:
        InputError: if the device is not there, or the model cannot be had or run on it.
    """
    device = device_of(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    source = settings.model
    model = source if isinstance(source, Model) else fetch(source, weights=False).dimensions("float32")
    if settings.dtype is not None:
        model = replace(model, bytes_per_value=DTYPES[settings.dtype].itemsize)
    memory = settings.memory_bytes or memory_left(device)
    if memory > memory_of(device):
        raise InputError(f"memory_bytes={memory}: device={device} has {memory_of(device):,}; give at most that")
    if model.weight_bytes > memory:
        raise InputError(
            f"model={model.name} does not fit: {model.weight_bytes / 1e9:.3g} GB of weights, {memory / 1e9:.3g} GB of "
            f"memory on device={device}; choose another, or dtype=bfloat16"
        )
    if model.weight_bytes >= LARGE:
        print(_preparing(model, own=not isinstance(source, Model), device=str(device)), file=sys.stderr, flush=True)
    if not isinstance(source, Model):
        return pretrained_network(source, settings.device, settings.dtype, settings.attention, settings.execution)
    if settings.dtype is None and model.bytes_per_value not in _DTYPE_BY_BYTES:
        raise InputError(
            f"model.bytes_per_value={model.bytes_per_value}: weights are served with 2 or 4 bytes each; give one of "
            f"them, or dtype={'|'.join(DTYPES)}"
        )
    dtype = settings.dtype or _DTYPE_BY_BYTES[model.bytes_per_value]
    return random_network(model, settings.device, dtype, settings.attention, settings.seed, settings.execution)


def _preparing(model: Model, own: bool, device: str) -> str:
    """Return in words what is being loaded or made, and how large it is."""
    count = model.weight_bytes / model.bytes_per_value / 1e9
    what = f"loading the {count:.3g} billion weights" if own else f"making {count:.3g} billion random weights"
    return f"{model.name}: {what} on {device}, {model.weight_bytes / 1e9:.3g} GB; this may take minutes"


def warmed(settings: Settings, network: Network) -> Bench:
    """Warm a network up."""
    step_s = warm_up(network)
    return Bench(network=network, machine=machine_of(network, settings.attention), step_s=step_s)


def set_up(settings: Settings) -> Stage:
    """Build the requests and the network, and measure the machine.

    Raises:
        InputError: if the input is one that a person must mend.
    """
    requests = scaled(settings.workload.build(settings.seed), settings.length_scale)
    requests = replace(requests, arrivals=arrivals_at(requests, settings.time_scale))
    texts = read_texts(settings.texts) if settings.texts is not None else None
    network = load(settings)
    if texts is None:
        requests = shortened(settings, requests)
        prompts = random_prompts(requests, network.dimensions.vocabulary, settings.seed)
    elif network.tokenizer is None:
        raise InputError(f"texts={settings.texts}: model={network.dimensions.name} has no tokenizer; leave texts out")
    else:
        requests, prompts = with_texts(requests, texts, network.tokenizer, network.dimensions)
        requests = shortened(settings, requests)
        prompts = [prompt[:length] for prompt, length in zip(prompts, requests.prompt_tokens, strict=True)]
    check_context(requests, network.dimensions)
    bench = warmed(settings, network)
    hardware = settings.hardware or bench.measured()
    return Stage(
        network=network,
        machine=bench.machine,
        hardware=hardware,
        requests=replace(requests, notes=(*requests.notes, *profile_notes(hardware, bench.machine))),
        prompts=prompts,
        kv_tokens=kv_tokens_for(settings, network, requests),
    )


def arrivals_at(requests: Requests, time_scale: float) -> str:
    """Return how requests arrive on a clock with so many seconds per second of the workload.

    Raises:
        InputError: The clock has no say in it.
    """
    if time_scale == 1:
        return requests.arrivals
    if requests.concurrency is not None:
        raise InputError(
            f"time_scale={time_scale:g} has no use in a closed loop, where requests follow answers: leave it out"
        )
    if time_scale == 0:
        return f"all at once, not {requests.arrivals}" if requests.arrival_s.any() else requests.arrivals
    return f"{requests.arrivals}, times multiplied by {time_scale:g}"


def shortened(settings: Settings, requests: Requests) -> Requests:
    """Shorten requests to the most tokens that settings allow."""
    longest = settings.max_request_tokens
    return requests if longest is None else capped(requests, longest)


def budget_of(settings: Settings, network: Network) -> int:
    """Return the bytes of memory that a run may use, those that the network has taken included."""
    return settings.memory_bytes or int(USABLE * memory_left(network.device))


def kv_tokens_for(settings: Settings, network: Network, *workloads: Requests) -> int:
    """Return the KV tokens with which each of these workloads can be served; see `real.serving.memory`.

    Raises:
        InputError: Not even the smallest requests fit, or the KV memory that was asked for does not.
    """
    needs = needs_of(network, settings.policies.values(), *workloads)
    return kv_tokens_within(needs, budget_of(settings, network), settings.kv_tokens)


def profile_notes(hardware: Device, machine: Machine) -> Iterator[str]:
    """Yield a sentence if a profile was taken elsewhere or otherwise."""
    if isinstance(hardware, Profile) and (differences := list(machine.differences(hardware))):
        yield f"the profile {hardware.name} was taken with {'; '.join(differences)}: what it says may not hold here"
