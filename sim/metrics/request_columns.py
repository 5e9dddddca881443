"""What became of every request: the columns of `requests.parquet`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.request_log import RequestLog
from workloads.requests import Requests

Columns = dict[str, npt.NDArray[Any]]


def request_columns(requests: Requests, answers: RequestLog, release_with_batch: bool) -> Columns:
    """Return one array [n] per column, by name; times in seconds, NaN where undefined.

    `status` is the text `finished`, `unfinished` or `rejected`. `ttft_s` ends with the first token, `e2e_s` with the
    last; where answers are released with their batch both end then. `tpot_s` is the mean time per token after the
    first, of requests with more than one token that stream; `normalized_latency_s` is `e2e_s` per output token;
    `queue_s` ends as the first prefill begins.
    """
    arrival, scheduled, first, finish = (
        np.array(times, dtype=np.float64)
        for times in (answers.arrival_s, answers.first_scheduled_s, answers.first_token_s, answers.finish_s)
    )
    output = requests.output_tokens
    e2e = finish - arrival
    ttft = e2e if release_with_batch else first - arrival
    streams = (output > 1) & (not release_with_batch)
    tpot = np.divide(e2e - ttft, output - 1, out=np.full(len(output), np.nan), where=streams)
    status = np.where(np.isnan(finish), "unfinished", "finished")
    status[list(answers.rejected)] = "rejected"
    preemptions = np.zeros(len(output), dtype=np.int64)
    preemptions[list(answers.preemptions)] = list(answers.preemptions.values())
    return {
        "request_id": np.arange(len(output)),
        "arrival_s": arrival,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": output,
        "max_new_tokens": requests.max_new_tokens,
        "first_scheduled_s": scheduled,
        "ttft_s": ttft,
        "tpot_s": tpot,
        "e2e_s": e2e,
        "normalized_latency_s": e2e / output,
        "queue_s": scheduled - arrival,
        "preemptions": preemptions,
        "status": status,
        "priority": requests.priority,
        "prefix_id": requests.prefix_id,
        "prefix_tokens": requests.prefix_tokens,
    }
