"""Runs that served nobody: what happened and why, in a line."""

from collections.abc import Mapping

from sim.metrics import Summary
from workloads.demand import counted
from workloads.requests import Requests


def unserved(summaries: Mapping[str, Summary], requests: Requests, kv_tokens: int) -> str | None:
    """Return why no policy completed a single request; None if one did.

    Args:
        summaries: Metrics by policy name, at least one.
        requests: What arrived.
        kv_tokens: KV memory, in tokens.
    """
    if any(summary["completed"] for summary in summaries.values()):
        return None
    waiting = {name: int(summary["unfinished"] or 0) for name, summary in summaries.items()}
    if any(waiting.values()):
        left = ", ".join(f"{name} left {counted(count, 'request')}" for name, count in waiting.items() if count)
        return f"no request was served: {left} unfinished and planned nothing more; see what its plan() answers"
    smallest = int((requests.prompt_tokens + requests.max_new_tokens).min())
    beside = "" if smallest > kv_tokens else ", and room for its prefill beside that"
    return (
        f"no request was served: every one was rejected, since the smallest of {len(requests):,} needs {smallest:,} "
        f"tokens of KV memory (prompt + declared max_new_tokens{beside}) and there are {kv_tokens:,}; give more with "
        "kv_tokens=, or declare fewer with workload.max_new_tokens="
    )
