"""What a warm-up leaves out, counted from the whole log iteration by iteration."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.job import Job
from sim.engine.engine import Engine
from sim.engine.iteration_log import expand
from sim.metrics.intertoken import InterTokenLatency
from sim.metrics.metrics import Metrics
from sim.metrics.slo import SLO
from sim.metrics.warm_up import WarmUp
from sim.simulation.simulation import simulate
from tests.sim.small_run import COST, POLICIES, make_requests, run
from workloads.requests import Requests

COUNT, LEFT_OUT = 120, 30


def warmed(name: str, requests: int, slice_size: int = 7) -> tuple[dict[str, float], float]:
    """Metrics of a run without its first requests, and when they begin; the log is fed in slices."""
    done = run(POLICIES[name], make_requests(count=COUNT))
    warm_up = WarmUp(requests)
    warm_up.watch(done.request_log)
    metrics = Metrics(COST, done.policy.traits, warm_up)
    for start in range(0, len(done.log), slice_size):
        metrics(done.log[start : start + slice_size])
    summary = metrics.summary(done.requests, done.request_log, done.columns(), SLO(ttft_s=0.05))
    return {key: float(value) for key, value in summary.items() if value is not None}, warm_up.begin_s()


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_left_is_what_began_afterwards(name: str) -> None:
    found, begin = warmed(name, LEFT_OUT)
    done = run(POLICIES[name], make_requests(count=COUNT))
    scheduled = np.sort(np.asarray(done.request_log.first_scheduled_s))
    assert begin == scheduled[LEFT_OUT] > 0
    log = expand(done.log)
    after = log[log["start_s"] >= begin]
    columns = done.columns()
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
    assert gaps.finished(done.request_log).count == after["rows"].sum(), "every row of a step closes a gap"
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
    warm_up.watch(done.request_log)
    done.request_log.first_scheduled_s[3] = float("nan")
    assert warm_up.begin_s() == float("inf")


def simulated(name: str, requests: Requests, left_out: int, **options: Any) -> dict[str, Any]:
    """Metrics of a run without its first requests."""
    return simulate(requests, POLICIES[name], COST.hardware, COST.model, warm_up=left_out, **options).summary


@pytest.mark.parametrize("left_out", [0, 30, 100])
def test_the_prefix_cache_is_judged_by_those_first_admitted_afterwards(left_out: int) -> None:
    """Five prefixes of 64 tokens: all but the first of each find it in full, each asks for a prompt of 100."""
    count = 120
    fixed: dict[str, Any] = {"prompt_tokens": np.full(count, 100), "prefix_tokens": np.full(count, 64)}
    requests = make_requests(count=count, rate=4.0, **fixed, prefix_id=np.arange(count) % 5)
    found = simulated("chunked_prefill", requests, left_out)
    finding = count - max(left_out, 5)
    assert found["prefix_hit_tokens"] == 64 * finding
    assert found["prefix_hit_rate"] == pytest.approx(0.64 * finding / (count - left_out))


def test_what_the_preempted_find_again_counts_from_then_on() -> None:
    """Long answers come first and are preempted; short ones never are."""
    output = np.where(np.arange(120) < 30, 150, 2)
    requests = make_requests(rate=0, prompt_tokens=np.full(120, 64), output_tokens=output, max_new_tokens=output)
    whole, late = (simulated("chunked_prefill", requests, left_out, kv_tokens=800) for left_out in (0, 60))
    assert whole["readmitted_hit_tokens"] > 0 == late["readmitted_hit_tokens"]
    assert late["readmitted_hit_rate"] is None


@pytest.mark.parametrize("left_out", [0, 50, 100])
def test_the_link_is_busy_only_with_what_it_carries_afterwards(left_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link so slow that KV queues on it when the warm-up ends: of a transfer under way, what is left counts."""
    sent: list[tuple[float, float]] = []
    send = Engine._send

    def recording(engine: Engine, jobs: Sequence[Job]) -> None:
        start = max(engine._now, sum(sent[-1]) if sent else 0.0)
        sent.append((start, COST.model.kv_bytes_per_token / 2e9 * sum(job.prompt_tokens for job in jobs)))
        send(engine, jobs)

    monkeypatch.setattr(Engine, "_send", recording)
    slow = replace(COST.hardware, gpu_bandwidth=2e9)
    result = simulate(make_requests(), POLICIES["baton_dedicated"], slow, COST.model, warm_up=left_out)
    begin = float(np.sort(result.columns["first_scheduled_s"])[left_out]) if left_out else 0.0
    assert left_out < 100 or any(start < begin < start + seconds for start, seconds in sent)
    busy = sum(max(0.0, start + seconds - max(start, begin)) for start, seconds in sent)
    found: dict[str, Any] = result.summary
    assert found["link_busy_fraction"] == pytest.approx(busy / found["duration_s"])


def test_the_peak_of_memory_is_that_of_afterwards() -> None:
    """The first answer is long, and its KV outgrows all that follows."""
    output = np.where(np.arange(60) == 0, 900, 5)
    lengths: dict[str, Any] = {"prompt_tokens": np.full(60, 16), "output_tokens": output, "max_new_tokens": output}
    requests = make_requests(count=60, rate=0.1, **lengths)
    whole, late = (simulated("chunked_prefill", requests, left_out) for left_out in (0, 30))
    assert whole["kv_peak_tokens"] > 900
    assert late["kv_peak_tokens"] == 16 + 16, "two blocks: 16 tokens of the prompt and 4 of the answer"
