"""What every layout has in common: it runs a plan that the ledger has begun, and counts what it computed.

Counts come from the tensors: their shapes, their masks, what was copied. The ledger is asked only where memory lies.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from mmap import mmap
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from policies.checks import InputError
from policies.job import Job
from policies.ledger.ledger import Ledger
from policies.plan import Plan
from real.layouts.seats import Seats
from real.layouts.sequences import Sequences
from real.model.attention import Step
from real.model.errors import NonFinite
from real.model.graphs import Decoded, Graphs, Inputs
from real.model.host_memory import Numbers, pinned, sent
from real.model.network import Network
from sim.cost.work import Work


class Outcome(NamedTuple):
    """What an iteration gave.

    Attributes:
        work: What it computed.
        tokens: The next token of every request that it advanced.
    """

    work: Work
    tokens: dict[int, int]


class Prompts(NamedTuple):
    """The sequences that a prefill computes.

    Attributes:
        requests: Whose they are.
        ids: Their tokens, a list each.
        recomputed: Tokens of each whose KV had been there before, and was dropped.
    """

    requests: list[int]
    ids: list[list[int]]
    recomputed: list[int]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return [len(ids) for ids in self.ids]

    def counts(self) -> dict[str, int]:
        """The fields of `Work` that these sequences make, padding apart."""
        return {
            "prefill_rows": len(self.ids),
            "prefill_tokens": sum(self.lengths),
            "prefill_pairs": sum(map(causal_pairs, self.lengths)),
            "recomputed_tokens": sum(self.recomputed),
            "recomputed_pairs": sum(map(causal_pairs, self.recomputed)),
        }


def causal_pairs(tokens: int) -> int:
    """(query, key) pairs of causal attention over so many tokens."""
    return tokens * (tokens + 1) // 2


def likeliest(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row of logits [n, vocabulary], -1 where they are no numbers, int64 [n]."""
    best, tokens = logits.max(dim=-1)
    return torch.where(best.isfinite(), tokens, -1)


class DecodeStep(Step, Protocol):
    """A step of one token per row.

    Attributes:
        positions: Of the tokens, int64 [rows].
        seen: KV tokens that each row's query sees, int64 [rows].
        launches: Attention operators that were launched in the first layer.
    """

    positions: Tensor
    seen: Tensor
    launches: int


class Rows(NamedTuple):
    """What a decode step computed, row by row.

    Attributes:
        tokens: The next token of every request.
        seen: KV tokens that each row's query saw, dummy rows last.
        dummies: Rows that were computed for nobody.
        launches: Attention operators launched per layer.
    """

    tokens: dict[int, int]
    seen: list[int]
    dummies: int
    launches: int


class Executor(ABC):
    """Runs plans on a network, with the KV memory of one run.

    Attributes:
        logits: If set to a dict before the run, the logits behind every token are kept here, by request.
        graphs: Decode steps that were recorded.
        meanwhile: Called once in every iteration of lane 0 that computes, while the device is at it.
    """

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without rows."""
        self.network = network
        self.ledger = ledger
        self.sequences = sequences
        self.max_batch = max_batch
        self.execution = network.execution
        self.graphs = Graphs(network.device)
        self.logits: dict[int, list[Tensor]] | None = None
        self.meanwhile: Callable[[], None] = _nothing
        self._dropped: dict[int, int] = {}

    @abstractmethod
    def run(self, lane: int, plan: Plan) -> Outcome:
        """Run a plan that the ledger has begun on a lane.

        Raises:
            NonFinite: The model gave logits that are no numbers.
        """

    @abstractmethod
    def finished(self, requests: Sequence[int]) -> None:
        """Hear which requests have ended, after the ledger has."""

    @property
    @abstractmethod
    def kv_slots(self) -> int:
        """KV tokens that the tensors on the device have room for."""

    def prompts_of(self, jobs: Sequence[Job]) -> Prompts:
        """Return the sequences that a prefill of these jobs computes."""
        requests = [job.id for job in jobs]
        return Prompts(
            requests, [self.sequences.known(r) for r in requests], [self._dropped.pop(r, 0) for r in requests]
        )

    def tensor(self, values: Sequence[int] | Sequence[Sequence[int]] | Numbers) -> Tensor:
        """Return whole numbers as a tensor on the network's device."""
        return sent(values, self.network.device)

    def padded(self, rows: Sequence[Sequence[int]], left: bool = False) -> Tensor:
        """Return rows of tokens as a rectangle, int64 [rows, longest], filled up with zeros."""
        lengths = np.array([len(row) for row in rows])
        column, longest = np.arange(lengths.max()), int(lengths.max())
        real = column >= longest - lengths[:, None] if left else column < lengths[:, None]
        filled = np.zeros(real.shape, dtype=np.int64)
        filled[real] = [*chain.from_iterable(rows)]
        return self.tensor(filled)

    def zeros(self, *shape: int) -> Tensor:
        """Return KV memory. What was never written must be finite: a mask hides a number, not a NaN.

        Raises:
            InputError: The machine does not have so much.
        """
        return self._memory(torch.zeros, shape)

    def unwritten(self, *shape: int) -> Tensor:
        """Return KV memory of which nothing is read before it was written.

        Raises:
            InputError: The machine does not have so much.
        """
        return self._memory(torch.empty, shape)

    def for_prompts(self, lengths: Sequence[int]) -> list[Tensor]:
        """Return unwritten KV memory for prompts of these lengths, each [layers, 2, kv_heads, length, head_dim]."""
        model = self.network.dimensions
        return [self.unwritten(model.layers, 2, model.kv_heads, length, model.head_dim) for length in lengths]

    def _memory(self, make: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        """Return new memory for keys and values.

        On a CPU the system hands out zeroed pages as they are touched, so that a large reservation costs nothing. Small
        pages, as a map has them: of a strided copy into huge ones, which numpy asks for, every byte would be zeroed.
        """
        dtype = self.network.dtype
        if self.network.device.type == "cpu" and all(shape):
            size = math.prod(shape) * dtype.itemsize
            try:
                pages = mmap(-1, size)
            except (OSError, MemoryError, OverflowError):
                raise InputError(
                    f"the machine has no {size:,} bytes for KV memory; give less, kv_tokens= or memory_bytes="
                ) from None
            return torch.frombuffer(pages, dtype=dtype).view(*shape)
        return make(*shape, dtype=dtype, device=self.network.device)

    def decode(self, seats: Seats, rows: int, shape: Hashable, step_of: Callable[[Tensor], DecodeStep]) -> Rows:
        """Compute one token of each request that is seated, by a recorded step where steps are recorded.

        Args:
            seats: Whose rows they are; afterwards they hold a token more, and go on with the new one.
            rows: Rows to compute; those beyond the requests are dummies.
            shape: What tells this step from others of this executor that must be recorded apart.
            step_of: Returns the step for lengths [rows] on the device.

        Raises:
            NonFinite: The model gave logits that are no numbers.
        """

        def compute(inputs: Inputs) -> Decoded:
            step, everybody = step_of(inputs.lengths), torch.arange(rows, device=inputs.ids.device)
            logits = self.network.forward(inputs.ids[:, None], step.positions[:, None], step, everybody)
            kept = None if self.logits is None else logits
            return Decoded(kept, torch.stack([likeliest(logits), step.seen]), step.launches)

        with torch.inference_mode():
            if self.execution.captured:
                decoded = self.graphs.decode(shape, rows, compute, seats.inputs)
            else:
                decoded = compute(Inputs(*self.tensor(seats.inputs)))
            found = self.landed(decoded.found)
        requests, live = seats.requests, len(seats.requests)
        tokens, seen = found.tolist()
        logits = None if decoded.logits is None else decoded.logits[:live]
        chosen = self.chosen(requests, logits, tokens[:live])
        seats.advance(found[0, :live])
        return Rows(chosen, seen, rows - live, decoded.launches)

    def sample(self, requests: Sequence[int], logits: Tensor, lane: int = 0) -> dict[int, int]:
        """Choose the likeliest token of each request from logits [n, vocabulary].

        Raises:
            NonFinite: The logits of a request are no numbers.
        """
        return self.chosen(requests, logits, self.landed(likeliest(logits), lane).tolist())

    def landed(self, found: Tensor, lane: int = 0) -> Numbers:
        """Return whole numbers that the device is about to find, once they are there."""
        if found.is_cuda:
            found = pinned(found.device, *found.shape).copy_(found, non_blocking=True)
        self.network.streams.wait(_nothing if lane else self.meanwhile)
        numbers: Numbers = found.numpy()
        return numbers

    def chosen(self, requests: Sequence[int], logits: Tensor | None, tokens: list[int]) -> dict[int, int]:
        """Return the token of each request, -1 where its logits are no numbers; keep logits if somebody wants them.

        Raises:
            NonFinite: The logits of a request are no numbers.
        """
        if -1 in tokens:
            request = requests[tokens.index(-1)]
            at = len(self.sequences.generated.get(request, ())) + 1
            raise NonFinite(
                f"model={self.network.dimensions.name} gave non-finite logits for token {at} of request {request}: "
                f"try dtype=float32 instead of {str(self.network.dtype).removeprefix('torch.')}, or other weights"
            )
        if self.logits is not None and logits is not None:
            for request, row in zip(requests, logits, strict=True):
                self.logits.setdefault(request, []).append(row.clone())
        return dict(zip(requests, tokens, strict=True))


def _nothing() -> None:
    pass
