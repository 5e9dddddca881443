"""BATON's batch: rows of one rectangle, aligned on the left, re-batched in place.

Row r holds its keys and values in columns [0, length); a decode step writes column `length` and a mask hides the rest,
so nothing shifts when rows join or leave. Where rows lie and how large the rectangle is, is the KV book's to say;
before every step the tensors are brought to what it says, and what that copied is counted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policies.ledger.ledger import Ledger
from policies.ledger.rectangle import Rectangle
from policies.plan import Plan
from real.layouts.executor import Executor, Outcome, Prompts, Rows
from real.layouts.prefill import Apart, InPlace, prefill_group
from real.layouts.seats import Seats
from real.layouts.sequences import Sequences
from real.model.attention import Places, RowStep
from real.model.network import Network
from real.model.streams import crossing
from sim.cost.work import Work


def in_words(kv: Tensor) -> Tensor:
    """View keys and values as words, where heads have whole ones: a copy moves eight bytes at once, of any type."""
    return kv.view(torch.int64) if kv.shape[-1] * kv.element_size() % 8 == 0 else kv


class Decode(RowStep):
    """One new token for each of the first rows of a rectangle, attending over the window that all of them share."""

    whole = True

    def __init__(self, executor: Executor, buffer: Tensor, lengths: Tensor, window: int) -> None:
        """Decode rows 0 to n - 1 of `buffer` [layers, 2, rows, kv_heads, capacity, head_dim], `lengths` [n]."""
        self._attention = executor.network.attention
        self._rows = torch.arange(len(lengths), device=lengths.device)
        self._lengths = self.positions = lengths
        self._view = buffer[:, :, : len(lengths), :, :window]
        self._mask, self.seen = None, lengths + 1
        if not self._attention.by_kernel(buffer):
            self._mask = (torch.arange(window, device=lengths.device) <= lengths[:, None])[:, None, None]
            self.seen = self._mask.sum(dim=(1, 2, 3))
        self.launches = 0

    def places(self, layer: int) -> Places:
        """One column of each row."""
        keys, values = self._view[layer]
        return Places(keys, values, self._lengths, self._rows)

    def attend_placed(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attend over the window, or over what a row has of it."""
        keys, values = self._view[layer]
        self.launches += layer == 0
        if self._mask is not None:
            return self._attention(query, keys, values, scale, self._mask)
        return self._attention.rows(query[:, :, 0], keys, values, scale, self._lengths, whole=self.whole)[:, None]


class RaggedDecode(Decode):
    """The same, each row attending over its own columns only."""

    whole = False


class Rectangular(Executor):
    """An in-place batch KV cache, beside it what is prefilled and what is parked in host memory."""

    step = Decode

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without a rectangle."""
        super().__init__(network, ledger, sequences, max_batch)
        assert isinstance(ledger.book, Rectangle)
        self.book = ledger.book
        self._buffer = self._allocate(0, 0)
        self._place: dict[int, int] = {}
        self._steps = 0
        self._offset: dict[int, int] = {}
        self._beside: dict[int, Tensor] = {}
        self._host: dict[int, Tensor] = {}
        self._fresh: set[int] = set()
        self._seats: Seats | None = None

    @property
    def kv_slots(self) -> int:
        """KV tokens that the tensors on the device have room for."""
        beside = sum(kv.shape[3] for kv in list(self._beside.values()))
        return self._buffer.shape[2] * self._buffer.shape[4] + beside

    def _allocate(self, rows: int, capacity: int) -> Tensor:
        model = self.network.dimensions
        return self.zeros(model.layers, 2, rows, model.kv_heads, capacity, model.head_dim)

    def run(self, lane: int, plan: Plan) -> Outcome:
        """Bring the tensors to where the book says, then decode or prefill."""
        if self._seats is None:
            crossing(self._buffer)
        copied, host = self._arrange(plan) if lane == 0 else (0, 0)
        if plan.prefill and plan.decode:
            work, tokens = self._mixed(self.prompts_of(plan.prefill))
        elif plan.decode:
            work, tokens = self._decode()
        elif plan.prefill:
            work, tokens = self._prefill(self.prompts_of(plan.prefill), lane, plan.apart)
        else:
            work, tokens = Work(lane), {}
        return Outcome(work._replace(kv_copied=copied, kv_host=host) if copied or host else work, tokens)

    def finished(self, requests: Sequence[int]) -> None:
        """Make holes of their rows; forget what lay beside."""
        for request in requests:
            self._forget(request)

    def _forget(self, request: int) -> None:
        for store in (self._place, self._offset, self._beside):
            store.pop(request, None)
        self._fresh.discard(request)
        self._seats = None

    def _length(self, request: int) -> int:
        """Tokens of a row: all rows grow by one at every step, so that none need be visited."""
        return self._offset[request] + self._steps

    # the rectangle, brought to what the book says

    def _arrange(self, plan: Plan) -> tuple[int, int]:
        """Park, reshape, embed and compact; return the KV tokens copied on the device, and to or from the host."""
        copied = host = 0
        for request in plan.park:
            self._host[request] = self._row(request).to("cpu", copy=True)
            host += self._host[request].shape[3]
            self._forget(request)
        for request in plan.drop:
            self._dropped[request] = self._length(request)
            self._forget(request)
        copied += self._reshape()
        if self._seats is not None and not plan.insert:
            return copied, host  # everybody is where the book says
        places = self._places_by_book()
        for request in plan.insert:
            parked = self._host.pop(request, None)
            if parked is not None:
                host += self._embed(request, parked, places[request])
            else:
                copied += self._embed(request, self._beside.pop(request), places[request])
        if plan.decode:
            for request, place in self._place.items():
                if places[request] != place:
                    copied += self._embed(request, self._row(request), places[request])
        return copied, host

    def _places_by_book(self) -> dict[int, int]:
        return {request: place for place, request in enumerate(self.book.slots) if request is not None}

    def _row(self, request: int) -> Tensor:
        """The keys and values of a row, [layers, 2, kv_heads, length, head_dim]."""
        return self._buffer[:, :, self._place[request], :, : self._length(request)]

    def _embed(self, request: int, kv: Tensor, place: int) -> int:
        """Copy keys and values into a row; return how many tokens."""
        length = kv.shape[3]
        in_words(self._buffer)[:, :, place, :, :length] = in_words(crossing(kv))
        if request not in self._offset:
            self._offset[request] = length - self._steps
            self._fresh.add(request)
        self._place[request] = place
        self._seats = None
        return length

    def _reshape(self) -> int:
        """Give the rectangle the book's shape; return the tokens copied from the old one."""
        shape = self.book.rows, self.book.capacity
        if shape == (self._buffer.shape[2], self._buffer.shape[4]):
            return 0
        self.graphs.forget()
        self._seats = None
        rows = {request: self._row(request) for request in self._place}
        if not rows:
            self._buffer = self._allocate(0, 0)  # the old one may go before the new one comes
        self._buffer = self._allocate(*shape)
        places = self._places_by_book()
        for request, row in rows.items():
            self._place[request] = places[request]
            in_words(self._buffer)[:, :, places[request], :, : row.shape[3]] = in_words(row)
        return sum(row.shape[3] for row in rows.values())

    # what a step computes

    def _decode(self) -> tuple[Work, dict[int, int]]:
        seats = self._seats = self._seats or self._seated()
        count, (most, capacity) = len(seats.requests), (self._buffer.shape[2], self._buffer.shape[4])
        rows, window = self.execution.rows(count, most), self._window(seats.longest + 1, capacity)
        made = self.decode(seats, rows, (rows, window), lambda lengths: self.step(self, self._buffer, lengths, window))
        read = sum(made.seen[:count])
        work = Work(
            rows=count,
            inserted_rows=len(self._fresh),
            kv_read=read,
            attention_launches=made.launches,
            dummy_rows=made.dummies,
            **self._not_read(made, read, window),
        )
        self._steps += 1
        self._fresh.clear()
        return work, made.tokens

    def _seated(self) -> Seats:
        requests = sorted(self._place, key=self._place.__getitem__)
        assert [self._place[request] for request in requests] == list(range(len(requests)))
        return Seats(requests, self.sequences.last(requests), [*map(self._length, requests)])

    def _window(self, window: int, capacity: int) -> int:
        """Columns of the view that a step is given."""
        return self.execution.window(window, capacity)

    def _not_read(self, made: Rows, read: int, window: int) -> dict[str, int]:
        """Count the KV slots that were read and hold nothing of a request's."""
        live = len(made.tokens)
        return {"kv_padding": live * window - read, "kv_dummy": made.dummies * window}

    def _prefill(self, prompts: Prompts, lane: int, apart: bool) -> tuple[Work, dict[int, int]]:
        if apart:
            places = self.for_prompts(prompts.lengths)
            work, logits = prefill_group(self, prompts, Apart(places, prompts.lengths), lane)
            self._beside.update(zip(prompts.requests, places, strict=True))
        else:
            self._reshape()
            rows = self._seat(prompts)
            work, logits = prefill_group(self, prompts, InPlace(self, self._buffer, rows, prompts.lengths), lane)
        return work, self.sample(prompts.requests, logits, lane)

    def _seat(self, prompts: Prompts) -> list[int]:
        """Give the prompts the rows that the book has for them."""
        places = self._places_by_book()
        for request, length in zip(prompts.requests, prompts.lengths, strict=True):
            self._place[request], self._offset[request] = places[request], length - self._steps
            self._fresh.add(request)
        self._seats = None
        return [places[request] for request in prompts.requests]

    def _mixed(self, prompts: Prompts) -> tuple[Work, dict[int, int]]:
        raise NotImplementedError("a rectangle of its own decodes or prefills; only a shared one does both at once")


class RaggedRectangular(Rectangular):
    """The same memory under an attention that reads as much of each row as there is."""

    step = RaggedDecode

    def _window(self, window: int, capacity: int) -> int:
        return capacity if self.execution.captured else window

    def _not_read(self, made: Rows, read: int, window: int) -> dict[str, int]:
        return {"kv_dummy": sum(made.seen) - read}


class Shared:
    """Newcomers and rows in one rectangle of queries, as wide as the longest newcomer."""

    def __init__(self, executor: Executor, buffer: Tensor, first: Sequence[int], counts: Sequence[int]) -> None:
        """Row r of `buffer` gets `counts[r]` tokens from column `first[r]` on."""
        self._attention = executor.network.attention
        start, count = np.asarray(first)[:, None], np.asarray(counts)[:, None]
        query = np.arange(count.max())
        positions = start + np.minimum(query, count - 1)
        real = query < count
        window = int((start + count).max())
        self.positions = executor.tensor(positions)
        self._rows, self._queries, self._columns = executor.tensor(np.stack([*real.nonzero(), positions[real]]))
        self._view = buffer[:, :, : len(counts), :, :window]
        column = torch.arange(window, device=buffer.device)
        self.mask = (column <= self.positions[:, :, None])[:, None]
        self.launches = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Write the columns of real tokens, and attend over the window."""
        keys, values = self._view[layer]
        keys[self._rows, :, self._columns] = key[self._rows, :, self._queries]
        values[self._rows, :, self._columns] = value[self._rows, :, self._queries]
        self.launches += layer == 0
        return self._attention(query, keys, values, scale, self.mask)


class SharedRectangular(Rectangular):
    """Orca on a rectangle: newcomers are padded into the batch, and everybody computes as many slots as the longest."""

    def _mixed(self, prompts: Prompts) -> tuple[Work, dict[int, int]]:
        decoding = sorted(self._place, key=self._place.__getitem__)
        lengths = {request: self._length(request) for request in decoding}
        inserted = len(self._fresh)
        self._seat(prompts)
        requests = sorted(self._place, key=self._place.__getitem__)
        new = dict(zip(prompts.requests, prompts.ids, strict=True))
        last = dict(zip(decoding, self.sequences.last(decoding), strict=True))
        rows = [new.get(request) or [last[request]] for request in requests]
        ids, counts = self.padded(rows), [len(row) for row in rows]
        step = Shared(self, self._buffer, [lengths.get(request, 0) for request in requests], counts)
        ends = self.tensor([row * ids.shape[1] + count - 1 for row, count in enumerate(counts)])
        tokens = self.sample(requests, self.network.forward(ids, step.positions, step, ends))
        self._steps += 1
        for request in prompts.requests:
            self._offset[request] -= 1  # they were only prefilled
        window = step.mask.shape[-1]
        read = sum(length + 1 for length in lengths.values())
        done = prompts.counts()
        work = Work(
            rows=len(decoding),
            inserted_rows=inserted,
            insertion_padding=ids.numel() - done["prefill_tokens"] - len(decoding),
            insertion_padding_pairs=step.mask.numel() - len(decoding) * window - done["prefill_pairs"],
            kv_read=read,
            kv_padding=len(decoding) * window - read,
            attention_launches=step.launches,
            **done,
        )
        self._fresh = set(prompts.requests)
        return work, tokens
