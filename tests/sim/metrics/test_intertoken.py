"""Every gap between two tokens of a request is counted once, whatever interrupts it."""

import numpy as np
import pytest

from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from sim.engine.iteration_log import DTYPE, Slice, expand
from sim.engine.request_log import RequestLog
from sim.metrics.intertoken import WIDTH, InterTokenLatency, LogHistogram
from tests.sim.small_run import make_requests, run


def records(*rows: dict[str, float]) -> Slice:
    log = np.zeros(len(rows), dtype=DTYPE)
    log["steps"] = 1
    for record, row in zip(log, rows, strict=True):
        for field, value in row.items():
            record[field] = value
    single = log["first_s"] == 0
    log["first_s"][single] = log["duration_s"][single]
    return log


def test_gaps_of_a_trace_by_hand() -> None:
    """Request 0 is parked at 3 s and resumes at 7 s; 1 is dropped at 8 s and recomputed from 9 s to 11 s."""
    log = records(
        {"start_s": 0, "duration_s": 1, "prefill_rows": 2},
        {"start_s": 1, "duration_s": 2, "first_s": 1, "steps": 2, "rows": 2, "inserted_rows": 2},  # 0, 1 at 2, 3
        {"start_s": 3, "duration_s": 4, "rows": 1},  # 1 at 7
        {"start_s": 7, "duration_s": 1, "rows": 2, "inserted_rows": 1},  # 0, 1 at 8
        {"start_s": 8, "duration_s": 1, "rows": 1},  # 0 at 9
        {"start_s": 9, "duration_s": 2, "prefill_rows": 1},  # 1 at 11
        {"start_s": 11, "duration_s": 0.5, "rows": 2, "inserted_rows": 1},  # 0, 1 at 11.5
    )
    request_log = RequestLog(make_requests(count=2))
    request_log.join_clock[:] = type(request_log.join_clock)("q", [0, 0])
    request_log.first_token_s[:] = type(request_log.first_token_s)("d", [1.0, 1.0])
    request_log._rejoins.update({(3, 0): 3.0, (5, 1): 11.0})
    request_log.recomputed += [(1, 8.0, 11.0)]
    latency = InterTokenLatency()
    latency(log)
    gaps = latency.finished(request_log)
    # First those of request 0, whose tokens come at 1, 2, 3, 8, 9 and 11.5 s.
    expected = [1, 1, 5, 1, 2.5, 1, 1, 4, 1, 3, 0.5]
    assert gaps.count == len(expected)
    assert gaps.total == pytest.approx(sum(expected))
    shares = tuple(np.linspace(0, 1, len(expected)))
    assert gaps.quantiles(shares) == pytest.approx(sorted(expected), rel=WIDTH)
    assert latency.finished(request_log).count == gaps.count, "asking twice must not count twice"


@pytest.mark.parametrize(
    ("policy", "kv_tokens"),
    [
        (PrefillFirst(max_batch=16), 3000),
        (Baton(max_batch=16, reserve="window"), 3000),
        (Orca(max_batch=4, order="sjf"), 8000),
    ],
    ids=["dropped", "parked", "out of turn"],
)
def test_gaps_add_up_under_preemption(policy: Policy, kv_tokens: int) -> None:
    example = run(policy, make_requests(rate=20.0, longest=700), kv_tokens)
    assert sum(example.request_log.preemptions.values()) > 5
    assert (
        sum(example.requests.output_tokens)
        == example.log["prefill_rows"].sum() + (example.log["rows"] * example.log["steps"]).sum()
    )
    latency = InterTokenLatency()
    latency(example.log)
    gaps = latency.finished(example.request_log)
    assert gaps.count == (example.requests.output_tokens - 1).sum()
    between = np.asarray(example.request_log.finish_s) - np.asarray(example.request_log.first_token_s)
    assert gaps.total == pytest.approx(between.sum(), rel=1e-9)


def test_a_long_stretch_counts_like_its_steps() -> None:
    steps, first, growth = 50_000, 0.01, 3e-7
    duration = steps * first + growth * steps * (steps - 1) / 2
    log = records(
        {"start_s": 1, "duration_s": duration, "first_s": first, "steps": steps, "rows": 3, "inserted_rows": 3}
    )
    whole, single = InterTokenLatency(), InterTokenLatency()
    whole(log)
    single(expand(log))
    request_log = RequestLog(make_requests(count=1))
    shares = (0.0, 0.1, 0.5, 0.99, 1.0)
    found, expected = whole.finished(request_log), single.finished(request_log)
    assert found.count == expected.count == 3 * (steps - 1)
    assert found.total == pytest.approx(expected.total, rel=1e-9)
    assert found.quantiles(shares) == pytest.approx([first + growth * (1 + s * (steps - 2)) for s in shares], rel=WIDTH)


def test_quantiles_are_within_a_bin_of_the_exact_ones() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.lognormal(-4, 1.5, 5000), rng.integers(0, 5, 5000)
    histogram = LogHistogram()
    for part in np.array_split(np.arange(5000), 7):
        histogram.add(values[part], weights[part])
    shares = (0.0, 0.01, 0.5, 0.9, 0.999, 1.0)
    assert histogram.quantiles(shares) == pytest.approx(
        np.quantile(np.repeat(values, weights), shares).tolist(), rel=WIDTH
    )
