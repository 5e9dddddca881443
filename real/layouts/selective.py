"""Selective batching: the tokens of all requests flattened through the linear layers, attention request by request.

Every request has keys and values of its own; nothing is padded, and nothing moves when requests come and go.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from policies.ledger.ledger import Ledger
from policies.plan import Plan
from real.layouts.executor import Executor, Outcome, Prompts, Rows
from real.layouts.sequences import Sequences
from real.model.attention import Step
from real.model.network import Network
from sim.cost.work import Work


class SelectiveStep(Step, Protocol):
    """A step that counts what it does in one layer.

    Attributes:
        launches: Calls of the attention operator.
        kv_read: KV tokens that decoding queries saw.
    """

    launches: int
    kv_read: int


class Selective(Executor):
    """Flattens rows and newcomers into one sequence of tokens; where their KV lies is the subclass's matter."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without requests."""
        super().__init__(network, ledger, sequences, max_batch)
        self._steps = 0
        self._rows: dict[int, int] = {}
        """Tokens of each row less the steps so far: all rows grow by one at every step, and none need be visited."""
        self._still: dict[int, int] = {}
        """Tokens of requests that do not decode."""
        self._fresh: set[int] = set()

    @abstractmethod
    def _step(self, decoding: list[int], prompts: Prompts) -> SelectiveStep:
        """Return a step over one token of each decoding request and all of each prompt, in this order."""

    @abstractmethod
    def _open(self, request: int, tokens: int, reserved: int) -> None:
        """Make KV memory for a request about to be prefilled, `tokens` now, `reserved` in all."""

    @abstractmethod
    def _close(self, request: int) -> None:
        """Give the KV memory of a request back."""

    def run(self, lane: int, plan: Plan) -> Outcome:
        """Let rows leave and come back, then compute one token of every row and all of every prompt."""
        for request in plan.park:
            self._still[request] = self._rows.pop(request) + self._steps
            self._fresh.discard(request)
            self._moved(request)
        for request in plan.drop:
            self._dropped[request] = self._length(request)
            self._leave(request)
        for request in plan.insert:
            self._join(request)
        if plan.decode and not plan.prefill and self.execution.captured:
            return self._recorded()
        prompts = self.prompts_of(plan.prefill)
        for job, length in zip(plan.prefill, prompts.lengths, strict=True):
            self._open(job.id, length, job.prompt_tokens + job.max_new_tokens)
            self._still[job.id] = length
        decoding = list(self._rows) if plan.decode else []
        outcome = self._compute(lane, decoding, prompts) if decoding or plan.prefill else Outcome(Work(lane), {})
        for request in prompts.requests:
            self._join(request)
        return outcome

    def finished(self, requests: Sequence[int]) -> None:
        """Free their memory."""
        for request in requests:
            self._leave(request)

    def _length(self, request: int) -> int:
        """Tokens of a request in KV memory."""
        offset = self._rows.get(request)
        return self._still[request] if offset is None else offset + self._steps

    def _join(self, request: int) -> None:
        self._rows[request] = self._still.pop(request) - self._steps
        self._fresh.add(request)
        self._moved(request)

    def _leave(self, request: int) -> None:
        self._close(request)
        self._still.pop(request, None)
        self._rows.pop(request, None)
        self._fresh.discard(request)
        self._moved(request)

    def _moved(self, request: int) -> None:
        """Hear that a request has joined the rows, or left them."""

    def _decode(self) -> Rows:
        """Compute one token of each row, by a recorded step."""
        raise NotImplementedError("memory that comes and goes with every request cannot be recorded")

    def _recorded(self) -> Outcome:
        made, rows = self._decode(), len(self._rows)
        work = Work(
            rows=rows,
            inserted_rows=len(self._fresh),
            kv_read=sum(made.seen[:rows]),
            attention_launches=made.launches,
            dummy_rows=made.dummies,
            kv_dummy=sum(made.seen[rows:]),
        )
        self._advance()
        return Outcome(work, made.tokens)

    def _advance(self) -> None:
        """All rows have a token more."""
        self._steps += 1
        self._fresh.clear()

    def _compute(self, lane: int, decoding: list[int], prompts: Prompts) -> Outcome:
        ids = self.tensor([*self.sequences.last(decoding), *chain.from_iterable(prompts.ids)])
        within = chain.from_iterable(map(range, prompts.lengths))
        positions = self.tensor([*map(self._length, decoding), *within])
        step = self._step(decoding, prompts)
        ends = self.tensor(np.cumsum([1] * len(decoding) + prompts.lengths) - 1)
        logits = self.network.forward(ids[None], positions[None], step, ends)
        tokens = self.sample([*decoding, *prompts.requests], logits)
        work = Work(
            lane,
            rows=len(decoding),
            inserted_rows=len(self._fresh) if decoding else 0,
            kv_read=step.kv_read,
            attention_launches=step.launches,
            **prompts.counts(),
        )
        if decoding:
            self._advance()
        return Outcome(work, tokens)


class RequestByRequest:
    """One attention call per layer and request, over a view of the request's own keys and values."""

    def __init__(self, executor: Executor, decoding: list[Tensor], lengths: list[int], prompts: list[Tensor]) -> None:
        """Attend over KV [layers, 2, kv_heads, capacity, head_dim] of requests: `lengths` tokens, or a new prompt."""
        self._attention = executor.network.attention
        self._decoding = list(zip(decoding, lengths, strict=True))
        self._prompts = prompts
        self.launches = self.kv_read = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store every token's key and value with its request, and attend one request at a time."""
        out = torch.empty_like(query.transpose(1, 2))
        for place, (kv, length) in enumerate(self._decoding):
            token = slice(place, place + 1)
            keys, values = kv[layer, :, None, :, : length + 1]
            keys[:, :, length:], values[:, :, length:] = key[:, :, token], value[:, :, token]
            out[:, token] = self._attention(query[:, :, token], keys, values, scale)
            if layer == 0:
                self.launches += 1
                self.kv_read += keys.shape[2]
        start = len(self._decoding)
        for kv in self._prompts:
            tokens = slice(start, start + kv.shape[3])
            kv[layer, 0], kv[layer, 1] = key[0, :, tokens], value[0, :, tokens]
            out[:, tokens] = self._attention(query[:, :, tokens], key[:, :, tokens], value[:, :, tokens], scale)
            self.launches += layer == 0
            start = tokens.stop
        return out


class PerRequest(Selective):
    """What an Orca on top of a framework does: one attention call per request, its KV in a tensor of its own."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without requests."""
        super().__init__(network, ledger, sequences, max_batch)
        self._kv: dict[int, Tensor] = {}

    @property
    def kv_slots(self) -> int:
        """KV tokens that the tensors have room for."""
        return sum(kv.shape[3] for kv in self._kv.values())

    def _open(self, request: int, tokens: int, reserved: int) -> None:
        model = self.network.dimensions
        self._kv[request] = self.unwritten(model.layers, 2, model.kv_heads, reserved, model.head_dim)

    def _close(self, request: int) -> None:
        del self._kv[request]

    def _step(self, decoding: list[int], prompts: Prompts) -> SelectiveStep:
        new = [
            self._kv[request][:, :, :, :length]
            for request, length in zip(prompts.requests, prompts.lengths, strict=True)
        ]
        lengths = [*map(self._length, decoding)]
        return RequestByRequest(self, [self._kv[request] for request in decoding], lengths, new)
