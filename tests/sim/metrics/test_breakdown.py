"""Where requests' time went: by hand, and the laws that hold for every policy."""

from typing import Any

import numpy as np
import pytest

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from sim.cost.datasheet import Hardware
from sim.metrics.breakdown import PARTS, Breakdown, p99_request
from sim.metrics.idle import IdleTime
from sim.metrics.metrics import mean_work
from sim.simulation.results import Result
from sim.simulation.simulation import simulate
from sim.tasks.explanation import explanation
from tests.runs import LLAMA3_8B, ONE_SECOND_PER_ITERATION, requests_of
from tests.sim.small_run import COST, POLICIES, make_requests
from tests.sim.small_run import run as logged
from workloads.requests import Requests

PREEMPTING: dict[str, Policy] = {
    "parked": Baton(max_batch=16, reserve="window"),
    "dropped": PrefillFirst(max_batch=16),
    "recomputed in chunks": ChunkedPrefill(max_batch=16, token_budget=64),
    "out of turn": Orca(max_batch=4, order="sjf"),
}


def run(policy: Policy, requests: Requests, hardware: Any = COST.hardware, **options: Any) -> Result:
    model = COST.model if hardware is COST.hardware else LLAMA3_8B
    return simulate(requests, policy, hardware, model, **({"kv_tokens": 100_000} | options))


def parts(result: Result) -> dict[str, list[float]]:
    """The parts that are not zero for every request."""
    found = {name: np.round(result.columns[f"{name}_part_s"], 9).tolist() for name in PARTS}
    return {name: seconds for name, seconds in found.items() if any(seconds)}


def test_orca_by_hand() -> None:
    """Every iteration takes 1 s: 0 prefilled to 1, then decodes to 2, 3 (beside the prefill of 1), 4; 1 to 4, 5."""
    result = run(Orca(max_batch=2), requests_of([(0.0, 3, 4), (1.5, 2, 3)]), ONE_SECOND_PER_ITERATION)
    assert parts(result) == {"queue": [0, 0.5], "prefill": [1, 1], "decode": [3, 2]}


def test_who_only_waits_while_another_is_prefilled_stalls() -> None:
    """0 is prefilled to 1 and decodes to 2; 1 is prefilled alone from 2 to 3; both decode to 4 and 5."""
    result = run(PrefillFirst(max_batch=2), requests_of([(0.0, 3, 4), (1.5, 2, 3)]), ONE_SECOND_PER_ITERATION)
    assert parts(result) == {"queue": [0, 0.5], "prefill": [1, 1], "decode": [3, 2], "stall": [1, 0]}


def test_answers_that_leave_with_their_batch_are_released_late() -> None:
    """Both are prefilled to 1; the second has its last token at 2, the batch ends at 4."""
    result = run(RunToCompletion(max_batch=2), requests_of([(0.0, 3, 4), (0.0, 3, 2)]), ONE_SECOND_PER_ITERATION)
    assert parts(result) == {"prefill": [1, 1], "decode": [3, 1], "release": [0, 2]}


def test_padding_is_what_an_unpadded_iteration_would_save() -> None:
    """Only KV reads cost: a window of two prompts of 10 and 30 tokens is read as 2 x 31, of which 20 are padding."""
    slow = Hardware(**(vars(ONE_SECOND_PER_ITERATION) | {"step_overhead_s": 0.0, "memory_bandwidth": 1e12}))
    result = run(Baton(max_batch=2), requests_of([(0.0, 10, 2), (0.0, 30, 2)]), slow)
    decode, padding = (result.columns[f"{name}_part_s"] for name in ("decode", "padding"))
    per_token = LLAMA3_8B.kv_bytes_per_token / (1e12 * slow.bandwidth_efficiency)
    weights = (LLAMA3_8B.layers * LLAMA3_8B.layer_parameters + LLAMA3_8B.head_parameters) * 2
    decoding = weights / (1e12 * slow.bandwidth_efficiency) + 42 * per_token
    assert padding == pytest.approx([20 * per_token] * 2, rel=1e-6)
    assert decode == pytest.approx([decoding] * 2, rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, 80.0])
@pytest.mark.parametrize("name", POLICIES)
def test_parts_add_up_to_the_whole_and_none_is_negative(name: str, rate: float) -> None:
    check_laws(run(POLICIES[name], make_requests(rate=rate)))


@pytest.mark.parametrize("name", PREEMPTING)
def test_parts_add_up_under_preemption(name: str) -> None:
    tokens = 8000 if name == "out of turn" else 3000
    result = run(PREEMPTING[name], make_requests(rate=20.0, longest=700), kv_tokens=tokens)
    check_laws(result)
    away = result.columns["preemption_part_s"] > 1e-9
    assert away.sum() > 5
    assert (result.columns["preemptions"][away] > 0).all(), "only those that were preempted were away"


def check_laws(result: Result) -> None:
    columns = result.columns
    split = np.stack([columns[f"{name}_part_s"] for name in PARTS])
    np.testing.assert_allclose(split.sum(axis=0), columns["e2e_s"], rtol=1e-9)
    assert split.min() > -1e-9
    summary = result.summary
    for which, whole in (
        ("mean", summary["mean_e2el_ms"]),
        ("p99", 1e3 * columns["e2e_s"][p99_request(columns["e2e_s"])]),
    ):
        told = sum(float(summary[f"{which}_split_{name}_ms"] or 0) for name in PARTS)
        assert told == pytest.approx(whole)


@pytest.mark.parametrize("name", [*POLICIES, *PREEMPTING])
def test_rows_decode_as_long_as_their_iterations_took(name: str) -> None:
    """What all requests decoded is the sum, over iterations, of live rows times the cost of decode alone."""
    policy = (POLICIES | PREEMPTING)[name]
    long: dict[str, Any] = {"rate": 20.0, "longest": 700} if name in PREEMPTING else {}
    done = logged(policy, make_requests(**long), 3000 if name in ("parked", "dropped") else 9000)
    log = done.log[done.log["rows"] > 0]
    columns = {field: log[field] for field in log.dtype.names or ()}
    useful = IdleTime(COST).losses(columns, mean_work(columns)).useful
    breakdown = Breakdown()
    whole = {field: done.log[field] for field in done.log.dtype.names or ()}
    breakdown.add(whole, IdleTime(COST).losses(whole, mean_work(whole)))
    decoded = breakdown.parts(done.request_log)["decode_part_s"].sum()
    assert decoded == pytest.approx((useful * log["steps"] * log["rows"]).sum(), rel=1e-9)


def test_the_p99_request_is_the_nearest_rank() -> None:
    e2e = np.append(np.arange(200, 0, -1, dtype=float), np.nan)
    assert e2e[p99_request(e2e)] == 198
    assert p99_request(np.array([np.nan, 3.0])) == 1


def test_the_picture_keeps_the_parts_of_a_fast_policy_beside_a_slow_one() -> None:
    nothing = dict.fromkeys(PARTS, 0.0)
    slow, fast = nothing | {"queue": 45.0, "decode": 5.0}, nothing | {"prefill": 0.5, "decode": 1.5}
    figure = explanation({"slow": {"request 0": slow}, "fast": {"request 0": fast}, "none": {}})
    seconds, shares = figure.axes
    assert [text.get_text() for text in seconds.texts] == ["50 s", "2 s"]
    ends: dict[str, list[float]] = {}
    for bars in shares.containers:
        ends[str(bars.get_label())] = [bar.get_x() + bar.get_width() for bar in bars.get_children()]  # type: ignore[attr-defined]
    assert ends["prefill"][1] == 25
    assert [ends["decode"][place] for place in (0, 1, 2)] == [100, 100, 0]
