"""A run summed up as `vllm bench serve --save-result` writes it, for tools that read such files."""

from typing import Any

import numpy as np

from sim.metrics.metrics import Summary
from sim.metrics.request_columns import Columns
from sim.version import __version__
from workloads.requests import Requests

_SPREAD = ("mean", "median", "p90", "p99")
_COLUMNS = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s"}


def bench_summary(policy: str, model: str, summary: Summary, columns: Columns, requests: Requests) -> dict[str, Any]:
    """Return the keys of vLLM's file that a prediction has values for; a latency that is not defined is None.

    Left out are `date`, which would make equal runs differ, `std_itl_ms` and `max_output_tokens_per_s`, which need
    every single token, and the per-request lists of `--save-detailed`.

    Args:
        policy: Its name, the `label`.
        model: Its name.
        summary: Metrics, as `sim.metrics.metrics`.
        columns: As `sim.metrics.request_columns`.
        requests: The workload.
    """
    span_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    record: dict[str, Any] = {
        "backend": f"baton-sim {__version__}",
        "label": policy,
        "model_id": model,
        "num_prompts": len(requests),
        "request_rate": (len(requests) - 1) / span_s if span_s else "inf",
        "max_concurrency": requests.concurrency,
        "duration": summary["duration_s"],
        "completed": summary["completed"],
        "failed": len(requests) - int(summary["completed"] or 0),
        "max_concurrent_requests": most_in_a_second(columns),
    }
    same = ("total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput")
    record |= {name: summary[name] for name in (*same, "output_throughput", "total_token_throughput")}
    finished = columns["status"] == "finished"
    for name in ("ttft", "tpot", "itl", "e2el"):
        record |= {f"{statistic}_{name}_ms": summary[f"{statistic}_{name}_ms"] for statistic in _SPREAD}
        if name in _COLUMNS:
            values = columns[_COLUMNS[name]][finished]
            defined = values[np.isfinite(values)]
            record[f"std_{name}_ms"] = float(defined.std() * 1e3) if len(defined) else None
    return record


def most_in_a_second(columns: Columns) -> int:
    """Return the most finished requests that were in flight at some time of one second, seconds counted from the first.

    So vLLM counts its `max_concurrent_requests`: a request counts in every second that it touches.
    """
    finished = columns["status"] == "finished"
    if not finished.any():
        return 0
    start = columns["arrival_s"][finished]
    first, last = (np.floor(at - start.min()).astype(np.int64) for at in (start, start + columns["e2e_s"][finished]))
    changes = np.zeros(int(last.max()) + 2, dtype=np.int64)
    np.add.at(changes, first, 1)
    np.add.at(changes, last + 1, -1)
    return int(np.cumsum(changes).max())
