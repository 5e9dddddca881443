"""Recorded decode steps: whole traces worked out by hand, how they differ from eager ones, sums that hold."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.baton import Baton
from policies.checks import InputError
from policies.chunked_prefill import ChunkedPrefill
from policies.job import Job
from policies.orca import Orca
from policies.plan import CARRY_ON_UNTIL_ARRIVAL, Plan
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from sim.cost.datasheet import Roofline
from sim.cost.engine_constants import IDEAL
from sim.cost.work import Work
from sim.engine.execution import EAGER, GRAPHS, ROWS_STEP, WINDOW_STEP
from sim.engine.iteration_log import DTYPE, Slice
from sim.engine.replay import Asked, Committed, Tape, replay
from sim.simulation.execution import execution_of
from tests.runs import H100, LLAMA3_8B, random_requests, requests_of, run
from tests.sim import small_run
from tests.sim.cost.test_profile import PROFILE
from tests.sim.metrics.test_metrics import assert_alike
from tests.sim.variants import VARIANTS

THREE = requests_of([(0.0, 2, 4), (0.0, 3, 4), (0.0, 3, 3)])
"""Prefilled together in one iteration; two decode steps of all, and one of the first two alone."""

DECODE = ("rows", "held_rows", "dummy_rows", "kv_read", "kv_held", "kv_padding", "kv_dummy", "attention_launches")
RECORDED = ("dummy_rows", "kv_dummy", "kv_held", "kv_padding", "attention_launches")
"""What recording may change."""

Steps = list[tuple[int, ...]]

LONG = random_requests(40, seed=1, rate=0.6, longest=600)
SIZES = {1, 2, 4, *range(ROWS_STEP, 200, ROWS_STEP)}


def steps_of(log: Slice) -> Steps:
    """The columns of `DECODE` of every iteration that decodes."""
    return [tuple(int(record[name]) for name in DECODE) for record in log if record["rows"]]


@pytest.fixture
def windows_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are recorded are multiples of 4 tokens: traces stay short."""
    monkeypatch.setattr("sim.engine.execution.WINDOW_STEP", 4)


# Of `THREE`, the columns of `DECODE`. Windows: 4, 5 and 6 columns; recorded 4, and then not 8 but 7, for a row has room
# for 3 + 4 tokens. Dummies read the window where there is one, else one slot each.
RECTANGLE: Steps = [(3, 0, 1, 11, 0, 1, 4, 1), (3, 0, 1, 14, 0, 7, 7, 1), (2, 0, 0, 11, 0, 3, 0, 1)]
RAGGED: Steps = [(3, 0, 1, 11, 0, 0, 1, 1), (3, 0, 1, 14, 0, 0, 1, 1), (2, 0, 0, 11, 0, 0, 0, 1)]
PER_REQUEST: Steps = [(3, 0, 1, 11, 0, 0, 1, 4), (3, 0, 1, 14, 0, 0, 1, 4), (2, 0, 0, 11, 0, 0, 0, 2)]
STATIC: Steps = [(3, 0, 0, 11, 0, 1, 0, 1), (3, 0, 0, 14, 0, 7, 0, 1), (2, 1, 0, 11, 7, 3, 0, 1)]
FULL: Steps = [(3, 0, 0, 11, 0, 0, 0, 1), (3, 0, 0, 14, 0, 0, 0, 1), (2, 0, 0, 11, 0, 0, 0, 1)]
EAGER_RECTANGLE: Steps = [(3, 0, 0, 11, 0, 1, 0, 1), (3, 0, 0, 14, 0, 1, 0, 1), (2, 0, 0, 11, 0, 1, 0, 1)]

BY_HAND: dict[str, tuple[Policy, Steps]] = {
    "rectangle": (Baton(max_batch=8), RECTANGLE),
    "shared rectangle": (Orca(max_batch=8, layout="rectangular"), RECTANGLE),
    "ragged rectangle": (Baton(max_batch=8, attention="ragged"), RAGGED),
    "static": (RunToCompletion(max_batch=8), STATIC),
    "selective": (Orca(max_batch=8), RAGGED),
    "selective, full": (Orca(max_batch=3), FULL),
    "per request": (Orca(max_batch=8, attention="per_request"), PER_REQUEST),
    "paged": (PrefillFirst(max_batch=8), RAGGED),
    "chunked": (ChunkedPrefill(max_batch=8), RAGGED),
    "concatenated": (Baton(max_batch=8, embedding="concatenate"), EAGER_RECTANGLE),
}


@pytest.mark.usefixtures("windows_of_four")
@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("name", BY_HAND)
def test_three_requests_by_hand(name: str, stretch: bool) -> None:
    policy, expected = BY_HAND[name]
    log = run(THREE, policy, execution=GRAPHS, stretch=stretch).log
    assert steps_of(log) == expected
    assert log["dummy_rows"][0] == log["kv_dummy"][0] == 0  # the prefill


@pytest.mark.usefixtures("windows_of_four")
def test_a_rectangle_has_no_more_dummies_than_free_rows() -> None:
    # 28 tokens are 4 rows of 7, of which a new rectangle leaves one to a newcomer: 3 rows, and no dummy.
    log = run(THREE, Baton(max_batch=8), kv_tokens=28, execution=GRAPHS).log
    assert steps_of(log)[0] == (3, 0, 0, 11, 0, 1, 0, 1)


@pytest.mark.usefixtures("windows_of_four")
@pytest.mark.parametrize(
    ("policy", "prefill", "mixed"),
    [
        (Baton(max_batch=8), "alone", None),
        (Orca(max_batch=8), "beside", (3, 0, 0, 14, 0, 0, 0, 1)),
        # The window is that of the rows, 5, and not 7 or 8: the step is eager.
        (Orca(max_batch=8, layout="rectangular"), "beside", (3, 0, 0, 14, 0, 1, 0, 1)),
    ],
)
def test_an_iteration_that_also_prefills_is_eager(policy: Policy, prefill: str, mixed: tuple[int, ...] | None) -> None:
    requests = requests_of([(0.0, 2, 4), (0.0, 3, 4), (0.0, 3, 3), (1.5, 2, 3)])
    log = run(requests, policy, execution=GRAPHS).log
    newcomer = log[2]
    assert newcomer["prefill_rows"] == 1 and newcomer["dummy_rows"] == newcomer["kv_dummy"] == 0
    assert steps_of(log[2:3]) == ([] if prefill == "alone" else [mixed])
    # The next step embeds BATON's newcomer, and is recorded all the same: 4 rows, as recorded.
    following = log[3]
    assert following["rows"] == (4 if prefill == "alone" else 3)
    assert (following["rows"] + following["dummy_rows"]) == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_recording_changes_neither_what_is_decided_nor_what_serves_somebody(name: str) -> None:
    policy = VARIANTS[name]
    eager, recorded = (run(LONG, policy, kv_tokens=3000, execution=each, stretch=False).log for each in (EAGER, GRAPHS))
    assert len(eager) == len(recorded)
    for column in DTYPE.names or ():
        if column not in (*RECORDED, "fixed_window"):
            np.testing.assert_array_equal(eager[column], recorded[column], err_msg=column)
    for column in RECORDED:
        assert (recorded[column] >= eager[column]).all(), column
    replayed = (recorded["rows"] > 0) & (recorded["prefill_rows"] == 0)
    np.testing.assert_array_equal(eager[~replayed], recorded[~replayed])
    if policy.traits.concatenates:
        np.testing.assert_array_equal(eager, recorded)
    else:
        assert replayed.any()
        assert_recorded_shapes(recorded[replayed], policy)


def assert_recorded_shapes(steps: Slice, policy: Policy) -> None:
    """Rows and windows are among those that are recorded, or all that there is room for."""
    rows = steps["rows"] + steps["held_rows"] + steps["dummy_rows"]
    filled = rows[(steps["dummy_rows"] > 0) | policy.traits.layout.startswith("selective")]
    assert set(filled.tolist()) <= {*SIZES, policy.max_batch}
    slots = steps["kv_read"] + steps["kv_padding"]
    if policy.traits.layout in ("rectangle", "shared_rectangle", "static"):
        window = slots // steps["rows"]
        np.testing.assert_array_equal(window * steps["rows"], slots)
        np.testing.assert_array_equal(window * steps["dummy_rows"], steps["kv_dummy"])
        np.testing.assert_array_equal(window * steps["held_rows"], steps["kv_held"])
        assert (window % WINDOW_STEP == 0).any()
    else:
        np.testing.assert_array_equal(steps["dummy_rows"], steps["kv_dummy"])
        assert not steps["kv_padding"].any()


@pytest.mark.parametrize("kv_tokens", [2500, 40_000])
@pytest.mark.parametrize("name", VARIANTS)
def test_steady_promises_are_kept(name: str, kv_tokens: int) -> None:
    """Running promised iterations in one event changes nothing, though windows grow in steps of their own."""
    one, other = (
        run(LONG, VARIANTS[name], H100, kv_tokens, stretch=stretch, execution=GRAPHS) for stretch in (True, False)
    )
    logs = [each.log[np.argsort(each.log["lane"], kind="stable")] for each in (one, other)]
    assert len(logs[0]) == len(logs[1])
    for column in DTYPE.names or ():
        if column.endswith("_s"):
            np.testing.assert_allclose(logs[0][column], logs[1][column], rtol=1e-9, atol=1e-9)
        elif column not in ("waiting", "kv_tokens", "fixed_window"):  # as of the start of a stretch
            np.testing.assert_array_equal(logs[0][column], logs[1][column], err_msg=column)
    np.testing.assert_allclose(one.request_log.finish_s, other.request_log.finish_s, rtol=1e-9)


@pytest.fixture(params=small_run.POLICIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[small_run.Run, small_run.Run]]:
    """A run of recorded steps, stretched and not."""
    policy, requests = small_run.POLICIES[request.param], small_run.make_requests(longest=300, count=40)
    one, other = (small_run.run(policy, requests, stretch=stretch, execution=GRAPHS) for stretch in (True, False))
    yield one, other


def test_metrics_do_not_depend_on_stretching(pair: tuple[small_run.Run, small_run.Run]) -> None:
    found, expected = (each.summary() for each in pair)
    assert len(pair[0].log) < len(pair[1].log)
    del expected["kv_peak_tokens"]  # memory is logged as a record begins
    assert_alike(found, expected)


def test_what_is_computed_is_what_serves_and_what_is_idle(pair: tuple[small_run.Run, small_run.Run]) -> None:
    """A prompt's tokens and all but the first of an answer serve; all else has a cause."""
    example, summary = pair[0], pair[0].summary()
    serving = example.requests.prompt_tokens.sum() + (example.requests.output_tokens - 1).sum()
    every = pair[1].log
    counted = ("rows", "held_rows", "dummy_rows", "prefill_tokens", "prefill_padding", "insertion_padding")
    computed = sum(int(every[column].sum()) for column in counted)
    idle = summary["idle_token_fraction"]
    assert idle is not None and idle > 0
    assert computed * (1 - idle) == pytest.approx(serving, rel=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_recorded_iteration_beats_the_gpu(name: str) -> None:
    """Its duration is at least its FLOPs at the peak and its bytes at the bandwidth, dummies and padding counted."""
    log = run(LONG, VARIANTS[name], H100, 3000, execution=GRAPHS, stretch=False).log
    model = LLAMA3_8B
    slots = log["rows"] + log["dummy_rows"] + log["held_rows"] + log["prefill_tokens"]
    slots += log["prefill_padding"] + log["insertion_padding"]
    sampled = log["rows"] + log["dummy_rows"] + log["held_rows"] + log["prefill_rows"]
    kv = log["kv_read"] + log["kv_held"] + log["kv_padding"] + log["kv_dummy"]
    pairs = kv + log["prefill_pairs"] + log["prefill_padding_pairs"] + log["insertion_padding_pairs"]
    flops = 2 * (slots * model.layers * model.layer_parameters + sampled * model.head_parameters)
    flops = flops + pairs * model.attention_flops_per_pair
    assert (flops / H100.peak_flops <= log["duration_s"]).all()
    moved = (slots > 0) * model.weight_bytes / 2 + (kv + 2 * log["kv_copied"]) * model.kv_bytes_per_token
    assert (moved / H100.memory_bandwidth <= log["duration_s"]).all()


@pytest.mark.parametrize(
    ("policy", "launches"), [(Orca(max_batch=16), 1), (Orca(max_batch=16, attention="per_request"), 5)]
)
def test_bucket_dummies_in_closed_form(policy: Policy, launches: int) -> None:
    """Five equal requests: 8 rows are computed at each of 99 steps, 3 of them for nobody, each over one KV slot."""
    requests = requests_of([(0.0, 10, 100)] * 5)
    example = small_run.run(policy, requests, execution=GRAPHS)
    summary = example.summary()
    assert summary["idle_token_fraction"] == summary["idle_token_fraction_bucket_dummies"] == 3 * 99 / (50 + 8 * 99)
    cost = small_run.COST
    kv = [5 * (11 + step) for step in range(99)]
    without = [Work(rows=5, kv_read=each, attention_launches=launches) for each in kv]
    filled = {"dummy_rows": 3, "kv_dummy": 3, "attention_launches": 8 if launches > 1 else 1}
    recorded = [work._replace(**filled) for work in without]
    lost = sum(map(cost.seconds, recorded)) - sum(map(cost.seconds, without))
    assert lost > 0
    busy = summary["busy_s"]
    assert isinstance(busy, float)
    assert summary["idle_time_fraction_bucket_dummies"] == pytest.approx(lost / busy, rel=1e-9)
    assert summary["idle_time_fraction"] == summary["idle_time_fraction_bucket_dummies"]


def test_dummies_are_priced_as_rows() -> None:
    cost = Roofline(H100, LLAMA3_8B)
    rows, filled = Work(rows=8, kv_read=803), Work(rows=5, kv_read=800, dummy_rows=3, kv_dummy=3)
    assert cost.seconds(rows) == cost.seconds(filled)
    assert cost.demand(rows) == cost.demand(filled)
    assert cost.moved_bytes(rows) == cost.moved_bytes(filled)
    only_the_rows = Work(rows=5, kv_read=800)
    assert cost.useful_flops(filled) == cost.useful_flops(only_the_rows) < cost.useful_flops(rows)


def test_a_taped_run_of_recorded_steps_is_replayed_as_one() -> None:
    """Two requests of 3 + 3 tokens in a rectangle of 6 columns: a prefill, then steps over a window of 6."""
    jobs = (Job(0, 0.0, 3, 3), Job(1, 0.0, 3, 3), Job(2, 0.0, 3, 3))
    policy = Baton(max_batch=8)
    prefill = Work(prefill_rows=3, prefill_tokens=9, prefill_pairs=18, attention_launches=1)
    counts: dict[str, Any] = {"attention_launches": 1, "dummy_rows": 1, "kv_dummy": 6}
    first = Work(rows=3, kv_read=12, kv_padding=6, inserted_rows=3, **counts)
    second = Work(rows=3, kv_read=15, kv_padding=3, **counts)
    tape: Tape = [
        Asked(0, 0.0, jobs, Plan(prefill=list(jobs))),
        Committed(0, 1.0, prefill, ()),
        Asked(0, 1.0, (), CARRY_ON_UNTIL_ARRIVAL),
        Committed(0, 2.0, first, ()),
        Asked(0, 2.0, (), CARRY_ON_UNTIL_ARRIVAL),
        Committed(0, 3.0, second, (0, 1, 2)),
    ]
    assert replay(tape, policy, 1000, execution=GRAPHS) == []
    (difference,) = replay(tape, policy, 1000)
    assert (difference.event, difference.what) == (3, "work")


def test_a_profile_brings_the_execution_it_was_measured_in() -> None:
    eager, recorded = PROFILE, replace(PROFILE, execution="graphs")
    engine = eager.engine_on(IDEAL)
    assert execution_of(None, eager, engine) == execution_of("eager", eager, engine) == EAGER
    assert execution_of(None, recorded, engine) == execution_of(GRAPHS, recorded, engine) == GRAPHS
    with pytest.raises(InputError, match=r"execution=eager: hardware=mine was measured with execution=graphs: leave"):
        execution_of("eager", recorded, engine)
    assert execution_of(None, H100, IDEAL) == EAGER
    assert execution_of("graphs", H100, IDEAL) == GRAPHS
