"""Idle computation: definitions taken iteration by iteration, closed forms, and sums that hold."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.orca import Orca
from policies.run_to_completion import RunToCompletion
from sim.cost.work import Work
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import DTYPE, Slice, expand
from sim.metrics.idle import CAUSES, RECOMPUTATION, SLOTS, STALL, IdleTime
from sim.metrics.metrics import mean_work
from tests.sim.small_run import COST, POLICIES, make_requests, run


def work_at(record: Any) -> Work:
    return Work._make(int(record[field]) for field in Work._fields)


def defined_losses(record: Any) -> dict[str, float]:
    """The definition: cost(work) - cost(work without it) of one iteration; at most one non-linear cause is in it."""
    work = work_at(record)
    cost = COST.seconds(work)
    lost = {cause: cost - COST.seconds(work._replace(**dict.fromkeys(fields, 0))) for cause, fields in CAUSES.items()}
    if work.dummy_rows:
        launches = work.rows if work.attention_launches > 1 else 1
        none = work._replace(dummy_rows=0, kv_dummy=0, attention_launches=launches)
        lost["bucket_dummies"] = cost - COST.seconds(none)
    again = {
        "prefill_tokens": work.prefill_tokens - work.recomputed_tokens,
        "prefill_pairs": work.prefill_pairs - work.recomputed_pairs,
    }
    lost[RECOMPUTATION] = cost - COST.seconds(work._replace(**again))
    stall = 0.0
    if work.prefill_rows and not work.lane and record["live_rows"]:
        launches = work.rows if work.attention_launches > 1 else 1
        gone = [field for field in Work._fields if field.startswith(("prefill_", "insertion_"))]
        without = work._replace(**dict.fromkeys(gone, 0), attention_launches=launches)
        padding = lost["prefill_padding"] + lost["insertion_padding"] + lost[RECOMPUTATION]
        stall = (cost - COST.seconds(without) if work.rows else cost) - padding
    return lost | {STALL: stall}


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=lambda execution: execution.name)
@pytest.mark.parametrize("name", POLICIES)
def test_idle_time_is_the_sum_of_what_each_iteration_lost(name: str, execution: Execution) -> None:
    example = run(POLICIES[name], make_requests(), execution=execution)
    summary, steps = example.summary(), expand(example.log)
    losses = [defined_losses(record) for record in steps]
    for cause in (*CAUSES, RECOMPUTATION, STALL):
        expected = sum(loss[cause] for loss in losses) / summary["busy_s"]  # type: ignore[operator]
        assert summary[f"idle_time_fraction_{cause}"] == pytest.approx(expected, rel=1e-6, abs=1e-9), cause
    parts = [summary[f"idle_time_fraction_{cause}"] for cause in (*CAUSES, RECOMPUTATION, STALL)]
    assert summary["idle_time_fraction"] == pytest.approx(sum(parts))  # type: ignore[arg-type]
    assert summary["wasted_time_fraction"] == pytest.approx(sum(parts[:-1]))  # type: ignore[arg-type]
    assert 0 <= sum(parts) < 1  # type: ignore[arg-type]
    idle = [summary[f"idle_token_fraction_{cause}"] for cause in SLOTS]
    assert summary["idle_token_fraction"] == pytest.approx(sum(idle))  # type: ignore[arg-type]


def test_each_policy_has_the_causes_it_should() -> None:
    expected = {
        "run_to_completion": {"prefill_padding", "finished_rows", "kv_padding"},
        "orca": {STALL},
        "orca_rectangular": {"prefill_padding", "insertion_padding", "kv_padding", STALL},
        "baton": {"prefill_padding", "kv_padding", STALL},
        "baton_overlapped": {"prefill_padding", "kv_padding"},
        "baton_dedicated": {"prefill_padding", "kv_padding"},
        "prefill_first": {STALL},
    }
    for name, causes in expected.items():
        summary = run(POLICIES[name], make_requests(rate=0)).summary()
        found = {cause for cause in (*CAUSES, RECOMPUTATION, STALL) if summary[f"idle_time_fraction_{cause}"]}
        assert found == causes, name


def test_finished_rows_of_run_to_completion_in_closed_form() -> None:
    requests = make_requests(count=40, rate=0)
    summary = run(RunToCompletion(max_batch=8), requests).summary()
    outputs, prompts = requests.output_tokens.reshape(5, 8), requests.prompt_tokens.reshape(5, 8)
    held = (outputs.max(axis=1, keepdims=True) - outputs).sum()
    padding = (prompts.max(axis=1, keepdims=True) - prompts).sum()
    slots = outputs.sum() - 40 + prompts.sum() + held + padding
    assert summary["idle_token_fraction_finished_rows"] == pytest.approx(held / slots, rel=1e-12)
    assert summary["idle_token_fraction_prefill_padding"] == pytest.approx(padding / slots, rel=1e-12)


def test_insertion_padding_of_a_rectangle_in_closed_form() -> None:
    """k newcomers of n_i tokens in a batch of B rows leave B*max(n_i) - sum(n_i) - (B-k) slots idle."""
    count = 5
    arrival, prompts = np.array([0.0, 0.0, 0.0, 1e-4, 1e-4]), np.array([9, 4, 7, 50, 20])
    columns: dict[str, Any] = {"arrival_s": arrival, "prompt_tokens": prompts, "output_tokens": np.full(count, 30)}
    example = run(Orca(max_batch=8, layout="rectangular"), make_requests(count=count, **columns))
    summary, work = example.summary(), mean_work(example.log)
    assert np.count_nonzero(work.insertion_padding) == 1
    idle, padding = 5 * 50 - 70 - 3, 3 * 9 - 20
    slots = prompts.sum() + 29 * count + idle + padding
    assert summary["idle_token_fraction_insertion_padding"] == pytest.approx(idle / slots, rel=1e-12)
    assert summary["idle_token_fraction"] == pytest.approx((idle + padding) / slots, rel=1e-12)


def one_record(**fields: float) -> Slice:
    log = np.zeros(1, dtype=DTYPE)
    for name, value in {"steps": 1, "attention_launches": 1, **fields}.items():
        log[name] = value
    cost = COST.seconds(work_at(log[0]))
    log["duration_s"] = log["first_s"] = cost if not log["duration_s"][0] else log["duration_s"]
    return log


def losses(log: Slice) -> dict[str, float]:
    idle = IdleTime(COST)
    idle.add(log, mean_work(log))
    return {cause: seconds for cause, seconds in idle.seconds.items() if seconds}


def test_only_rows_that_wait_on_the_same_lane_stall() -> None:
    prefill: dict[str, float] = {"prefill_rows": 2, "prefill_tokens": 100, "prefill_pairs": 2600}
    alone = one_record(live_rows=3, **prefill)
    assert losses(alone) == {STALL: pytest.approx(alone["duration_s"][0])}
    assert losses(one_record(live_rows=0, **prefill)) == {}
    assert losses(one_record(live_rows=3, lane=1, **prefill)) == {}


def test_what_was_computed_before_and_dropped_is_lost_when_it_is_computed_again() -> None:
    first = {"prefill_rows": 1, "prefill_tokens": 4000, "prefill_pairs": 4000 * 4001 // 2}
    again = one_record(**first, recomputed_tokens=3999, recomputed_pairs=3999 * 2000)
    assert losses(one_record(**first)) == {}
    only_the_new_token = Work(prefill_rows=1, prefill_tokens=1, prefill_pairs=4000)
    assert losses(again) == {RECOMPUTATION: pytest.approx(again["duration_s"][0] - COST.seconds(only_the_new_token))}


def test_an_iteration_that_the_other_lane_slows_loses_what_it_would_lose_alone() -> None:
    fields = {"lane": 1, "prefill_rows": 2, "prefill_tokens": 1500, "prefill_pairs": 10**6, "prefill_padding": 900}
    quick = one_record(**fields)
    slow = one_record(**fields, duration_s=3 * float(quick["duration_s"][0]))
    assert losses(slow) == losses(quick)


@given(st.fixed_dictionaries({field: st.integers(0, 3000) for field in Work._fields[1:]}), st.integers(0, 3))
def test_no_second_is_lost_twice(fields: dict[str, float], live: int) -> None:
    for kind in ("tokens", "pairs"):
        fields[f"recomputed_{kind}"] = min(fields[f"recomputed_{kind}"], fields[f"prefill_{kind}"])
    log = one_record(**fields, live_rows=live)
    lost = losses(log)
    assert all(seconds >= -1e-12 for seconds in lost.values())
    assert sum(lost.values()) <= log["duration_s"][0] * (1 + 1e-9)
