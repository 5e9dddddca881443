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
from sim.cost.work import Work
from sim.engine.arrivals import chunks_of
from sim.engine.captured import counting
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import COLUMNS, DTYPE, IterationLog, Slice, columns_of
from tests.runs import H100, LLAMA3_8B, logged_run, random_requests


def test_a_decode_record_is_a_record_whose_other_columns_are_zero() -> None:
    slices: list[Slice] = []
    log = IterationLog(lambda part: slices.append(part.copy()))
    counts = {"kv_read": 90, "kv_held": 10, "kv_padding": 7, "kv_copied": 5, "kv_host": 3, "attention_launches": 8}
    work = Work(0, 8, 2, 1, **counts)
    log.add(1.0, 2.0, 0.5, 3, 4, 100, 8, work)
    log.add_decode(1.0, 2.0, 0.5, 3, 4, 100, 8, 0, 8, 2, 1, 90, 10, 7, 5, 3, 8)
    log.add(1.0, 2.0, 0.5, 3, 4, 100, 8, work._replace(dummy_rows=6, kv_dummy=11))
    log.add_recorded(1.0, 2.0, 0.5, 3, 4, 100, 8, False, 0, 8, 2, 1, 90, 10, 7, 5, 3, 8, 6, 11)
    log.add_recorded(1.0, 2.0, 0.5, 3, 4, 100, 8, True, 0, 8, 2, 1, 90, 10, 7, 5, 3, 8, 6, 11)
    log.flush()
    decode, same, recorded, equal, fixed = slices[0]
    assert decode == same and recorded == equal != fixed
    assert fixed["fixed_window"] == 1 and decode["fixed_window"] == 0


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
    foreseen = None
    for _ in range(3):
        work = counts.work(ledger, CARRY_ON, 0)
        held = (work.kv_read, work.kv_held, work.kv_padding)
        counted = (work.rows, work.held_rows, *held, work.attention_launches)
        assert counts.step(ledger) == counted
        dummies = counts.dummies(ledger, counted) if counts.dummies else (0, 0)
        assert dummies == (work.dummy_rows, work.kv_dummy)
        assert foreseen in (None, counted)
        foreseen = counts.step(ledger, 2)
        ledger.commit(0, [])
        ledger.begin(0, CARRY_ON)
    assert work.rows >= 3
