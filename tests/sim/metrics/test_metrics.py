"""The summary against a reference that follows every token and every iteration."""

import json

import numpy as np
import pytest

from policies.checks import InputError
from policies.orca import Orca
from sim.engine.iteration_log import expand
from sim.engine.request_log import RequestLog
from sim.metrics.metrics import Metrics, Summary
from sim.metrics.request_columns import request_columns
from sim.metrics.slo import SLO
from tests.sim.small_run import COST, POLICIES, Run, make_requests, run
from workloads.requests import FloatArray

ITL_TOLERANCE = 1e-4


@pytest.fixture(params=POLICIES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def example(name: str) -> Run:
    return run(POLICIES[name], make_requests())


def token_times(example: Run) -> list[FloatArray]:
    """When each token of each request was generated: no request of the example is ever preempted."""
    steps = expand(example.log[example.log["rows"] > 0])
    ends = steps["start_s"] + steps["duration_s"]
    request_log, output = example.request_log, example.requests.output_tokens
    return [
        np.concatenate(
            [[request_log.first_token_s[i]], ends[request_log.join_clock[i] : request_log.join_clock[i] + count - 1]]
        )
        for i, count in enumerate(output.tolist())
    ]


def test_latencies_follow_from_every_token(example: Run) -> None:
    summary, times = example.summary(), token_times(example)
    assert [len(tokens) for tokens in times] == example.requests.output_tokens.tolist()
    e2e = np.asarray(example.request_log.finish_s) - example.requests.arrival_s
    if example.policy.traits.release_with_batch:
        expected = {"ttft_ms": e2e * 1e3, "e2el_ms": e2e * 1e3}
        assert all(summary[f"{key}_{gap}_ms"] is None for gap in ("tpot", "itl") for key in ("mean", "p99"))
    else:
        assert np.allclose([tokens[-1] for tokens in times], example.request_log.finish_s)
        gaps = np.concatenate([np.diff(tokens) for tokens in times])
        tpot = np.array([np.diff(tokens).mean() for tokens in times if len(tokens) > 1])
        ttft = np.array([tokens[0] for tokens in times]) - example.requests.arrival_s
        expected = {"ttft_ms": ttft * 1e3, "tpot_ms": tpot * 1e3, "e2el_ms": e2e * 1e3, "itl_ms": gaps * 1e3}
    expected["normalized_latency_s"] = e2e / example.requests.output_tokens
    for key, values in expected.items():
        assert summary[f"mean_{key}"] == pytest.approx(values.mean(), rel=1e-9)
        found = [summary[f"{quantile}_{key}"] for quantile in ("median", "p90", "p99")]
        rel = ITL_TOLERANCE if key == "itl_ms" else 1e-9
        assert found == pytest.approx(np.quantile(values, [0.5, 0.9, 0.99]).tolist(), rel=rel)


def test_the_saturated_window_counts_the_tokens_generated_in_it(example: Run) -> None:
    summary, times = example.summary(), token_times(example)
    end = max(example.request_log.first_scheduled_s)
    inside = np.array([np.count_nonzero(tokens <= end + 1e-9) for tokens in times])
    assert summary["saturated_duration_s"] == end
    assert summary["saturated_output_throughput"] == pytest.approx(inside.sum() / end, rel=1e-12)
    requests = (inside / example.requests.output_tokens).sum()
    assert summary["saturated_request_throughput"] == pytest.approx(requests / end, rel=1e-12)


def test_counts_and_throughput(example: Run) -> None:
    summary, requests = example.summary(), example.requests
    steps = expand(example.log)
    duration = max(example.request_log.finish_s)
    output = int(requests.output_tokens.sum())
    assert summary["completed"] == len(requests)
    assert summary["duration_s"] == pytest.approx(duration)
    assert summary["total_output_tokens"] == output
    assert summary["total_input_tokens"] == requests.prompt_tokens.sum()
    assert summary["output_throughput_per_gpu"] == pytest.approx(output / duration / example.policy.traits.gpus)
    assert summary["iterations"] == len(steps)
    assert summary["decode_steps"] == (steps["rows"] > 0).sum()
    assert summary["mean_batch_rows"] == pytest.approx(steps["rows"][steps["rows"] > 0].mean())
    read = steps["kv_read"] + steps["kv_held"] + steps["kv_padding"]
    assert summary["kv_padding_fraction"] == pytest.approx(steps["kv_padding"].sum() / read.sum())
    prompts = len(requests) if example.policy.traits.chunks else steps["prefill_rows"].sum()  # not every chunk ends one
    assert steps["rows"].sum() + prompts == output


def test_utilisation_is_at_most_all(example: Run) -> None:
    summary = example.summary()
    for key in ("gpu_busy_fraction", "mfu", "mbu", "waiting_time_fraction"):
        value = summary[key]
        assert value is not None and 0 < value <= 1, key


def assert_alike(found: Summary, expected: Summary) -> None:
    for key, value in expected.items():
        approximate = value if value is None else pytest.approx(value, rel=ITL_TOLERANCE if "itl" in key else 1e-9)
        assert found[key] == approximate, key


def test_stretching_changes_nothing(name: str, example: Run) -> None:
    plain = run(POLICIES[name], example.requests, stretch=False)
    assert len(plain.log) > len(example.log)
    expected, found = plain.summary(SLO(0.2, 0.01)), example.summary(SLO(0.2, 0.01))
    del expected["kv_peak_tokens"]  # memory is logged as a record begins; blocks are taken during it
    assert_alike(found, expected)


@pytest.mark.parametrize("size", [1, 17])
def test_slices_of_any_size_give_the_same(example: Run, size: int) -> None:
    assert_alike(example.summary(slice_size=size), example.summary())


def test_goodput_judges_every_request(example: Run) -> None:
    columns = example.columns()
    slo = SLO(float(np.median(columns["ttft_s"])), 0.006)
    per_token = "normalized_latency_s" if example.policy.traits.release_with_batch else "tpot_s"
    assert slo.ttft_s is not None and slo.tpot_s is not None
    good = 0
    for ttft, tpot in zip(columns["ttft_s"], columns[per_token], strict=True):
        good += ttft <= slo.ttft_s and (np.isnan(tpot) or tpot <= slo.tpot_s)
    summary = example.summary(slo)
    assert 0 <= good < len(example.requests)
    assert summary["slo_attainment"] == good / len(example.requests)
    assert summary["request_goodput"] == pytest.approx(good / max(example.request_log.finish_s))
    assert example.summary()["request_goodput"] is None


def test_a_summary_is_plain_json(example: Run) -> None:
    summary = example.summary(SLO(1.0, None))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {type(value) for value in summary.values()} <= {int, float, bool, type(None)}


def test_rejected_requests_have_no_latency() -> None:
    prompts = make_requests().prompt_tokens.copy()
    prompts[[3, 8]] = 5000
    example = run(Orca(max_batch=6), make_requests(prompt_tokens=prompts), kv_tokens=2000)
    columns, summary = example.columns(), example.summary(SLO(1e9, None))
    assert np.flatnonzero(columns["status"] == "rejected").tolist() == [3, 8]
    assert np.isnan(columns["e2e_s"][[3, 8]]).all() and np.isfinite(np.delete(columns["e2e_s"], [3, 8])).all()
    assert (summary["rejected"], summary["completed"], summary["unfinished"]) == (2, len(prompts) - 2, 0)
    assert summary["slo_attainment"] == 1 - 2 / len(prompts)


def test_a_run_without_an_iteration_has_a_summary() -> None:
    requests = make_requests(prompt_tokens=np.full(120, 5000))
    answers = RequestLog(requests)
    answers.rejected.update(range(120))
    columns = request_columns(requests, answers, release_with_batch=False)
    summary = Metrics(COST, Orca().traits).summary(requests, answers, columns, SLO(1.0, 1.0))
    assert summary["rejected"] == 120 and summary["duration_s"] == 0.0
    assert summary["request_throughput"] is None and summary["idle_time_fraction"] is None
    assert summary["saturated"] is False


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf"), True, "fast"])
def test_an_impossible_objective_is_refused(limit: float) -> None:
    with pytest.raises(InputError, match=r"^slo\.ttft_s="):
        SLO(ttft_s=limit)
    with pytest.raises(InputError, match=r"^slo\.tpot_s="):
        SLO(tpot_s=limit)
