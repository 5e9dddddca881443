"""Runs that served nobody: what happened and why, in a line."""

from collections.abc import Mapping

from policies.paged import BLOCK, blocks_of
from policies.policy import Policy
from sim.metrics import Summary
from workloads.demand import counted
from workloads.requests import Requests


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
