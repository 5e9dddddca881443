"""Chunked prefill: against a scheduler that knows no shortcuts, and whole traces worked out by hand."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.chunked_prefill import ChunkedPrefill
from policies.plan import Plan
from policies.policy import Policy, Traits
from policies.view import View
from sim.source import chunks_of
from tests.policies.block_by_block import Scheduler, schedule
from tests.runs import requests_of, run
from workloads.requests import Requests


@dataclass(frozen=True, kw_only=True)
class Watched(Policy):
    """Passes a policy's answers on, and keeps who decodes, what is prefilled and who is dropped."""

    inner: ChunkedPrefill
    steps: list[tuple[list[int], list[tuple[int, int]], list[int]]]

    @property
    def traits(self) -> Traits:
        """Those of the inner policy."""
        return self.inner.traits

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Answer as the inner policy does."""
        plan = self.inner.plan(view, now, lane)
        out = {*plan.park, *plan.drop}
        decoding = sorted(r for r in (*view.rows, *plan.insert) if r not in out) if plan.decode else []
        chunks = [(job.id, tokens) for job, tokens in zip(plan.prefill, plan.tokens, strict=True)]
        if decoding or chunks or plan.drop:
            self.steps.append((decoding, chunks, list(plan.drop)))
        return plan


@st.composite
def workloads(draw: st.DrawFn) -> Requests:
    """A few requests with prompts that share prefixes in all ways, arriving in bursts."""
    count = draw(st.integers(1, 12))
    sizes = st.integers(1, 90) | st.integers(1, 6).map(lambda blocks: 16 * blocks)
    lengths = [(draw(sizes), draw(st.integers(1, 50))) for _ in range(count)]
    arrivals = np.cumsum([draw(st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 7.25, 40.0])) for _ in range(count)])
    rows = [(float(at), prompt, output) for at, (prompt, output) in zip(arrivals, lengths, strict=True)]
    prefix = []
    for prompt, _ in lengths:
        tokens = draw(st.sampled_from([0, prompt, prompt * 3 // 4, min(prompt, 64), min(prompt, 32)]))
        prefix.append((draw(st.integers(0, 1)) if tokens else -1, tokens))
    return requests_of(rows, prefix=prefix)


@given(
    requests=workloads(),
    blocks=st.integers(9, 24),
    budget=st.integers(1, 12) | st.integers(13, 200),
    max_batch=st.integers(1, 12),
    threshold=st.none() | st.integers(1, 60),
    caching=st.booleans(),
    whole=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_every_iteration_is_that_of_a_scheduler_without_shortcuts(
    requests: Requests, blocks: int, budget: int, max_batch: int, threshold: int | None, caching: bool, whole: bool
) -> None:
    (jobs,) = chunks_of(requests)
    outputs = requests.output_tokens.tolist()
    taken = [job for job in jobs if job.prompt_tokens + job.max_new_tokens <= 16 * blocks]
    plain = Scheduler(blocks, budget, max_batch, threshold or 1 << 40, caching, whole)
    expected, served = schedule(taken, [outputs[job.id] for job in taken], plain)
    policy = ChunkedPrefill(
        max_batch=max_batch, token_budget=budget, long_prefill_token_threshold=threshold,
        prefix_caching=caching, reserve_full_prompt=whole,
    )  # fmt: skip
    watched = Watched(inner=policy, steps=[], max_batch=max_batch)
    result = run(requests, watched, kv_tokens=16 * blocks, stretch=False)
    chunks = [[(request, tokens) for request, tokens, _ in step.chunks] for step in expected]
    assert watched.steps == [
        (sorted(step.decoding), chunk, step.preempted) for step, chunk in zip(expected, chunks, strict=True)
    ]
    assert result.log["start_s"].tolist() == [step.start_s for step in expected]
    assert result.log["kv_tokens"].tolist() == [16 * step.used for step in expected]
    assert result.log["prefill_kv"].tolist() == [sum(before for _, _, before in step.chunks) for step in expected]
    assert {request.job.id: request.finish_s for request in served} == {
        request: at for request, at in enumerate(result.finish_s) if not np.isnan(at)
    }
    preempted = Counter({request.job.id: request.preemptions for request in served})
    assert result.answers.preemptions == dict(+preempted)
