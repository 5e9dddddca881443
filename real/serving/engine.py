"""The real engine: the loop view, plan, begin, run, commit, on a model and on the wall clock.

A policy that prefills beside the batch has its second lane on a thread of its own (on a GPU, on a stream of its own);
its plans are made, begun and committed by the main thread, at the boundaries of the batch's iterations.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

import numpy as np

from policies.checks import InputError
from policies.ledger.ledger_view import LedgerView
from policies.ledger.opening import make_ledger
from policies.plan import IllegalPlan, Plan
from policies.policy import Policy
from policies.queue import Predictor, declared
from real.layouts import Outcome, executor_for
from real.layouts.sequences import Sequences
from real.model.network import Network
from real.serving.clock import WallClock
from sim.cost.model import Model
from sim.cost.work import Work
from sim.engine.arrivals import arrivals_of
from sim.engine.bookkeeping import Bookkeeping
from sim.engine.iteration_log import IterationLog
from sim.engine.replay import Asked, Committed, Tape
from sim.engine.request_log import RequestLog
from sim.engine.stretch import Stretch
from workloads.requests import Requests

DECODE, PREFILL = 0, 1

OnStep = Callable[[int, int, float], None]
"""Hears, after every iteration: requests finished, tokens generated, seconds since the start."""


class Engine:
    """Serves one workload with one policy.

    Attributes:
        ledger: The state machine.
        request_log: The output lengths, and what became of every request.
        device_s: Seconds of each iteration from its first launch to the end of its last kernel, recordings left out, in
            the order of the log; none on a CPU.
        requests: The workload, its arrivals in seconds of this run.
        kv_tokens: KV memory, in tokens.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        network: Network,
        prompts: Sequence[Sequence[int]],
        log: IterationLog,
        kv_tokens: int,
        *,
        predictor: Predictor = declared,
        time_scale: float = 1.0,
        stop_at_end_token: bool = False,
        tape: Tape | None = None,
        on_step: OnStep | None = None,
        clock: WallClock | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            requests: The workload.
            policy: What to run next.
            network: The model.
            prompts: Tokens of every request's prompt.
            log: Where iterations are recorded.
            kv_tokens: KV memory, in tokens.
            predictor: What `sjf` orders by.
            time_scale: Seconds on the clock per second of the workload's arrivals.
            stop_at_end_token: Whether an answer ends, before its output length, at a token that the model ends by.
            tape: Where all questions and answers are recorded.
            on_step: What hears of every iteration.
            clock: What tells the time; the wall clock if None.

        Raises:
            InputError: The model or the machine cannot run this.
        """
        if policy.traits.lanes == "separate":
            raise InputError("policy.prefill=dedicated needs a second GPU, and one is driven: choose another prefill")
        check_context(requests, network.dimensions)
        self.kv_tokens = kv_tokens
        self.requests = replace(requests, arrival_s=requests.arrival_s * time_scale)
        self.ledger = make_ledger(policy, kv_tokens, predictor)
        self.request_log = RequestLog(self.requests, policy.traits.release_with_batch)
        self._sequences = Sequences(prompts)
        self.executor = executor_for(policy, network, self.ledger, self._sequences)
        self.executor.meanwhile = self._keep_books
        self._policy = policy
        self._traits = policy.traits
        self._view = LedgerView(self.ledger)
        self._log = log
        self._end_tokens = network.end_tokens if stop_at_end_token else frozenset()
        self._tape = tape
        self._on_step = on_step
        self._books = Bookkeeping(self.ledger, self.request_log, arrivals_of(self.requests))
        self._streams = network.streams
        self._aside: tuple[Stretch, Future[tuple[Outcome, float | None]]] | None = None
        self._unbooked: deque[Callable[[], None]] = deque()
        self.device_s = array("d")
        self._tokens = 0
        self._clock = clock or WallClock()
        # A server records before it serves; here it is done when a shape first comes up, and takes no time. What the
        # other lane has begun must not get that time for nothing.
        self.executor.graphs.before_record = self._await_aside
        self._recording_s = 0.0
        self.executor.graphs.on_record = self._skip

    def run(self) -> RequestLog:
        """Serve until every request has left, or nothing can happen any more.

        Raises:
            NonFinite: The model gave logits that are no numbers.
        """
        self._streams.settle()
        self._clock.start()
        try:
            with ThreadPoolExecutor(1) as thread:
                while self._turn(thread):
                    pass
        finally:
            self.executor.graphs.close()  # a circle would keep KV memory until it is collected
            self.executor.meanwhile = _nothing
            self._on_step = None  # whoever stops a run by it has done so
            self._keep_books()
        self._log.flush()
        return self.request_log

    def _skip(self, seconds: float) -> None:
        """Leave the time of a recording out of both clocks."""
        self._clock.skip(seconds)
        self._recording_s += seconds

    @property
    def generated(self) -> dict[int, list[int]]:
        """Tokens generated so far, by request."""
        return self._sequences.generated

    def _turn(self, thread: ThreadPoolExecutor) -> bool:
        """Ask every lane that is free and run what it plans; return False once nothing can happen any more."""
        if self._aside is not None and self._aside[1].done():
            self._finish_aside()
        aside_until = math.inf
        if self._traits.lanes == "shared" and self._aside is None:
            plan, start = self._ask(PREFILL)
            if plan.acts:
                stretch = self._begin(PREFILL, plan, start)
                self._aside = stretch, thread.submit(self._streams.run_aside, self.executor.run, PREFILL, plan)
            else:
                aside_until = plan.ask_at
        plan, start = self._ask(DECODE)
        if plan.acts:
            stretch = self._begin(DECODE, plan, start)
            self._commit(DECODE, stretch, *self._streams.run(self.executor.run, DECODE, plan))
            return True
        self._keep_books()
        if self._aside is not None:
            self._finish_aside()
            return True
        return self._sleep(min(plan.ask_at, aside_until))

    def _await_aside(self) -> None:
        if self._aside is not None:
            wait([self._aside[1]])

    def _finish_aside(self) -> None:
        assert self._aside is not None
        stretch, future = self._aside
        outcome, device_s = future.result()
        self._aside = None
        self._commit(PREFILL, stretch, outcome, device_s)

    def _ask(self, lane: int) -> tuple[Plan, float]:
        now = self._clock.now()
        arrived = self._books.admit(now)
        plan = self._policy.plan(self._view, now, lane)
        if not plan.acts and plan.ask_at <= now:
            raise IllegalPlan(f"an idle plan must name a later time to ask again, not {plan.ask_at}")
        if self._tape is not None:
            self._unbooked.append(partial(self._tape.append, Asked(lane, now, tuple(arrived), plan)))
        return plan, now

    def _begin(self, lane: int, plan: Plan, now: float) -> Stretch:
        self._books.begin(lane, plan)
        return Stretch(plan, Work(), now, 0.0, self.ledger)

    def _commit(self, lane: int, stretch: Stretch, outcome: Outcome, device_s: float | None) -> None:
        """Close an iteration: now what the next plan depends on, the rest while the next iteration is computed."""
        now = self._clock.now()
        self._sequences.extend(outcome.tokens)
        stopped: Sequence[int] = ()
        if not self._end_tokens.isdisjoint(outcome.tokens.values()):
            stopped = [request for request, token in outcome.tokens.items() if token in self._end_tokens]
        ended = self._books.commit(lane, stretch.plan, stretch.start, now, stopped=stopped)
        self.executor.finished(ended)
        if lane == DECODE and device_s is not None:
            device_s, self._recording_s = device_s - self._recording_s, 0.0
        self._unbooked.append(
            partial(self._book, lane, stretch, outcome, now, device_s, tuple(ended), self.request_log.finished)
        )

    def _keep_books(self) -> None:
        """Record what has happened and was not recorded yet, in its order."""
        while self._unbooked:
            self._unbooked.popleft()()

    def _book(
        self, lane: int, stretch: Stretch, outcome: Outcome, now: float, device_s: float | None, ended: tuple[int, ...],
        finished: int,
    ) -> None:  # fmt: skip
        """Record an iteration, by when so many requests had finished."""
        self._log.append(stretch.head(now - stretch.start, now - stretch.start, 1), outcome.work)
        if device_s is not None:
            self.device_s.append(device_s)
        self._sequences.settle()
        self._tokens += len(outcome.tokens)
        if self._tape is not None:
            self._tape.append(Committed(lane, now, outcome.work, ended))
        if self._on_step is not None:
            self._on_step(finished, self._tokens, now)

    def _sleep(self, until: float) -> bool:
        until = min(until, self._books.arrivals.next_s)
        if math.isinf(until):
            return False
        self._clock.sleep_until(until)
        return True

    def served(self) -> Requests:
        """The workload with the output lengths that were generated; those not reached keep the workload's."""
        if not self._end_tokens:
            return self.requests
        outputs = self.requests.output_tokens.copy()
        for request, tokens in self.generated.items():
            if np.isfinite(self.request_log.finish_s[request]):
                outputs[request] = len(tokens)
        return replace(self.requests, output_tokens=outputs)


def check_context(requests: Requests, model: Model) -> None:
    """Refuse requests that may outgrow the model's context.

    Raises:
        InputError: There are some.
    """
    needed, longest = requests.prompt_tokens + requests.max_new_tokens, model.max_positions
    too_long = int(np.count_nonzero(needed > longest))
    if too_long:
        worst = int(needed.argmax())
        raise InputError(
            f"{too_long:,} of {len(requests):,} requests may outgrow model={model.name}, {longest:,} tokens: "
            f"request {worst} has a prompt of {requests.prompt_tokens[worst]:,} and declares "
            f"{requests.max_new_tokens[worst]:,} new ones; give max_request_tokens={longest}, or length_scale="
        )


def _nothing() -> None:
    pass
