"""Decode steps as a GPU would capture them: what is in a graph, and that a graph can hold it. No GPU is needed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")
from real.model.graphs import Decoded, Graphs, Inputs
from sim.engine.execution import EAGER, GRAPHS, Execution
from tests.real.model.fake_cuda import DEVICE, Forbidden, Gpu, fake_gpu, fake_network
from tests.real.models import TINY, dimensions
from tests.real.runs import RealRun, real_run
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of

LAYOUTS = ("run_to_completion", "orca", "orca_per_request", "baton", "baton_ragged")


def fake_run(name: str, model: str, execution: Execution = GRAPHS) -> tuple[Gpu, RealRun]:
    with fake_gpu() as gpu:
        requests = requests_of([(0.0, 5, 6), (0.0, 9, 4), (4.0, 3, 5)])
        run = real_run(requests, ONE_DEVICE[name], model, execution=execution, on=fake_network(model, execution))
    return gpu, run


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("name", LAYOUTS)
def test_captured_steps_touch_nothing_that_a_graph_cannot_hold(name: str, model: str) -> None:
    gpu, run = fake_run(name, model)
    assert len(gpu.captures) == run.engine.executor.graphs.count > 0
    names = [event.name for event in gpu.events]
    assert names.count("replay") >= 2 * len(gpu.captures)  # the first is part of recording, and not timed
    for place, event in enumerate(gpu.events):
        if event.name == "begin":
            pool, mode = event.details
            assert event.stream.priority == -1  # the batch's own stream: a graph keeps the priority of its capture
            assert names[place - 2 : place] == ["synchronize", "empty_cache"]
            end = names.index("end", place)
            assert names[end + 1 : end + 3] == ["replay", "synchronize"]
            if name != "run_to_completion":
                untimed = gpu.events[place - 3]
                assert untimed.name.startswith("_") and untimed.stream is event.stream
            assert mode == "thread_local" and pool is not None


@pytest.mark.parametrize("name", [*LAYOUTS, "orca_rectangular", "baton_concatenate", "chunked_prefill_small"])
def test_eager_runs_know_where_their_tensors_are(name: str) -> None:
    gpu, run = fake_run(name, "tiny_llama", EAGER)
    assert len(run.engine.generated) == 3 and not gpu.captures


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_qwen3"])
@pytest.mark.parametrize(("name", "joins"), [("orca", ["_join_splits"]), ("baton", []), ("baton_ragged", [])])
def test_a_layer_of_a_decode_step_is_nine_kernels(name: str, joins: list[str], model: str) -> None:
    """Two of four products add what came in. A table has so many columns that a short batch is split."""
    gpu, _ = fake_run(name, model)
    attention = ["rms_norm", "linear", "_turn", "_attend_split", *joins, "addmm_"]
    layer = [*attention, "rms_norm", "linear", "_gate", "addmm_"]
    for captured in gpu.captures:
        first = captured.index("rms_norm")
        assert captured[first : first + len(layer) * 2] == layer * 2
        assert dimensions(model).layers == 2
        assert not set(captured[:first] + captured[first + len(layer) * 2 :]) & {"_turn", "_attend_split", "addmm_"}


def record(compute: Callable[[Inputs], Tensor]) -> None:
    """Capture a step that gives these tokens."""
    graphs = Graphs(DEVICE)
    graphs.decode(1, 2, lambda inputs: Decoded(None, compute(inputs).expand(2, -1), 1), np.array([[3, 4], [1, 2]]))


FORBIDDEN: dict[str, Callable[[Inputs], Any]] = {
    "a look at a value": lambda inputs: inputs.ids[: inputs.lengths[0].item()],
    "a branch on a value": lambda inputs: inputs.ids if inputs.lengths.any() else inputs.lengths,
    "a copy to the host": lambda inputs: inputs.ids.cpu(),
    "a copy from the host": lambda inputs: inputs.ids + torch.zeros(2, dtype=torch.int64).to(DEVICE),
    "a number from the host": lambda inputs: inputs.ids + torch.tensor([1, 2], device=DEVICE),
    "a tensor on the host": lambda inputs: inputs.ids + torch.tensor(1),
    "a selection by a mask": lambda inputs: inputs.ids[inputs.lengths > 0],
    "a write by a mask": lambda inputs: inputs.ids.index_put_((inputs.lengths > 0,), inputs.ids),
    "places counted by the device": lambda inputs: inputs.lengths.nonzero()[:, 0],
    "a wait": lambda inputs: torch.cuda.synchronize() or inputs.ids,  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("compute", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_a_graph_cannot_hold_is_seen(compute: Callable[[Inputs], Tensor]) -> None:
    """Negative controls."""
    with fake_gpu() as gpu:
        record(lambda inputs: inputs.ids + inputs.lengths)
        with pytest.raises(Forbidden):
            record(lambda inputs: compute(inputs) if gpu.capturing else inputs.ids)
        assert [event.name for event in gpu.events].count("end") == 2  # the process can go on


def test_a_capture_that_cuda_has_given_up_leaves_the_allocator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given), raising=False)
    with fake_gpu() as gpu:
        gpu.invalid = True
        with pytest.raises(Forbidden):  # what was wrong, and not that the capture could not be ended
            record(FORBIDDEN["a look at a value"])
        assert ended == [(0, gpu.pools)]
        gpu.invalid = False
        record(lambda inputs: inputs.ids)


def test_what_was_begun_before_is_awaited_before_a_recording_is_timed() -> None:
    def step(inputs: Inputs) -> Decoded:
        return Decoded(None, torch.stack(inputs), 1)

    with fake_gpu() as gpu:
        graphs = Graphs(DEVICE)
        before: list[int] = []
        graphs.before_record = lambda: before.append(len(gpu.events))
        graphs.decode(1, 1, step, np.zeros((2, 1), np.int64))
        assert gpu.events[before[0]].name == "synchronize"
        count = len(gpu.events)
        graphs.decode(1, 1, step, np.zeros((2, 1), np.int64))
        assert [event.name for event in gpu.events[count:]] == ["replay"]


def test_recordings_share_a_pool_until_they_are_forgotten() -> None:
    def step(inputs: Inputs) -> Decoded:
        return Decoded(None, torch.stack(inputs), 1)

    with fake_gpu() as gpu:
        graphs = Graphs(DEVICE)
        for shape in (1, 2):
            graphs.decode(shape, shape, step, np.zeros((2, 1), np.int64))
        graphs.forget()
        graphs.decode(1, 1, step, np.zeros((2, 1), np.int64))
    first, second, third = (event.details[0] for event in gpu.events if event.name == "begin")
    assert first == second != third
