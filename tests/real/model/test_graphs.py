"""Decode steps recorded once per shape and replayed: exact, on memory that stays, blind to all but its contents."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.layouts.prefill import prefill_group
from real.layouts.rectangle import Rectangular
from real.layouts.slot_table import SlotTable
from real.model.graphs import Decoded, Graphs, Inputs, Recording
from real.model.host_memory import Numbers
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.engine.execution import EAGER, GRAPHS
from sim.engine.iteration_log import IterationLog
from sim.engine.replay import Asked
from tests.real.models import TINY, dimensions, network
from tests.real.runs import RealRun, differences, memory_is_sound, real_run
from tests.real.test_exact import a_dozen
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

RECORDED = {name: policy for name, policy in ONE_DEVICE.items() if not policy.traits.concatenates}
LAYOUTS = ("run_to_completion", "orca", "orca_per_request", "orca_rectangular", "baton")


def works(run: RealRun) -> list[Any]:
    return [event.work for event in run.tape if not isinstance(event, Asked)]


# exact, whatever is recorded


@pytest.mark.parametrize("policy", RECORDED.values(), ids=RECORDED)
def test_recorded_steps_answer_as_if_every_request_were_alone(policy: Policy) -> None:
    run = real_run(a_dozen(seed=3), policy, watch=memory_is_sound, execution=GRAPHS)
    assert differences(run, "tiny_llama") == []
    assert run.engine.executor.graphs.count > 0
    steps = [work for work in works(run) if work.rows and not work.prefill_rows]
    assert run.engine.executor.graphs.count < len(steps)  # most steps were replays


@pytest.mark.parametrize("model", [name for name in TINY if name != "tiny_llama"])
@pytest.mark.parametrize("name", ["baton", "orca"])
def test_of_every_architecture(name: str, model: str) -> None:
    run = real_run(a_dozen(seed=4), ONE_DEVICE[name], model, watch=memory_is_sound, execution=GRAPHS)
    assert differences(run, model) == []
    assert sum(work.dummy_rows for work in works(run)) > 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_policy_cannot_tell_the_difference(name: str) -> None:
    eager, recorded = (real_run(a_dozen(seed=5), ONE_DEVICE[name], execution=each) for each in (EAGER, GRAPHS))
    asked = [[event for event in run.tape if isinstance(event, Asked)] for run in (eager, recorded)]
    assert asked[0] == asked[1]
    assert eager.engine.generated == recorded.engine.generated


def test_what_has_no_recorded_form_stays_eager() -> None:
    run = real_run(a_dozen(seed=3), ONE_DEVICE["baton_concatenate"], execution=GRAPHS)
    assert run.engine.executor.graphs.count == 0
    assert differences(run, "tiny_llama") == []


# negative controls


def test_with_yesterdays_positions_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    call: Callable[..., Decoded] = Recording.__call__

    def stale(self: Recording, inputs: Numbers) -> Decoded:
        ids, lengths = inputs
        return call(self, inputs if self.seconds is None else np.stack([ids, np.maximum(0, lengths - 1)]))

    monkeypatch.setattr(Recording, "__call__", stale)
    assert differences(real_run(a_dozen(seed=3), ONE_DEVICE["baton"], execution=GRAPHS), "tiny_llama")


def test_a_step_that_looks_at_a_value_cannot_be_recorded() -> None:
    def looks(inputs: Inputs) -> Decoded:
        return Decoded(None, inputs.ids[: int(inputs.lengths.max())], 1)

    with pytest.raises(RuntimeError, match="get value out of a tracing tensor"):
        Graphs(torch.device("cpu")).decode(1, 1, looks, np.array([[1], [1]]))


def test_a_step_that_remembers_a_value_replays_it() -> None:
    """What a recording would do with a number that Python worked out: why the tests above are worth something."""
    seen = [1]
    graphs = Graphs(torch.device("cpu"))

    def remembers(inputs: Inputs) -> Decoded:
        return Decoded(None, inputs.ids + seen[0], 1)

    assert graphs.decode(1, 1, remembers, np.array([[5], [0]])).found.tolist() == [6]
    seen[0] = 100
    assert graphs.decode(1, 1, remembers, np.array([[7], [0]])).found.tolist() == [8]


# what is recorded


def operators(name: str, model: str) -> set[str]:
    """Return the operators of the steps that a run recorded."""
    found: set[str] = set()

    def look(engine: Engine) -> None:
        for recording in engine.executor.graphs._recordings.values():
            replay: Any = recording._replay
            found.update(str(node.target) for node in replay.graph.nodes if node.op == "call_function")

    real_run(a_dozen(seed=3), ONE_DEVICE[name], model, execution=GRAPHS, watch=look)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_comes_from_the_host_and_nothing_goes_there(name: str) -> None:
    found = operators(name, "tiny_llama")
    assert any("attention" in operator for operator in found)
    forbidden = ("local_scalar", "lift_fresh", "nonzero", "masked_select", "unique", "pin_memory", "copy_.default")
    assert [operator for operator in found if any(word in operator for word in forbidden)] == [
        operator for operator in found if operator == "aten.index_copy_.default"
    ]


def test_each_shape_is_recorded_once_for_as_long_as_the_rectangle_stays() -> None:
    requests = requests_of([(float(arrival), 4, 8 + arrival % 5) for arrival in range(0, 60, 4)], max_new=12)
    shapes: list[set[Any]] = []
    addresses: set[tuple[int, ...]] = set()

    def look(engine: Engine) -> None:
        executor = engine.executor
        assert isinstance(executor, Rectangular)
        shapes.append(set(executor.graphs._recordings))
        addresses.add((executor._buffer.data_ptr(), *executor._buffer.stride()))

    run = real_run(requests, Baton(max_batch=6), execution=GRAPHS, watch=look)
    buffers = {address for address in addresses if address[0]}
    assert len(buffers) == 1  # rows joined, left and were moved, in one place
    assert sum(work.kv_copied for work in works(run)) > 0
    assert run.engine.executor.graphs.count == len(shapes[-1]) == len(set.union(*shapes))
    assert shapes[-1] <= {(1, 16), (2, 16), (4, 16), (6, 16)}


def test_a_new_rectangle_is_recorded_anew() -> None:
    requests = requests_of([(0.0, 4, 6), (9.0, 30, 12)])
    counts: list[int] = []
    real_run(
        requests,
        Baton(max_batch=4),
        kv_tokens=400,
        execution=GRAPHS,
        watch=lambda engine: counts.append(len(engine.executor.graphs._recordings)),
    )
    assert max(counts) >= 1
    assert 0 in counts[counts.index(1) :]  # the longer newcomer took the place of all that was recorded


def test_no_more_recordings_are_kept_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real.model.graphs.MOST_RECORDINGS", 2)
    graphs = Graphs(torch.device("cpu"))
    made: list[int] = []

    def step(shape: int) -> Callable[[Inputs], Decoded]:
        def compute(inputs: Inputs) -> Decoded:
            made.append(shape)
            return Decoded(None, inputs.ids + shape, 1)

        return compute

    for shape in (1, 2, 1, 3, 1, 2):
        assert graphs.decode(shape, 1, step(shape), np.array([[10], [0]])).found.tolist() == [10 + shape]
    assert made == [1, 2, 3, 2]  # 2 made room for 3, being the one used longest ago
    assert graphs.count == 4


def test_dummy_rows_touch_nobodys_keys_and_values() -> None:
    requests = requests_of([(0.0, 5, 9), (0.0, 7, 9), (0.0, 3, 9)])
    kept: list[list[Tensor]] = []
    for execution in (EAGER, GRAPHS):
        buffers: list[Tensor] = []

        def look(engine: Engine, buffers: list[Tensor] = buffers) -> None:
            executor = engine.executor
            assert isinstance(executor, Rectangular)
            if executor._place:
                rows = [executor._row(request).clone() for request in sorted(executor._place)]
                buffers.append(torch.cat([row.flatten() for row in rows]))

        run = real_run(requests, Baton(max_batch=8), execution=execution, watch=look)
        kept.append(buffers)
    assert max(work.dummy_rows for work in works(run)) == 1
    assert len(kept[0]) == len(kept[1]) > 5
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*kept, strict=True))


def test_numbers_that_are_none_in_free_rows_do_not_reach_the_others() -> None:
    def poison(engine: Engine) -> None:
        executor = engine.executor
        assert isinstance(executor, Rectangular)
        executor._buffer[:, :, len(executor._place) :] = torch.nan

    requests = requests_of([(0.0, 5, 9), (0.0, 7, 9), (0.0, 3, 9)])
    run = real_run(requests, Baton(max_batch=8), execution=GRAPHS, watch=poison)
    assert differences(run, "tiny_llama") == []


# what is counted


def test_dummies_and_the_rest_of_a_recorded_window_are_counted() -> None:
    requests = requests_of([(0.0, 100, 30)] * 5, max_new=60)
    for policy, expected in (
        (Baton(max_batch=16), {"dummy_rows": 3, "kv_dummy": 3 * 128, "kv_padding": 5 * (128 - 101)}),
        (Orca(max_batch=16), {"dummy_rows": 3, "kv_dummy": 3, "kv_padding": 0}),
        (Orca(max_batch=16, attention="per_request"), {"dummy_rows": 3, "kv_dummy": 3, "attention_launches": 8}),
        (RunToCompletion(max_batch=16), {"dummy_rows": 0, "kv_dummy": 0, "kv_padding": 5 * (128 - 101)}),
    ):
        run = real_run(requests, policy, execution=GRAPHS)
        first = next(work for work in works(run) if work.rows and not work.prefill_rows)
        assert {name: getattr(first, name) for name in expected} == expected
        assert first.kv_read == 5 * 101


def test_the_clock_stands_still_while_a_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Counter[str]()

    def slowly(self: Recording) -> Any:
        waits["recorded"] += 1
        time.sleep(0.5)
        return traced(self)

    traced = Recording._traced
    monkeypatch.setattr(Recording, "_traced", slowly)
    requests = requests_of([(0.0, 4, 6), (0.0, 4, 6)])
    durations: list[float] = []
    log = IterationLog(lambda part: durations.extend(part["duration_s"].tolist()))
    prompts = random_prompts(requests, dimensions("tiny_llama").vocabulary, seed=1)
    engine = Engine(requests, Baton(max_batch=2), network("tiny_llama", execution=GRAPHS), prompts, log, 400)
    engine.run()
    assert waits["recorded"] == engine.executor.graphs.count == 1
    assert engine.executor.graphs.seconds > 0.5
    assert sum(durations) < 0.5


def test_a_prefill_beside_gets_no_time_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for before a step is recorded, while the clock runs."""
    traced, prefill = Recording._traced, prefill_group

    def slowly_recorded(self: Recording) -> Any:
        time.sleep(0.6)
        return traced(self)

    def slowly_prefilled(executor: Any, prompts: Any, store: Any, lane: int) -> Any:
        time.sleep(0.3 if lane else 0.0)
        return prefill(executor, prompts, store, lane)

    monkeypatch.setattr(Recording, "_traced", slowly_recorded)
    monkeypatch.setattr("real.layouts.rectangle.prefill_group", slowly_prefilled)
    requests = requests_of([(0.0, 4, 9), (0.05, 4, 6)])
    slices: list[Any] = []
    log = IterationLog(lambda part: slices.append(part.copy()))
    prompts = random_prompts(requests, dimensions("tiny_llama").vocabulary, seed=1)
    policy = Baton(max_batch=2, prefill="overlapped")
    Engine(requests, policy, network("tiny_llama", execution=GRAPHS), prompts, log, 400).run()
    records = np.concatenate(slices)
    beside = records[records["lane"] == 1]
    assert len(beside) == 2
    assert beside["duration_s"].min() >= 0.3


# the table of slots


def test_a_table_that_moved_is_recorded_anew() -> None:
    requests = requests_of([(0.0, 5, 12), (6.0, 120, 20)], max_new=40)
    run = real_run(requests, Orca(max_batch=2), execution=GRAPHS)
    assert differences(run, "tiny_llama") == []
    shapes = [work.rows + work.dummy_rows for work in works(run) if work.rows and not work.prefill_rows]
    assert run.engine.executor.graphs.count > len(set(shapes))


def test_a_table_holds_those_it_is_told_to_and_nobody_behind_them() -> None:
    table = SlotTable(4, nobodys=99, device=torch.device("cpu"))
    slots = {7: np.arange(0, 16), 8: np.arange(16, 48), 9: np.arange(48, 64)}
    for request in slots:
        table.hold(request, slots[request])
    where = table.slots.data_ptr()
    assert table.requests == [7, 8, 9]
    table.leave(7)
    table.leave(7)  # it is not there any more
    slots[9] = np.concatenate([slots[9], np.arange(70, 86)])  # a block more
    table.hold(9, slots[9])
    assert table.requests == [9, 8]  # the last row took the place of the first
    assert table.slots[0, :32].tolist() == slots[9].tolist()
    assert table.slots[1, :32].tolist() == slots[8].tolist()
    assert table.slots[2:, 0].tolist() == [99, 99]
    assert not table.widen(128)
    assert table.slots.data_ptr() == where
    assert table.widen(200)  # longer than its columns: it had to move
    table.hold(5, np.arange(200))
    assert table.slots.shape == (4, 256)
    assert table.slots[2, :200].tolist() == list(range(200))
    assert table.slots[0, :32].tolist() == slots[9].tolist()
    assert table.slots[3, 0] == 99
