"""Runs cell by cell: whole traces worked out by hand, and cells that add up to the work that is logged."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.baton import Baton
from policies.checks import InputError
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from sim.cost.engine_constants import IDEAL
from sim.engine.execution import GRAPHS
from sim.reporting.step_pictures import batch_steps
from sim.simulation.setting import Setting
from sim.simulation.steps import Steps, steps_of
from tests.runs import LLAMA3_8B, ONE_SECOND_PER_ITERATION, logged_run, requests_of
from tests.sim.variants import VARIANTS
from workloads.requests import Requests

ONE_LANE = {name: policy for name, policy in VARIANTS.items() if policy.traits.lanes == "one"}
THREE = requests_of([(0.0, 4, 3), (0.0, 2, 2), (1.0, 3, 2)])


def setting(kv_tokens: int = 100_000) -> Setting:
    return Setting(hardware=ONE_SECOND_PER_ITERATION, engine=IDEAL, model=LLAMA3_8B, kv_tokens=kv_tokens)


def drawn(steps: Steps) -> list[str]:
    """Write a run as text, a line per row: P and D with the request's number, f finished, s stalled, . nothing."""
    letters = {"prefill": "P", "decode": "D", "finished": "f", "stalled": "s"}
    grid = [[".."] * len(steps) for _ in range(steps.rows)]
    for cell in steps.cells:
        grid[cell.row][cell.step] = f"{letters[cell.kind]}{cell.request}"
    return [" ".join(row) for row in grid]


def test_run_to_completion_computes_finished_rows_until_its_batch_ends() -> None:
    steps = steps_of(THREE, RunToCompletion(max_batch=2), setting())
    assert drawn(steps) == [
        "P0 D0 D0 P2 D2",
        "P1 D1 f1 .. ..",
    ]  # fmt: skip
    first, second = (cell for cell in steps.cells if cell.step == 0)
    assert (first.slots, first.useful, second.slots, second.useful) == (4, 4, 4, 2)
    # The first decode step reads a window of 5: request 1 holds 3 of these tokens.
    assert [(cell.own_kv, cell.kv) for cell in steps.cells if cell.step == 1] == [(5, 5), (3, 5)]
    assert [cell.useful_share for cell in steps.cells if cell.step == 2] == [1.0, 0.0]


def test_a_finished_row_is_computed_for_as_long_as_its_batch_runs() -> None:
    unequal = requests_of([(0.0, 4, 6), (0.0, 2, 2), (0.0, 3, 4)])
    assert drawn(steps_of(unequal, RunToCompletion(max_batch=3), setting())) == [
        "P0 D0 D0 D0 D0 D0",
        "P1 D1 f1 f1 f1 f1",
        "P2 D2 D2 D2 f2 f2",
    ]  # fmt: skip


def test_baton_fills_the_row_as_soon_as_it_is_free() -> None:
    steps = steps_of(THREE, Baton(max_batch=2), setting())
    assert drawn(steps) == [
        "P0 D0 s0 D0",
        "P1 D1 P2 D2",
    ]  # fmt: skip
    assert steps.start_s.tolist() == [0, 1, 2, 3]
    assert (steps.count("finished"), steps.count("stalled")) == (0, 1)


def test_orca_prefills_beside_the_decode() -> None:
    steps = steps_of(THREE, Orca(max_batch=2), setting())
    assert drawn(steps) == [
        "P0 D0 D0 ..",
        "P1 D1 P2 D2",
    ]  # fmt: skip
    assert all(cell.useful_share == 1 for cell in steps.cells)


def test_in_orcas_rectangle_everybody_computes_as_many_slots_as_the_newcomers_prompt_has() -> None:
    steps = steps_of(THREE, Orca(max_batch=2, layout="rectangular"), setting())
    mixed = [(cell.request, cell.slots, cell.useful) for cell in steps.cells if cell.step == 2]
    assert sorted(mixed) == [(0, 3, 1), (2, 3, 3)]


LENGTHS = st.tuples(st.integers(0, 20), st.integers(1, 30), st.integers(1, 12))


@pytest.mark.parametrize("name", ONE_LANE)
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(LENGTHS, min_size=2, max_size=10).map(sorted), kv_tokens=st.integers(80, 500))
def test_cells_add_up_to_the_work_of_every_iteration(
    rows: list[tuple[int, int, int]], name: str, kv_tokens: int
) -> None:
    requests = requests_of([(float(arrival), prompt, output) for arrival, prompt, output in rows], max_new=12)
    policy = ONE_LANE[name]
    assert totals(steps_of(requests, policy, setting(kv_tokens))) == logged(requests, policy, kv_tokens)


def totals(steps: Steps) -> list[dict[str, int]]:
    found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for step in range(len(steps)):
        found[step]["rows"] += 0
    for cell in steps.cells:
        count = found[cell.step]
        count["rows"] += cell.kind == "decode"
        count["held_rows"] += cell.kind == "finished"
        count["prefill_rows"] += cell.kind == "prefill"
        count["prefill_tokens"] += cell.useful * (cell.kind == "prefill")
        count["padding"] += (cell.slots - cell.useful) * (cell.kind in ("prefill", "decode"))
        count["kv_read"] += cell.own_kv
        count["kv_held"] += cell.kv * (cell.kind == "finished")
        count["kv_padding"] += (cell.kv - cell.own_kv) * (cell.kind == "decode")
    return [{name: value for name, value in found[step].items() if value} for step in sorted(found)]


def logged(requests: Requests, policy: Policy, kv_tokens: int) -> list[dict[str, int]]:
    from sim.cost.datasheet import Roofline

    cost = Roofline(ONE_SECOND_PER_ITERATION, LLAMA3_8B)
    _, log = logged_run(requests, policy, cost, kv_tokens, stretch=False)
    names = ("rows", "held_rows", "prefill_rows", "prefill_tokens", "kv_read", "kv_held", "kv_padding")
    found = []
    for record in log:
        count = {name: int(record[name]) for name in names}
        count["padding"] = int(record["prefill_padding"] + record["insertion_padding"])
        found.append({name: value for name, value in count.items() if value})
    return found


def test_two_lanes_have_no_single_order() -> None:
    with pytest.raises(InputError, match="lane of its own"):
        steps_of(THREE, Baton(prefill="overlapped"), setting())


def test_recorded_steps_are_not_drawn() -> None:
    with pytest.raises(InputError, match="execution=graphs: steps are drawn eager"):
        steps_of(THREE, Baton(), replace(setting(), execution=GRAPHS))


def test_the_picture_has_a_hatched_part_for_every_cell_that_is_partly_idle() -> None:
    from sim.reporting.step_pictures import IDLE

    runs = {name: steps_of(THREE, policy, setting()) for name, policy in ONE_LANE.items() if name != "orca"}
    figure = batch_steps(runs)
    for axes, steps in zip(figure.axes, runs.values(), strict=True):
        idle = [patch for patch in axes.patches if patch.get_hatch() == IDLE["hatch"]]
        hatched = [patch for patch in idle if patch.get_window_extent().height > 1e-6]
        partly = [cell for cell in steps.cells if cell.kind != "stalled" and cell.useful_share < 1]
        assert len(hatched) == len(partly)
