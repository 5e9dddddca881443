"""Plain sentences on what is simulated: requests, what policies make of them, and what was not measured or served."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from policies.ledger.opening import book_of
from policies.ledger.paged import BLOCK, Paged, blocks_of
from policies.policy import Policy
from sim.cost.device import Device
from sim.cost.memory import check_kv_tokens
from sim.metrics.metrics import Summary
from sim.simulation.execution import execution_notes
from sim.simulation.setting import Setting
from workloads.demand import counted
from workloads.requests import Requests


def notes_on(policies: Mapping[str, Policy], requests: Requests) -> list[str]:
    """Return sentences on the requests, and on what policies make of them."""
    sharing, order = _sharing_notes(policies, requests), _order_notes(policies, requests)
    return [*requests.notes, *sharing, *order, *_reservation_notes(policies)]


def _sharing_notes(policies: Mapping[str, Policy], requests: Requests) -> Iterator[str]:
    """Yield a sentence if prompts share prefixes and not every policy finds their KV again."""
    blind = [name for name, policy in policies.items() if not policy.traits.finds_prefixes]
    if blind and requests.share_prefixes:
        yield f"{', '.join(blind)}: prefix sharing is not modelled: every prompt is prefilled whole"


def _order_notes(policies: Mapping[str, Policy], requests: Requests) -> Iterator[str]:
    """Yield sentences on queue orders that this workload leaves without effect."""
    declared, priority = (np.ptp(column) > 0 for column in (requests.max_new_tokens, requests.priority))
    for name, policy in policies.items():
        if policy.order == "sjf" and policy.predictor == "declared" and not declared:
            yield f"{name}: all requests declare the same max_new_tokens: sjf orders them by prompt length alone"
        if policy.order == "priority" and not priority:
            yield f"{name}: all requests have the same priority: they are served in order of arrival"


def _reservation_notes(policies: Mapping[str, Policy]) -> Iterator[str]:
    """Yield a sentence if the policies do not promise memory to their requests in the same way."""
    all_traits = {name: policy.traits for name, policy in policies.items()}
    as_needed = [
        name for name, traits in all_traits.items() if issubclass(book_of(traits), Paged) or traits.reserve == "window"
    ]
    if as_needed and len(as_needed) < len(all_traits):
        yield (
            f"{', '.join(as_needed)}: KV memory is taken as answers grow; "
            "the other policies reserve prompt + max_new_tokens for each request"
        )


def memory_notes(setting: Setting) -> list[str]:
    """Return a sentence if there is not as much KV memory as was asked for."""
    if setting.kv_tokens is None:
        return []
    note = check_kv_tokens(setting.hardware, setting.model, setting.kv_tokens)
    return [] if note is None else [note]


def extrapolation_notes(hardware: Device, extrapolated: Collection[str]) -> list[str]:
    """Return a sentence if a model needs what was not measured on the hardware; see `CostModel.extrapolated`."""
    note = f"hardware={hardware.name}: not measured but extrapolated: {', '.join(extrapolated)}"
    return [note] if extrapolated else []


def setting_notes(setting: Setting, policies: Mapping[str, Policy], requests: Requests, *drawn: str) -> list[str]:
    """Return all that is said before a run: on memory, requests, how they are `drawn`, engine and execution."""
    on_requests = [*memory_notes(setting), *notes_on(policies, requests), *drawn]
    return [*on_requests, *engine_notes(setting), *execution_notes(setting, policies)]


def engine_notes(setting: Setting) -> list[str]:
    """Return sentences if the hardware is a poor profile or leaves the engine without effect, or that is assumed."""
    hardware, engine = setting.hardware, setting.engine
    if hardware.takes_engine:
        return [f"engine={engine.name}: not measured but assumed: {engine.assumed}"] if engine.assumed else []
    if not engine.frontend_latency_s:
        return hardware.doubts()
    return [
        *hardware.doubts(),
        f"hardware={hardware.name} holds an engine's overheads already: of engine={engine.name} only the frontend "
        "latency is added",
    ]


def unserved(
    summaries: Mapping[str, Summary], requests: Requests, kv_tokens: int, policies: Mapping[str, Policy]
) -> str | None:
    """Return why no policy completed a single request; None if one did.

    Args:
        summaries: Metrics by policy name, at least one.
        requests: What arrived.
        kv_tokens: KV memory, in tokens.
        policies: The policies by name.
    """
    if any(summary["completed"] for summary in summaries.values()):
        return None
    waiting = {name: int(summary["unfinished"] or 0) for name, summary in summaries.items()}
    if any(waiting.values()):
        left = ", ".join(f"{name} left {counted(count, 'request')}" for name, count in waiting.items() if count)
        return f"no request was served: {left} unfinished and planned nothing more; see what its plan() answers"
    return (
        f"no request was served: every one was rejected, since the smallest of {len(requests):,} needs "
        f"{_shortage(int((requests.prompt_tokens + requests.max_new_tokens).min()), kv_tokens, policies)}; give more "
        "with kv_tokens=, or declare fewer with workload.max_new_tokens="
    )


def _shortage(smallest: int, kv_tokens: int, policies: Mapping[str, Policy]) -> str:
    """Say what the smallest request needs and what there is.

    Args:
        smallest: Tokens of its prompt and of its declared answer.
        kv_tokens: KV memory, in tokens.
        policies: The policies that rejected it.
    """
    if all(policy.traits.memory in ("paged", "prefix_cache") for policy in policies.values()):
        needed, how = blocks_of(smallest - 1) * BLOCK, f" - 1, in whole blocks of {BLOCK}"
        there = f"{kv_tokens:,}; whole blocks are {kv_tokens // BLOCK * BLOCK:,} of these"
    else:
        needed, there = smallest, f"{kv_tokens:,}"
        how = "" if smallest > kv_tokens else ", and room for its prefill beside that"
    return f"{needed:,} tokens of KV memory (prompt + declared max_new_tokens{how}) and there are {there}"
