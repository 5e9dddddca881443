"""What is recorded while the device computes: all of it, in its order, and nothing that a policy could tell."""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.host_time import POLICIES, serve, without_device
from policies.baton import Baton
from policies.orca import Orca
from real.layouts import rectangle, selective_fused
from real.layouts.executor import Executor
from real.layouts.seats import Seats
from real.layouts.sequences import Sequences
from real.layouts.slot_table import SlotTable
from real.model.errors import NonFinite
from real.model.graphs import Made, Recording
from real.model.streams import Lane, Streams
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import IterationLog
from sim.engine.replay import Committed, Tape
from tests.real.models import dimensions, network
from tests.real.runs import RealRun, StepClock, differences, real_run
from tests.real.test_exact import a_dozen
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

EXECUTIONS = pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=["eager", "graphs"])
STEADY = requests_of([(0.0, 5 + row, 12) for row in range(4)])
FEW = requests_of([(0.0, 5, 9), (0.0, 7, 4), (9.0, 3, 6), (14.0, 4, 5)])


def committed(tape: Tape) -> list[Committed]:
    return [event for event in tape if isinstance(event, Committed)]


@pytest.mark.parametrize(
    ("name", "execution"),
    [(name, EAGER) for name, policy in ONE_DEVICE.items() if policy.traits.lanes == "one"]
    + [("baton", GRAPHS), ("orca", GRAPHS)],
)
def test_it_makes_no_difference_when_books_are_kept(
    name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments included: the clock is looked at as often."""

    requests = FEW if execution.captured else a_dozen(seed=6)

    def run() -> RealRun:
        return real_run(requests, ONE_DEVICE[name], execution=execution)

    later = run()
    commit: Callable[..., None] = Engine._commit

    def at_once(self: Engine, *given: Any) -> None:
        commit(self, *given)
        self._keep_books()

    monkeypatch.setattr(Engine, "_commit", at_once)
    now = run()
    assert now.tape == later.tape
    assert now.engine.generated == later.engine.generated
    assert np.array_equal(now.records, later.records)


@EXECUTIONS
@pytest.mark.parametrize("name", ["baton", "orca"])
def test_an_iteration_is_booked_while_the_next_is_computed(
    name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before_and_after: list[tuple[int, int]] = []
    wait: Callable[..., None] = Streams.wait

    def watched(self: Streams, meanwhile: Callable[[], None]) -> None:
        before = len(heard)
        wait(self, meanwhile)
        before_and_after.append((before, len(heard)))

    monkeypatch.setattr(Streams, "wait", watched)
    run = real_run(STEADY, ONE_DEVICE[name], execution=execution, watch=lambda engine: heard.append(1))
    computed = [event for event in committed(run.tape) if event.work.rows or event.work.prefill_rows]
    assert len(computed) == len(heard) == len(before_and_after) > 10
    assert before_and_after == [(max(0, step - 1), step) for step in range(len(heard))]


def stopping(at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wait for iteration `at` end in an error."""
    waits = [0]
    wait: Callable[..., None] = Streams.wait

    def stops(self: Streams, meanwhile: Callable[[], None]) -> None:
        wait(self, meanwhile if waits[0] < at else lambda: None)
        if waits[0] == at:
            raise error
        waits[0] += 1

    monkeypatch.setattr(Streams, "wait", stops)


@pytest.mark.parametrize(
    ("name", "execution"),
    [("baton", GRAPHS), ("orca", EAGER), ("run_to_completion", EAGER), ("baton_overlapped", EAGER)],
)
def test_whatever_ends_a_run_what_was_computed_before_is_on_record(
    name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = FEW if execution.captured else a_dozen(seed=6)
    whole = real_run(requests, ONE_DEVICE["baton"]).engine.generated
    stopping(9, KeyboardInterrupt(), monkeypatch)
    tape: Tape = []
    records: list[Any] = []
    log = IterationLog(lambda part: records.extend(part.copy()))
    engine = Engine(
        requests,
        ONE_DEVICE[name],
        network("tiny_llama", execution=execution),
        random_prompts(requests, dimensions("tiny_llama").vocabulary, seed=1),
        log,
        4000,
        tape=tape,
        clock=StepClock(),
    )
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    log.flush()
    assert len(records) == len(committed(tape)) >= 8
    made = sum(event.work.rows + event.work.prefill_rows for event in committed(tape))
    assert sum(map(len, engine.generated.values())) == made
    assert all(tokens == whole[request][: len(tokens)] for request, tokens in engine.generated.items())


@EXECUTIONS
@pytest.mark.parametrize("name", ["baton", "orca"])
def test_a_token_that_is_none_is_told_with_its_request(
    name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 2 of the steady batch gets no numbers at its seventh token, the first of which its prefill gave."""
    calls, landed = [0], Executor.landed

    def poisoned(self: Executor, found: Tensor, lane: int = 0) -> Any:
        numbers = landed(self, found, lane).copy()
        calls[0] += 1
        if calls[0] == 7:
            (numbers[0] if numbers.ndim == 2 else numbers)[2] = -1
        return numbers

    monkeypatch.setattr(Executor, "landed", poisoned)
    with pytest.raises(NonFinite, match=r"non-finite logits for token 7 of request 2:"):
        real_run(STEADY, ONE_DEVICE[name], execution=execution)


@EXECUTIONS
def test_answers_end_at_end_tokens_at_the_same_step(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = real_run(STEADY, Baton(max_batch=4)).engine.generated
    end = whole[1][5]
    model = network("tiny_llama", execution=execution)
    monkeypatch.setattr(model, "end_tokens", frozenset({end}))
    prompts = random_prompts(STEADY, dimensions("tiny_llama").vocabulary, seed=1)
    for policy in (Baton(max_batch=4), Orca(max_batch=4)):
        engine = Engine(STEADY, policy, model, prompts, IterationLog(), 4000, stop_at_end_token=True)
        engine.run()
        expected = {r: tokens[: tokens.index(end) + 1] if end in tokens else tokens for r, tokens in whole.items()}
        assert engine.generated == expected


# an iteration costs what changes


@pytest.mark.parametrize(("name", "module"), [("baton", rectangle), ("orca", selective_fused)])
def test_rows_are_told_anew_only_when_somebody_comes_or_goes(
    name: str, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seated: list[list[int]] = []
    held: list[int] = []
    hold = SlotTable.hold

    class Counted(Seats):
        def __init__(self, requests: Any, *rest: Any) -> None:
            super().__init__(requests, *rest)
            seated.append(self.requests)

    def counted(self: SlotTable, request: int, slots: Any) -> None:
        held.append(request)
        hold(self, request, slots)

    monkeypatch.setattr(module, "Seats", Counted)
    monkeypatch.setattr(SlotTable, "hold", counted)
    run = real_run(requests_of([(0.0, 5, 20), (0.0, 6, 20), (0.0, 7, 9)]), ONE_DEVICE[name], execution=GRAPHS)
    assert sum(event.work.rows > 0 for event in committed(run.tape)) == 19
    assert [len(requests) for requests in seated] == [3, 2]
    assert held == ([0, 1, 2] if name == "orca" else [])


@pytest.mark.parametrize("name", ["baton", "baton_ragged", "orca"])
def test_a_step_calls_as_many_functions_whatever_the_rows(name: str) -> None:
    """Policy, ledger, log and all; what is left of a visit to each row is one loop that puts tokens in their place."""
    model = network("tiny_llama", execution=GRAPHS)

    def calls(rows: int, steps: int) -> int:
        found = Counter[str]()
        sys.setprofile(lambda frame, event, argument: found.update([event]))
        try:
            serve(model, POLICIES[name](rows), rows, steps)
        finally:
            sys.setprofile(None)
        return found["call"]

    with without_device():
        few, many = (calls(rows, 40) - calls(rows, 20) for rows in (8, 64))
    assert few == many <= 20 * 80


# the parts


def test_tokens_are_in_their_place_for_whoever_looks() -> None:
    sequences = Sequences([[1, 2], [3]])
    sequences.extend({0: 10, 1: 20})
    sequences.extend({0: 11})
    assert sequences.known(0) == [1, 2, 10, 11]
    sequences.extend({1: 21})
    assert sequences.last([1, 0]) == [21, 11]
    assert sequences.generated == {0: [10, 11], 1: [20, 21]}


def test_no_circle_keeps_kv_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the list of operators that torch's tracer makes on a CPU is full of circles."""

    def captured(self: Recording) -> Callable[[], Made]:
        made = self._run()
        return lambda: made

    monkeypatch.setattr(Recording, "_traced", captured)
    gc.collect()
    gc.disable()
    try:
        prompts = random_prompts(STEADY, dimensions("tiny_llama").vocabulary, seed=1)
        for policy in (Baton(max_batch=4), Orca(max_batch=4), Baton(max_batch=4, prefill="overlapped")):
            engine = Engine(STEADY, policy, network("tiny_llama", execution=GRAPHS), prompts, IterationLog(), 400)
            engine.run()
            executor: Any = engine.executor
            memory = weakref.ref(executor._buffer if isinstance(policy, Baton) else executor._pool)
            del executor, engine
            assert memory() is None
    finally:
        gc.enable()


# the device's time


class Device:
    """A stream on which everything takes a second, and the events that were recorded on it."""

    def __init__(self) -> None:
        self.launched = 0.0
        self.did: list[str] = []

    def synchronize(self) -> None:
        self.did.append("synchronised")


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = np.nan

    def record(self, device: Any) -> None:
        self.at = device.launched
        device.did.append("recorded")
        self._device = device

    def synchronize(self) -> None:
        self._device.did.append("waited")

    def elapsed_time(self, other: "Event") -> float:
        return 1e3 * (other.at - self.at)


def test_a_lane_is_timed_from_its_first_launch_to_the_last_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    device: Any = Device()
    lane = Lane(device)
    device.launched = 5.0
    lane.begin()
    device.launched += 3
    lane.wait(lambda: device.did.append("other work"))
    assert device.did == ["recorded", "recorded", "other work", "waited"]
    assert lane.end() == 3.0
    lane.begin()
    device.launched += 2  # a copy that nobody waits for
    assert lane.end() == 2.0


def test_each_lane_waits_on_its_own_stream_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Device] = []

    def stream(*_: Any, **__: Any) -> Device:
        devices.append(Device())
        return devices[-1]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    streams = Streams(torch.device("cuda"))
    batch, aside = devices

    def compute(device: Device, seconds: float) -> str:
        device.launched += seconds
        streams.wait(lambda: device.did.append("other work"))
        return "made"

    assert streams.run_aside(compute, aside, 2.0) == ("made", 2.0)
    assert batch.did == []
    assert streams.run(compute, batch, 7.0) == ("made", 7.0)
    assert batch.did == aside.did == ["recorded", "recorded", "other work", "waited", "synchronised"]

    def fails() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streams.run(fails)
    assert batch.did[-1] == "synchronised"


def test_the_engine_keeps_the_devices_time_of_each_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[Engine] = []
    run: Callable[..., Any] = Streams.run
    times = iter(np.arange(1.0, 1000.0))
    monkeypatch.setattr(Streams, "run", lambda self, *given: (run(self, *given)[0], next(times)))
    served = real_run(STEADY, Baton(max_batch=4), watch=engines.append)
    assert engines[0].device_s.tolist() == [*np.arange(1.0, 1 + len(served.records))]


def test_a_cpu_has_none() -> None:
    assert not real_run(STEADY, Baton(max_batch=4)).engine.device_s


# memory that is not zeroed


@pytest.mark.parametrize(
    ("name", "execution"), [*((name, EAGER) for name in ONE_DEVICE), ("run_to_completion", GRAPHS)]
)
def test_nothing_is_read_that_was_not_written(name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded window is wider than what was written; what lies there must be a number."""

    def garbage(self: Executor, *shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=self.network.dtype)

    monkeypatch.setattr(Executor, "unwritten", garbage)
    run = real_run(a_dozen(seed=3), ONE_DEVICE[name], execution=execution)
    assert differences(run, "tiny_llama") == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 3])
def test_copies_in_words_keep_every_bit(dtype: torch.dtype, width: int) -> None:
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    kv = torch.randint(-(2**15), 2**15, (2, 2, 3, 5, width), dtype=bits).view(dtype)
    rows = torch.zeros(2, 2, 4, 3, 9, width, dtype=dtype)
    rectangle.in_words(rows)[:, :, 2, :, :4] = rectangle.in_words(kv[:, :, :, :4])
    assert torch.equal(rows[:, :, 2, :, :4].contiguous().view(bits), kv[:, :, :, :4].contiguous().view(bits))
    rows[:, :, 2, :, :4] = 0
    assert not torch.count_nonzero(rows)
    assert (rectangle.in_words(kv).dtype == torch.int64) == (width == 16)
