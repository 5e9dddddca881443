"""When a run counts as saturated."""

import numpy as np
import pytest

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from sim.metrics.saturation import Saturation, tokens_by
from tests.sim.small_run import POLICIES, make_requests, run


@pytest.mark.parametrize("name", POLICIES)
def test_a_flood_saturates_and_a_trickle_does_not(name: str) -> None:
    flood = run(POLICIES[name], make_requests(rate=0)).summary()
    trickle = run(POLICIES[name], make_requests(rate=4.0)).summary()
    assert flood["saturated"] is True and trickle["saturated"] is False
    assert flood["waiting_time_fraction"] == pytest.approx(1.0, abs=0.02)
    for rate in ("request_throughput", "output_throughput"):
        assert flood[f"saturated_{rate}"] == pytest.approx(flood[rate], rel=0.1)
    assert trickle["request_throughput"] == pytest.approx(4.0, rel=0.3)


@pytest.mark.parametrize("budget", [16, 4096])
def test_the_window_counts_the_tokens_that_chunks_give_and_no_others(budget: int) -> None:
    requests = make_requests(count=40)
    example = run(ChunkedPrefill(max_batch=4, token_budget=budget), requests)
    end = max(example.request_log.first_scheduled_s)
    before = example.log[example.log["start_s"] < end]
    steps = (before["rows"] * before["steps"]).sum()  # the iteration that begins at `end` is a record of its own
    first = (np.asarray(example.request_log.first_token_s) <= end).sum()
    window = Saturation()
    window(example.log)
    assert window.window(requests, example.request_log).output_tokens == steps + first


def test_waiting_for_the_iteration_in_progress_is_no_saturation() -> None:
    """At 2000 requests/s somebody always waits for the next boundary, but rows are free."""
    requests = make_requests(count=2000, rate=2000.0, longest=1)
    example = run(Orca(max_batch=2000), requests, kv_tokens=10_000_000)
    queued = np.asarray(example.request_log.first_scheduled_s) - requests.arrival_s
    assert queued.mean() > 0.8 / 2000
    assert example.summary()["waiting_time_fraction"] == 0.0


def test_without_a_newcomer_after_the_start_there_is_no_window() -> None:
    summary = run(Baton(max_batch=6), make_requests(count=6, rate=0)).summary()
    assert summary["saturated"] is False and summary["saturated_duration_s"] == 0.0
    assert summary["saturated_request_throughput"] is None


@pytest.mark.parametrize("policy", [RunToCompletion(max_batch=4), Orca(max_batch=4)])
def test_all_tokens_are_generated_by_the_end(policy: Policy) -> None:
    requests = make_requests(count=30)
    example = run(policy, requests)
    end, clock = max(example.request_log.finish_s), int((example.log["steps"] * (example.log["rows"] > 0)).sum())
    assert tokens_by(end, clock, requests, example.request_log).tolist() == requests.output_tokens.tolist()
    assert not tokens_by(0.0, 0, requests, example.request_log).any()


def test_tokens_of_the_preempted_are_interpolated() -> None:
    requests = make_requests(rate=20.0, longest=700)
    example = run(Baton(max_batch=16, reserve="window"), requests, kv_tokens=3000)
    preempted = list(example.request_log.preemptions)
    begin, end = (
        np.asarray(times)[preempted] for times in (example.request_log.first_token_s, example.request_log.finish_s)
    )
    halfway = float((begin[0] + end[0]) / 2)
    tokens = tokens_by(halfway, 0, requests, example.request_log)[preempted]
    total = requests.output_tokens[preempted]
    assert tokens[0] == pytest.approx((1 + total[0]) / 2)
    assert (tokens[end <= halfway] == total[end <= halfway]).all() and not tokens[begin > halfway].any()
