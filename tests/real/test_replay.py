"""The same policy, proven: a real run on tape, replayed by the simulator, gives the same plans and the same work."""

import pytest

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.replay import Asked, Tape, replay
from tests.real.runs import real_run
from tests.real.test_exact import a_dozen
from tests.real.variants import ONE_DEVICE
from tests.runs import requests_of
from workloads.requests import Requests

PREEMPTING: dict[str, tuple[Policy, Requests, int]] = {
    "baton_window": (
        Baton(max_batch=3, reserve="window"),
        requests_of([(0.0, 4, 30), (0.0, 5, 25), (9.0, 6, 20)]),
        100,
    ),
    "chunked_prefill": (
        ChunkedPrefill(max_batch=3, token_budget=12, prefix_caching=False),
        requests_of([(0.0, 10, 40), (0.0, 20, 40), (5.0, 30, 10)]),
        96,
    ),
    "prefill_first": (PrefillFirst(max_batch=3), requests_of([(0.0, 10, 40), (0.0, 10, 40), (5.0, 10, 40)]), 96),
}


@pytest.mark.parametrize(("kv_tokens", "execution"), [(90, EAGER), (4000, EAGER), (4000, GRAPHS)])
@pytest.mark.parametrize("name", ONE_DEVICE)
def test_plans_and_work_are_the_simulators(name: str, kv_tokens: int, execution: Execution) -> None:
    requests = a_dozen(seed=5)
    run = real_run(requests, ONE_DEVICE[name], kv_tokens=kv_tokens, execution=execution)
    assert replay(run.tape, ONE_DEVICE[name], kv_tokens, execution=execution) == []
    assert sum(isinstance(event, Asked) for event in run.tape) > len(requests)


@pytest.mark.parametrize("execution", [EAGER, GRAPHS])
@pytest.mark.parametrize("name", PREEMPTING)
def test_through_preemption_too(name: str, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.ledger.rectangle.HEADROOM", 4)
    policy, requests, kv_tokens = PREEMPTING[name]
    run = real_run(requests, policy, kv_tokens=kv_tokens, execution=execution)
    assert run.engine.request_log.preemptions
    assert replay(run.tape, policy, kv_tokens, execution=execution) == []


def delayed(tape: Tape, index: int) -> Tape:
    """Let what arrived at one question be seen at the lane's next one only."""
    event, changed = tape[index], list(tape)
    assert isinstance(event, Asked)
    later = next(i for i in range(index + 1, len(tape)) if isinstance(tape[i], Asked))
    after = changed[later]
    assert isinstance(after, Asked)
    changed[index] = event._replace(arrived=())
    changed[later] = after._replace(arrived=(*event.arrived, *after.arrived))
    return changed


@pytest.mark.parametrize("name", [name for name, policy in ONE_DEVICE.items() if policy.traits.lanes == "one"])
def test_an_arrival_seen_later_is_noticed(name: str) -> None:
    run = real_run(a_dozen(seed=5), ONE_DEVICE[name])
    decisive = [
        index
        for index, event in enumerate(run.tape)
        if isinstance(event, Asked) and {job.id for job in event.arrived} & {job.id for job in event.plan.prefill}
    ]
    assert decisive
    for index in decisive:
        assert replay(delayed(run.tape, index), ONE_DEVICE[name], 4000)


def test_work_counted_wrongly_is_noticed() -> None:
    run = real_run(a_dozen(seed=5), ONE_DEVICE["baton"])
    index = max(i for i, event in enumerate(run.tape) if not isinstance(event, Asked))
    event = run.tape[index]
    assert not isinstance(event, Asked)
    run.tape[index] = event._replace(work=event.work._replace(kv_padding=event.work.kv_padding + 1))
    assert [found.event for found in replay(run.tape, ONE_DEVICE["baton"], 4000)] == [index]
