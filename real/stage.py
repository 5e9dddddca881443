"""What a task runs on: the model on its device, the machine, the requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from policies.errors import InputError
from real.configuration import Settings
from real.engine import check_context
from real.machine import Machine, machine_of, measure, memory_of, warm_up
from real.network import Network, device_of, random_network
from real.pretrained import pretrained_network
from real.prompts import random_prompts
from real.texts import read_texts, with_texts
from sim.hardware import Device
from sim.model import Model, kv_capacity
from sim.profile import Profile
from workloads.requests import Requests, Workload
from workloads.reshape import capped, scaled

MOST_BATCHES = 4
"""The most KV memory worth having, in full batches of the longest requests."""


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
    device_of(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if not isinstance(settings.model, Model):
        return pretrained_network(settings.model, settings.device, settings.dtype, settings.attention)
    model = settings.model
    dtype = settings.dtype or ("float32" if model.bytes_per_value == 4 else "bfloat16")
    model = replace(model, bytes_per_value=4 if dtype == "float32" else 2)
    return random_network(model, settings.device, dtype, settings.attention, settings.seed)


def warmed(settings: Settings, network: Network) -> Bench:
    """Warm a network up."""
    step_s = warm_up(network)
    return Bench(network=network, machine=machine_of(network, settings.attention), step_s=step_s)


def set_up(settings: Settings) -> Stage:
    """Build the requests and the network, and measure the machine.

    Raises:
        InputError: if the input is one that a person must mend.
    """
    requests = shaped(settings, settings.workload)
    texts = read_texts(settings.texts) if settings.texts is not None else None
    network = load(settings)
    if texts is None:
        prompts = random_prompts(requests, network.dimensions.vocabulary, settings.seed)
    elif network.tokenizer is None:
        raise InputError(f"texts={settings.texts}: model={network.dimensions.name} has no tokenizer; leave texts out")
    else:
        requests, prompts = with_texts(requests, texts, network.tokenizer)
    check_context(requests, network.dimensions)
    bench = warmed(settings, network)
    hardware = settings.hardware or bench.measured()
    return Stage(
        network=network,
        machine=bench.machine,
        hardware=hardware,
        requests=replace(requests, notes=(*requests.notes, *profile_notes(hardware, bench.machine))),
        prompts=prompts,
        kv_tokens=kv_tokens_for(settings, network, hardware, requests),
    )


def shaped(settings: Settings, workload: Workload) -> Requests:
    """Build the requests and bring them to the lengths that settings ask for."""
    requests = scaled(workload.build(settings.seed), settings.length_scale)
    longest = settings.max_request_tokens
    return requests if longest is None else capped(requests, longest)


def kv_tokens_for(settings: Settings, network: Network, hardware: Device, requests: Requests) -> int:
    """Return the KV tokens that were asked for, or that fit, or fewer if no batch of these requests can fill them.

    A rectangle that grows needs the old and the new one at once, and newcomers lie beside it: `MOST_BATCHES` of the
    longest requests are never held at once.
    """
    if settings.kv_tokens is not None:
        return settings.kv_tokens
    memory = settings.memory_bytes or memory_of(network.device)
    room = kv_capacity(replace(hardware, memory_bytes=float(memory)), network.dimensions)
    longest = int((requests.prompt_tokens + requests.max_new_tokens).max())
    return min(room, MOST_BATCHES * max(policy.max_batch for policy in settings.policies.values()) * longest)


def profile_notes(hardware: Device, machine: Machine) -> Iterator[str]:
    """Yield a sentence if a profile was taken elsewhere or otherwise."""
    if isinstance(hardware, Profile) and (differences := list(machine.differences(hardware))):
        yield f"the profile {hardware.name} was taken with {'; '.join(differences)}: what it says may not hold here"
