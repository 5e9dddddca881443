"""Invariants of the engine, each by name, for every policy; and results known in closed form."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.baton import Baton
from policies.job import Job
from policies.orca import Orca
from policies.plan import CARRY_ON, IDLE, IllegalPlan, Plan
from policies.policy import Policy, Traits
from policies.run_to_completion import RunToCompletion
from policies.view import View
from sim.cost.datasheet import Roofline
from sim.cost.work import Work
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import DTYPE
from sim.simulation.simulation import simulate
from tests.runs import H100, LLAMA3_8B, ONE_SECOND_PER_ITERATION, Run, random_requests, requests_of, run
from tests.sim.variants import VARIANTS
from workloads.requests import Requests

REAL_TIME = H100
LONG = 600
"""Longest prompt and output: with 4 rows and 2,000 to 4,000 KV tokens, memory is short and preemption common."""

WORKLOADS: dict[str, Requests] = {
    "together": random_requests(60, seed=1, longest=LONG),
    "light": random_requests(40, seed=2, rate=0.4, longest=LONG),
    "heavy": random_requests(60, seed=3, rate=20.0, longest=LONG),
    "closed": replace(random_requests(60, seed=4, longest=LONG), concurrency=6),
}


@pytest.fixture(scope="module", params=[(p, w) for p in VARIANTS for w in WORKLOADS], ids="-".join)
def finished(request: pytest.FixtureRequest) -> tuple[Requests, Policy, Run]:
    """A run of each policy on each workload, not stretched."""
    policy, requests = VARIANTS[request.param[0]], WORKLOADS[request.param[1]]
    return requests, policy, run(requests, policy, REAL_TIME, kv_tokens=2500, stretch=False)


def test_conservation(finished: tuple[Requests, Policy, Run]) -> None:
    """Every request completes once, and every one of its tokens was computed once (twice if its KV was lost)."""
    requests, _, result = finished
    assert result.request_log.finished == len(requests)
    assert not np.isnan(result.request_log.finish_s).any()
    tokens = result.total("rows") + len(requests) + len(result.request_log.recomputed)
    assert tokens == requests.output_tokens.sum()
    if not result.request_log.recomputed:
        assert result.total("prefill_tokens") == requests.prompt_tokens.sum()


def test_causality(finished: tuple[Requests, Policy, Run]) -> None:
    """Arrival, first prefill, first token, end: in this order."""
    request_log = finished[2].request_log
    arrival, scheduled = np.array(request_log.arrival_s), np.array(request_log.first_scheduled_s)
    token, finish = np.array(request_log.first_token_s), np.array(request_log.finish_s)
    assert (arrival <= scheduled).all() and (scheduled < token).all() and (token <= finish).all()


def test_clock_is_monotone(finished: tuple[Requests, Policy, Run]) -> None:
    """Iterations of one lane follow each other and never overlap."""
    log = finished[2].log
    for lane in (0, 1):
        mine = log[log["lane"] == lane]
        assert (mine["duration_s"] > 0).all()
        assert (mine["start_s"][1:] >= mine["start_s"][:-1] + mine["duration_s"][:-1] - 1e-9).all()


def test_memory_balances_and_is_never_above_capacity(finished: tuple[Requests, Policy, Run]) -> None:
    """KV memory is bounded at all times and empty at the end."""
    _, _, result = finished
    assert max(result.log["kv_tokens"].max(), result.engine.ledger.stretch_peak) <= 2500
    assert result.engine.ledger.book.used == 0
    assert not result.engine.ledger.batch.rows and not result.engine.ledger.parked


def test_the_batch_is_bounded(finished: tuple[Requests, Policy, Run]) -> None:
    """Live and held rows never exceed max_batch, and the log's rows are those of the batch."""
    _, policy, result = finished
    assert (result.log["rows"] + result.log["held_rows"]).max() <= policy.max_batch


def test_work_conservation(finished: tuple[Requests, Policy, Run]) -> None:
    """The GPU never idles while a request that has arrived is unfinished (batches may be told to wait)."""
    _, policy, result = finished
    if isinstance(policy, RunToCompletion) and policy.max_wait:
        pytest.skip("told to wait")
    intervals = np.sort(np.stack([result.log["start_s"], result.log["start_s"] + result.log["duration_s"]], 1), axis=0)
    ends = np.maximum.accumulate(intervals[:, 1])
    arrival, finish = np.array(result.request_log.arrival_s), np.array(result.request_log.finish_s)
    for end, start in zip(ends[:-1], intervals[1:, 0], strict=True):
        if start > end + 1e-6 and policy.traits.lanes != "separate":
            assert not ((arrival < start - 1e-6) & (finish > end + 1e-6)).any()


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv_tokens", [2500, 40_000])
def test_steady_promises_are_kept(variant: str, workload: str, kv_tokens: int) -> None:
    """Running promised iterations in one event changes nothing: the same iterations at the same times."""
    policy, requests = VARIANTS[variant], WORKLOADS[workload]
    stretched = run(requests, policy, REAL_TIME, kv_tokens, stretch=True)
    plain = run(requests, policy, REAL_TIME, kv_tokens, stretch=False)
    logs = [one.log[np.argsort(one.log["lane"], kind="stable")] for one in (stretched, plain)]
    assert len(logs[0]) == len(logs[1])
    for column in DTYPE.names or ():
        if column.endswith("_s"):
            np.testing.assert_allclose(logs[0][column], logs[1][column], rtol=1e-9, atol=1e-9)
        elif column not in ("waiting", "kv_tokens"):  # as of the start of a stretch
            np.testing.assert_array_equal(logs[0][column], logs[1][column])
    np.testing.assert_allclose(stretched.request_log.finish_s, plain.request_log.finish_s, rtol=1e-9)
    assert stretched.request_log.preemptions == plain.request_log.preemptions


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=lambda execution: execution.name)
@pytest.mark.parametrize("rate", [None, 5.0, 50.0])
def test_no_free_compute_with_two_lanes(rate: float | None, execution: Execution) -> None:
    """Two lanes on one GPU never compute or move more per second than the GPU can."""
    requests = random_requests(30, seed=6, rate=rate, longest=80)
    result = run(requests, Baton(max_batch=4, prefill="overlapped"), REAL_TIME, execution=execution)
    cost = Roofline(REAL_TIME, LLAMA3_8B)
    spans = [(r["start_s"], r["start_s"] + r["duration_s"], cost.demand(work_of_record(r))) for r in result.log]
    overlapping = 0
    for start, end, demand in spans:
        inside = [d for s, e, d in spans if s >= start - 1e-12 and e <= end + 1e-12]
        overlapping += len(inside) > 1
        assert sum(d.flops_s for d in inside) <= (end - start) * (1 + 1e-6)
        assert sum(d.traffic_s for d in inside) <= (end - start) * (1 + 1e-6)
        assert demand in inside
    assert overlapping > 0


def work_of_record(record: np.void) -> Work:
    """The `Work` of one record."""
    return Work(*(int(record[name]) for name in Work._fields))


@dataclass(frozen=True, kw_only=True)
class Recorder(Policy):
    """Passes another policy's answers on and keeps them."""

    inner: Policy
    plans: list[Plan]

    @property
    def traits(self) -> Traits:
        """Those of the inner policy."""
        return self.inner.traits

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Answer as the inner policy does."""
        answer = self.inner.plan(view, now, lane)
        self.plans.append(answer)
        return answer


@pytest.mark.parametrize("variant", VARIANTS)
def test_oracle_boundary(variant: str) -> None:
    """A policy cannot see output lengths: until an answer's end shows, a longer answer changes no plan."""
    assert "output" not in " ".join(Job._fields)
    inner = VARIANTS[variant]
    rows = [(0.0, 50 + i, 20 + i) for i in range(8)]
    plans: list[list[Plan]] = []
    for last in (20, 90):
        kept: list[Plan] = []
        longer = [*rows[:3], (0.0, 53, last), *rows[4:]]
        recorder = Recorder(inner=inner, plans=kept, max_batch=inner.max_batch, order=inner.order)
        run(requests_of(longer, max_new=100), recorder, kv_tokens=100_000, stretch=False)
        plans.append(kept)
    shown = 19  # plans before the shorter answer's end: its prefill, then one per token
    assert plans[0][:shown] == plans[1][:shown]
    assert plans[0] != plans[1]


DIGEST = """
import hashlib
from tests.runs import H100, random_requests, run
from tests.sim.variants import VARIANTS
digest = hashlib.sha256()
for policy in VARIANTS.values():
    digest.update(run(random_requests(40, seed=5, rate=20.0), policy, H100, 2500).log.tobytes())
print(digest.hexdigest())
"""


def test_identical_seeds_give_identical_results_whatever_the_process_and_hash_seed() -> None:
    """Byte-identical logs."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


def test_one_row_and_poisson_arrivals_is_m_g_1() -> None:
    """The mean wait meets Pollaczek-Khinchine, W = rate E[S^2] / (2 (1 - rate E[S])), within its 99 % interval."""
    rng, count, rate = np.random.default_rng(7), 40_000, 0.1
    service = rng.integers(1, 14, count)  # one second per token: S is the output length, mean 7, load 0.7
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    result = run(requests_of(list(zip(arrival, np.ones(count), service, strict=True))), Orca(max_batch=1))
    waits = np.array(result.request_log.first_scheduled_s) - arrival
    expected = rate * (service**2).mean() / (2 * (1 - rate * service.mean()))
    batches = waits.reshape(40, -1).mean(axis=1)
    assert abs(batches.mean() - expected) < 2.7 * batches.std(ddof=1) / np.sqrt(len(batches))
    assert batches.std(ddof=1) / np.sqrt(len(batches)) < 0.05 * expected  # the interval is narrow enough to tell


def test_equal_lengths_arriving_together_make_baton_and_run_to_completion_equal() -> None:
    """Nothing to pad, nothing to insert: both run full batches one after the other."""
    requests = requests_of([(0.0, 100, 50)] * 12)
    static = run(requests, RunToCompletion(max_batch=4), REAL_TIME)
    baton = run(requests, Baton(max_batch=4), REAL_TIME)
    np.testing.assert_allclose(baton.request_log.finish_s, static.request_log.finish_s, rtol=1e-12)
    assert baton.total("kv_copied") == 0


def test_a_request_larger_than_memory_is_rejected_and_the_rest_is_served() -> None:
    requests = requests_of([(0.0, 10, 5), (0.0, 400, 5), (1.0, 10, 5)])
    for policy in VARIANTS.values():
        result = run(requests, policy, kv_tokens=300)
        assert result.request_log.rejected == {1}
        assert result.request_log.finished == 2


@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    prompt=st.integers(1, 300),
    output=st.integers(1, 300),
    kv_tokens=st.integers(10, 700),
)
@settings(max_examples=300, deadline=None)
def test_what_is_accepted_is_served(variant: str, prompt: int, output: int, kv_tokens: int) -> None:
    """No request is too large for the scheduler and yet small enough for the queue: that would block all behind it."""
    requests = requests_of([(0.0, prompt, output), (1.0, 5, 5), (2.0, prompt, output)])
    request_log = run(requests, VARIANTS[variant], kv_tokens=kv_tokens).request_log
    assert request_log.finished + len(request_log.rejected) == 3
    assert (0 in request_log.rejected) == (2 in request_log.rejected)
    copies = 2 if VARIANTS[variant].traits.concatenates else 1  # the old batch and the new one
    if copies * (prompt + prompt + output + 15) <= kv_tokens:
        assert not request_log.rejected


@pytest.mark.parametrize("output", [2, 17, 60])
def test_an_arrival_at_the_very_end_of_a_stretch_is_served_after_it(output: int) -> None:
    policy = Baton(max_batch=2, prefill="overlapped")
    end = run(requests_of([(0.0, 30, output)]), policy, REAL_TIME).request_log.finish_s[0]
    for stretch in (True, False):
        result = run(requests_of([(0.0, 30, output), (end, 30, output)]), policy, REAL_TIME, stretch=stretch)
        np.testing.assert_allclose(result.request_log.finish_s, [end, 2 * end], rtol=1e-3)  # and its KV is copied


def test_a_lane_that_starts_in_mid_stretch_cuts_it_at_the_step_in_progress() -> None:
    policy = Baton(max_batch=2, prefill="overlapped")
    for arrival in (2.9, 3.5, 4.2):
        requests = requests_of([(0.0, 3, 9), (arrival, 3, 5)])
        stretched, plain = (run(requests, policy, stretch=stretch).finish_s for stretch in (True, False))
        assert stretched == plain == [9, np.ceil(arrival + 1) + 4]


def test_kv_queues_on_the_link_and_holds_its_place_on_the_prefill_gpu() -> None:
    """A link of 10 tokens/s; two prompts of 20 do not fit into the 30 tokens of the prefill GPU together."""
    link = replace(ONE_SECOND_PER_ITERATION, gpu_bandwidth=10.0 * LLAMA3_8B.kv_bytes_per_token)
    requests = requests_of([(0.0, 20, 2), (0.0, 20, 2)])
    roomy = run(requests, Baton(max_batch=2, prefill="dedicated"), link)
    assert roomy.finish_s == [6, 6]  # prefilled together by 1, sent by 5, decoded by 6
    tight = run(requests, Baton(max_batch=2, prefill="dedicated"), link, remote_kv_tokens=30)
    assert tight.finish_s == [4, 7]  # 1 + 2 + 1; the second is prefilled from 3 to 4, sent by 6
    assert run(requests, Baton(max_batch=2, prefill="dedicated"), link, remote_kv_tokens=10).request_log.rejected == {
        0,
        1,
    }


def test_the_batch_pays_for_the_copy_that_makes_room_for_a_newcomer() -> None:
    """Not the prefill lane: the rectangle is on the batch's GPU."""
    requests = requests_of([(0.0, 20, 20), (0.0, 20, 30), (5.5, 80, 80)])
    log = run(requests, Baton(max_batch=3, prefill="dedicated"), kv_tokens=3000).log
    assert log["kv_copied"][log["lane"] == 1].sum() == 0
    copies = log["kv_copied"][log["lane"] == 0]
    assert (copies > 40).sum() >= 2  # the two live rows into the larger rectangle; the newcomer's 80


def test_a_closed_loop_keeps_its_clients_busy_and_no_more() -> None:
    requests = WORKLOADS["closed"]
    request_log = run(requests, Orca(max_batch=4), REAL_TIME).request_log
    arrival, finish = np.array(request_log.arrival_s), np.array(request_log.finish_s)
    times = np.sort(np.concatenate([arrival, finish]))[:-1]
    in_flight = [int(((arrival <= t) & (finish > t)).sum()) for t in times]
    assert max(in_flight) == 6
    assert all(count == 6 for count in in_flight[: len(requests)])


@dataclass(frozen=True, kw_only=True)
class Idler(Policy):
    """A deliberately bad policy: never takes anything."""

    @property
    def traits(self) -> Traits:
        """Orca's."""
        return Traits("selective_fused", "slots")

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Do nothing."""
        return IDLE


@dataclass(frozen=True, kw_only=True)
class Cheat(Idler):
    """A deliberately bad policy: decodes a batch that is empty."""

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Carry on with nothing."""
        return CARRY_ON


def test_a_policy_that_starves_its_queue_ends_the_run_with_requests_unfinished() -> None:
    result = run(requests_of([(0.0, 3, 3), (5.0, 3, 3)]), Idler())
    assert result.request_log.finished == 0
    assert np.isnan(result.request_log.finish_s).all()


def test_an_illegal_plan_stops_the_run() -> None:
    with pytest.raises(IllegalPlan, match="rows that decode"):
        run(requests_of([(0.0, 3, 3)]), Cheat())


def test_shortest_job_first_can_be_given_an_oracle() -> None:
    """All declare the same; only the oracle knows which answer is short."""
    requests = requests_of([(0.0, 5, 9), (0.0, 5, 2), (0.0, 5, 4)], max_new=10)
    finish = {}
    for predictor in ("declared", "oracle"):
        policy = Orca(max_batch=1, order="sjf", predictor=predictor)
        result = simulate(requests, policy, ONE_SECOND_PER_ITERATION, LLAMA3_8B, kv_tokens=1000)
        finish[predictor] = [round(time) for time in result.columns["e2e_s"]]
    assert finish == {"declared": [9, 11, 15], "oracle": [15, 2, 6]}
