"""What a warm-up leaves out, counted from the whole log iteration by iteration."""

import numpy as np
import pytest

from sim.intertoken import InterTokenLatency
from sim.log import expand
from sim.metrics import SLO, Metrics
from sim.request_table import request_columns
from sim.warm_up import WarmUp
from tests.sim.small_run import COST, POLICIES, make_requests, run

COUNT, LEFT_OUT = 120, 30


def warmed(name: str, requests: int, slice_size: int = 7) -> tuple[dict[str, float], float]:
    """Metrics of a run without its first requests, and when they begin; the log is fed in slices."""
    done = run(POLICIES[name], make_requests(count=COUNT))
    traits = done.policy.traits
    warm_up = WarmUp(requests)
    warm_up.watch(done.answers)
    metrics = Metrics(COST, traits.release_with_batch, traits.gpus, warm_up)
    for start in range(0, len(done.log), slice_size):
        metrics(done.log[start : start + slice_size])
    summary = metrics.summary(done.requests, done.answers, SLO(ttft_s=0.05))
    return {key: float(value) for key, value in summary.items() if value is not None}, warm_up.begin_s()


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_left_is_what_began_afterwards(name: str) -> None:
    found, begin = warmed(name, LEFT_OUT)
    done = run(POLICIES[name], make_requests(count=COUNT))
    scheduled = np.sort(np.asarray(done.answers.first_scheduled_s))
    assert begin == scheduled[LEFT_OUT] > 0
    log = expand(done.log)
    after = log[log["start_s"] >= begin]
    columns = request_columns(done.requests, done.answers, done.policy.traits.release_with_batch)
    late = {key: values[LEFT_OUT:] for key, values in columns.items()}
    assert found["iterations"] == len(after)
    assert found["completed"] == COUNT - LEFT_OUT
    assert found["duration_s"] == pytest.approx(max(log["start_s"] + log["duration_s"]) - begin)
    assert found["mean_ttft_ms"] == pytest.approx(1e3 * late["ttft_s"].mean())
    assert found["slo_attainment"] == pytest.approx((late["ttft_s"] <= 0.05).mean())
    assert found["p99_e2el_ms"] == pytest.approx(1e3 * np.quantile(late["e2e_s"], 0.99))


@pytest.mark.parametrize("name", ["orca", "baton", "prefill_first", "run_to_completion_early"])
def test_throughput_and_gaps_count_the_tokens_of_afterwards(name: str) -> None:
    """One lane: every prefill that ends after the beginning gives its prompts' first tokens, every step its rows'."""
    found, begin = warmed(name, LEFT_OUT)
    done = run(POLICIES[name], make_requests(count=COUNT))
    log = expand(done.log)
    after = log[log["start_s"] >= begin]
    tokens = after["rows"].sum() + after["prefill_rows"].sum()
    assert found["output_throughput"] * found["duration_s"] == pytest.approx(tokens)
    busy = after["duration_s"].sum()
    assert found["busy_s"] == pytest.approx(busy)
    gaps = InterTokenLatency(lambda: begin)
    gaps(done.log)
    assert gaps.finished(done.answers).count == after["rows"].sum(), "every row of a step closes a gap"
    assert found["mean_batch_rows"] == pytest.approx(after["rows"].sum() / (after["rows"] > 0).sum())


@pytest.mark.parametrize("name", POLICIES)
def test_no_warm_up_leaves_nothing_out(name: str) -> None:
    found, begin = warmed(name, 0)
    done = run(POLICIES[name], make_requests(count=COUNT))
    expected = done.summary(SLO(ttft_s=0.05))
    assert begin == 0
    assert found == pytest.approx({key: float(value) for key, value in expected.items() if value is not None})


def test_slices_do_not_matter() -> None:
    assert warmed("baton_overlapped", LEFT_OUT, 3)[0] == pytest.approx(warmed("baton_overlapped", LEFT_OUT, 10**6)[0])


def test_while_the_end_of_the_warm_up_is_unknown_nothing_counts() -> None:
    requests = make_requests(count=5)
    done = run(POLICIES["orca"], requests)
    warm_up = WarmUp(5 - 1)
    warm_up.watch(done.answers)
    done.answers.first_scheduled_s[3] = float("nan")
    assert warm_up.begin_s() == float("inf")
