"""The iteration log: records, columns and what decode steps leave out."""

import numpy as np
import pytest

from policies.baton import Baton
from policies.ledger.opening import make_ledger
from policies.orca import Orca
from policies.plan import CARRY_ON, Plan
from policies.policy import Policy
from policies.queue import declared
from policies.run_to_completion import RunToCompletion
from sim.cost.datasheet import Roofline
from sim.cost.work import DecodeWork
from sim.engine.arrivals import chunks_of
from sim.engine.captured import counting
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import COLUMNS, DTYPE, IterationLog, Slice, columns_of
from sim.engine.stretch import Stretch
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests


@pytest.mark.parametrize("fixed_window", [False, True])
def test_a_decode_record_is_a_record_whose_other_columns_are_zero(fixed_window: bool) -> None:
    slices: list[Slice] = []
    log = IterationLog(lambda part: slices.append(part.copy()))
    work = DecodeWork(8, 2, 1, 90, 10, 7, 5, 3, 8, 6, 11)
    log.append_decode((1.0, 2.0, 0.5, 3, 4, 100, 8, fixed_window), work)
    stretch = Stretch(CARRY_ON, work.work(), 1.0, 0.5, make_ledger(Orca(), 100, declared))
    stretch.waiting, stretch.kv, stretch.live, stretch.fixed_window = 4, 100, 8, fixed_window
    log.append(stretch.head(2.0, 0.5, 3), stretch.work)
    log.flush()
    decode, whole = slices[0]
    assert decode == whole
    assert {name: int(whole[name]) for name in DecodeWork._fields} == work._asdict()
    assert whole["fixed_window"] == fixed_window and not whole["prefill_tokens"]


def test_columns_are_the_fields_of_the_records() -> None:
    _, records = logged_run(random_requests(300), Orca(max_batch=4), Roofline(H100, LLAMA3_8B), 10_000)
    for part in (records, records[:1], records[:0], records[::7]):
        columns = columns_of(part)
        assert tuple(columns) == COLUMNS
        for name, column in columns.items():
            assert column.dtype == DTYPE[name] and column.flags.c_contiguous
            np.testing.assert_array_equal(column, part[name])


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=lambda execution: execution.name)
@pytest.mark.parametrize(
    "policy",
    [
        Orca(max_batch=4),
        Orca(max_batch=4, attention="per_request"),
        Orca(max_batch=4, layout="rectangular"),
        Baton(max_batch=4),
        Baton(max_batch=4, attention="ragged"),
        RunToCompletion(max_batch=4),
    ],
)
def test_a_decode_step_is_counted_as_its_plan_is(policy: Policy, execution: Execution) -> None:
    ledger = make_ledger(policy, 10_000, declared)
    (jobs,) = chunks_of(random_requests(4))
    ledger.submit(jobs)
    ledger.begin(0, Plan(jobs))
    ledger.commit(0, [jobs[0].id] if isinstance(policy, Orca) else [])
    ledger.begin(0, CARRY_ON)
    counts = counting(policy.traits, execution)
    for _ in range(3):
        work = counts.work(ledger, CARRY_ON, 0)
        assert counts.decode(ledger).work() == work
        ledger.commit(0, [])
        ledger.begin(0, CARRY_ON)
    assert work.rows >= 3
