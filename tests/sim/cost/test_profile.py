"""A profile: tables of measured costs, what may stand in them, and simulations that they price."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.baton import Baton
from policies.checks import InputError
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from sim.config.settings import build
from sim.cost.engine_constants import EngineConstants
from sim.cost.memory import kv_capacity
from sim.cost.profile import Fit, LayoutCost, Profile, settings_of
from sim.cost.terms import Term
from sim.cost.work import Work
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.simulation.simulation import simulate
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests, requests_of
from tests.sim.cost.test_cost import works

DECODE = Term(name="decode", phase="decode", of="iterations", by="rows", at=[1, 2, 8], seconds=[0.010, 0.012, 0.030])
KV = Term(name="kv", phase="decode", of="kv", by="rows", at=[1, 8], seconds=[1e-6, 2e-6])
PREFILL = Term(name="prefill", phase="prefill", of="iterations", by="slots", at=[1, 100], seconds=[0.011, 0.110])
TERMS = [
    DECODE,
    KV,
    PREFILL,
    Term(name="pairs", phase="prefill", of="pairs", seconds=[1e-8]),
    Term(name="mixed", phase="mixed", of="iterations", by="slots", at=[2, 50, 90], seconds=[0.020, 0.060, 0.130]),
    Term(name="mixed kv", phase="mixed", of="kv", seconds=[2e-6]),
    Term(name="launches", phase="any", of="launches", seconds=[1e-5]),
    Term(name="copies", phase="any", of="kv_copied", seconds=[1e-7]),
    Term(name="between_iterations", phase="any", of="iterations", seconds=[1e-4]),
]
FIT = Fit(
    phase="decode", iterations=9, r2=0.99, held_out=3, held_out_error=0.01, held_out_spread=0.03, rows=[1, 8],
    slots=[1, 8], kv=[1, 500],
)  # fmt: skip
LAYOUTS = ("rectangle", "static", "selective_fused")
PROFILE = Profile(
    name="mine",
    source="measured here",
    peak_flops=1e11,
    memory_bandwidth=1e10,
    memory_bytes=80e9,
    host_bandwidth=1e10,
    gpu_bandwidth=1e10,
    model=LLAMA3_8B.name,
    device="cpu",
    machine="a computer",
    dtype="float32",
    attention="sdpa",
    threads=2,
    versions={"torch": "2.13.0"},
    date="2026-11-22 18:00:00",
    measurements="mine.parquet",
    layouts=[LayoutCost(layout=layout, terms=TERMS, fits=[FIT], overlap_slowdown=1.5) for layout in LAYOUTS],
)
COST = PROFILE.cost_model(LLAMA3_8B, Baton().traits)


def test_a_table_gives_what_was_measured_and_what_lies_between() -> None:
    assert [DECODE.coefficient(rows) for rows in (1, 2, 8)] == [0.010, 0.012, 0.030]
    assert DECODE.coefficient(5) == pytest.approx(0.021)
    assert PREFILL.coefficient(0.5) == 0.011


def test_beyond_its_end_a_table_goes_on_and_never_falls() -> None:
    assert DECODE.coefficient(10) == pytest.approx(0.030 + 2 * (0.030 - 0.012) / 6)
    assert replace(DECODE, seconds=[0.010, 0.040, 0.030]).coefficient(100) == 0.030


@given(st.lists(works, min_size=1, max_size=20))
def test_one_iteration_costs_what_it_costs_among_many(some: list[Work]) -> None:
    columns = Work(*(np.array(column) for column in zip(*some, strict=True)))  # type: ignore[arg-type]
    np.testing.assert_allclose(COST.seconds_each(columns), [COST.seconds(work) for work in some], rtol=1e-12)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 2000), st.integers(1, 500))
def test_a_decode_step_grows_by_the_kv_that_its_rows_add(rows: int, held: int, length: int, steps: int) -> None:
    first = Work(rows=rows, held_rows=held, kv_read=rows * length, kv_held=held * length, attention_launches=1)
    later = first._replace(kv_read=rows * (length + steps), kv_held=held * (length + steps))
    seconds, growth, alike = COST.decode_steps(rows + held, (rows + held) * length, rows + held)
    assert COST.seconds(later) == pytest.approx(seconds + steps * growth, rel=1e-12)
    assert (seconds, alike) == (COST.seconds(first), math.inf)


def test_dummies_cost_what_rows_cost_and_bring_no_kv() -> None:
    """Five rows filled up to eight: priced as eight, over the slots that are read; only the five make it grow."""
    filled = Work(rows=5, kv_read=200, dummy_rows=3, kv_dummy=3, attention_launches=1)
    assert COST.seconds(filled) == pytest.approx(0.030 + 203 * 2e-6 + 1e-5 + 1e-4)
    assert COST.decode_steps(8, 203, 5) == pytest.approx((COST.seconds(filled), 5 * 2e-6, math.inf))


def test_an_iteration_is_the_sum_of_its_terms() -> None:
    decode = Work(rows=2, kv_read=900, kv_padding=100, kv_copied=50, attention_launches=1)
    kv = 1000 * (1e-6 + 1e-6 / 7)
    assert COST.seconds(decode) == pytest.approx(0.012 + kv + 50e-7 + 1e-5 + 1e-4)
    prefill = Work(prefill_rows=1, prefill_tokens=90, prefill_padding=10, prefill_pairs=4000, attention_launches=1)
    assert COST.seconds(prefill) == pytest.approx(0.110 + 4000e-8 + 1e-5 + 1e-4)
    assert COST.seconds(prefill._replace(rows=1, kv_read=70)) == pytest.approx(0.130 + 11 * 7e-2 / 40 + 140e-6 + 11e-5)


def test_it_knows_which_iterations_are_larger_than_any_measured() -> None:
    some = [Work(rows=8, kv_read=500), Work(rows=9, kv_read=9), Work(rows=2, kv_read=501), Work(prefill_rows=99)]
    columns = Work(*(np.array(column) for column in zip(*some, strict=True)))  # type: ignore[arg-type]
    assert COST.beyond(columns).tolist() == [False, True, True, False], "FIT is of decode steps only"


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=lambda execution: execution.name)
@pytest.mark.parametrize("policy", [Baton(max_batch=6), RunToCompletion(max_batch=6), Orca(max_batch=6)])
def test_stretching_iterations_changes_nothing(policy: Any, execution: Execution) -> None:
    requests = random_requests(40, seed=1, rate=5.0)
    runs = [
        simulate(requests, policy, PROFILE, LLAMA3_8B, kv_tokens=4000, stretch=stretch, execution=execution)
        for stretch in (True, False)
    ]
    stretched, stepped = (run.columns["e2e_s"] for run in runs)
    np.testing.assert_allclose(stretched, stepped, rtol=1e-9)


def test_overlapped_lanes_slow_each_other_as_measured() -> None:
    requests = requests_of([(0.0, 10, 1000), (0.5, 100, 1)], max_new=1000)
    _, records = logged_run(requests, Baton(prefill="overlapped", max_batch=2), COST, 10_000)
    beside = records[records["prefill_tokens"] == 100]
    alone = COST.seconds(Work(lane=1, prefill_rows=1, prefill_tokens=100, prefill_pairs=5050, attention_launches=1))
    assert beside["duration_s"].tolist() == pytest.approx([1.5 * alone])


def test_a_file_brings_the_profile_back() -> None:
    settings = settings_of(PROFILE)
    assert settings_of(build(yaml.safe_load(yaml.safe_dump(settings)), "hardware")) == settings
    assert kv_capacity(PROFILE, LLAMA3_8B) == kv_capacity(replace(H100, memory_bytes=80e9), LLAMA3_8B)


@pytest.mark.parametrize(
    ("model", "policy", "message"),
    [
        (replace(LLAMA3_8B, name="other"), Baton(), "hardware=mine was measured with model=llama3_8b and cannot"),
        (
            LLAMA3_8B,
            Orca(layout="rectangular"),
            "holds no costs for layout shared_rectangle, only for rectangle, static",
        ),
    ],
)
def test_what_was_not_measured_is_refused(model: Any, policy: Policy, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PROFILE.cost_model(model, policy.traits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "decoding"}, r"\.phase is .decoding."),
        ({"of": "tokens"}, r"\.of is .tokens."),
        ({"by": "columns"}, r"\.by is .columns."),
        ({"at": [1, 1, 2]}, "must ascend"),
        ({"at": [1, 2]}, "one of seconds for each place"),
        ({"by": None}, "one of seconds for each place"),
        ({"seconds": [0.1, float("nan"), 0.2]}, "lists of finite numbers"),
        ({"of": "kv", "by": "kv"}, "must stay linear in kv"),
    ],
)
def test_a_table_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(DECODE, **changes)


@pytest.mark.parametrize(
    "changes", [{"versions": None}, {"versions": 3}, {"versions": {"torch": 2}}, {"threads": "2"}, {"machine": None}]
)
def test_facts_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"hardware\.{next(iter(changes))}="):
        replace(PROFILE, **changes)


def test_a_profile_that_is_none_is_refused() -> None:
    for changes in ({"peak_flops": 0}, {"usable_memory": 2}, {"layouts": [{"layout": "rectangle"}]}):
        with pytest.raises(InputError, match=next(iter(changes))):
            replace(PROFILE, **changes)
    with pytest.raises(InputError, match="overlap_slowdown"):
        LayoutCost(layout="static", terms=TERMS, overlap_slowdown=0.5)


def test_a_profile_brings_its_own_engine() -> None:
    served = PROFILE.engine_on(EngineConstants(name="vllm", source="", frontend_latency_s=1.0))
    assert (served.name, served.frontend_latency_s) == ("as profiled", 0.0)
    assert H100.engine_on(served) is served
