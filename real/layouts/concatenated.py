"""BATON by concatenation, as its description suggests: the batch is one tensor that is made anew at every change.

Rows are aligned on the right, so that a decode step appends one column for all; newcomers are padded on the left to the
window, and the window is trimmed to the longest live row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from policies.ledger.ledger import Ledger
from policies.plan import Plan
from real.layouts.executor import Executor, Outcome, likeliest
from real.layouts.prefill import Apart, prefill_group
from real.layouts.sequences import Sequences
from real.model.network import Network
from real.model.streams import crossing
from sim.cost.work import Work


class Append:
    """One new column on the right of all rows; every layer's keys and values are copied into new tensors."""

    def __init__(self, executor: Executor, kv: list[Tensor], lengths: Tensor) -> None:
        """Append to `kv`, per layer [2, rows, kv_heads, window, head_dim]; row r fills its last `lengths[r]`."""
        self._attention = executor.network.attention
        self._kv = kv
        window = kv[0].shape[3] + 1
        self.mask = (torch.arange(window, device=lengths.device) >= window - 1 - lengths[:, None])[:, None, None]
        self.launches = self.copied = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Concatenate, and attend over the window."""
        old = self._kv[layer]
        self._kv[layer] = torch.cat([old, torch.stack([key, value])], dim=3)
        if layer == 0:
            self.launches += 1
            self.copied += old.shape[1] * old.shape[3]
        keys, values = self._kv[layer]
        return self._attention(query, keys, values, scale, self.mask)


class Concatenated(Executor):
    """A batch that is concatenated anew when rows join or leave, and column by column as it decodes."""

    def __init__(self, network: Network, ledger: Ledger, sequences: Sequences, max_batch: int) -> None:
        """Start without rows."""
        super().__init__(network, ledger, sequences, max_batch)
        self._kv: list[Tensor] = []
        self._rows: list[int] = []
        self._live: dict[int, int] = {}
        self._new: dict[int, Tensor] = {}
        self._joining: set[int] = set()

    @property
    def kv_slots(self) -> int:
        """KV tokens that the tensors have room for."""
        batch = self._kv[0].shape[1] * self._kv[0].shape[3] if self._kv else 0
        return batch + sum(kv.shape[3] for kv in list(self._new.values()))

    def run(self, lane: int, plan: Plan) -> Outcome:
        """Concatenate what has changed, then decode or prefill."""
        if plan.park or plan.drop:
            raise NotImplementedError("a concatenated batch parks no rows")
        for request in plan.insert:
            self._join(request)
        if plan.decode:
            return self._decode()
        prompts = self.prompts_of(plan.prefill)
        places = self.for_prompts(prompts.lengths)
        work, logits = prefill_group(self, prompts, Apart(places, prompts.lengths), lane)
        self._new.update(zip(prompts.requests, places, strict=True))
        if not plan.apart:
            for request in prompts.requests:
                self._join(request)
        return Outcome(work, self.sample(prompts.requests, logits, lane))

    def finished(self, requests: Sequence[int]) -> None:
        """Let them go at the next concatenation."""
        for request in requests:
            self._live.pop(request, None)
            self._new.pop(request, None)
            self._joining.discard(request)

    def _join(self, request: int) -> None:
        self._live[request] = self._new[request].shape[3]
        self._joining.add(request)

    def _decode(self) -> Outcome:
        copied = self._rebuild() if self._rows != list(self._live) else 0
        lengths = self.tensor(list(self._live.values()))
        ids = self.tensor(self.sequences.last(self._rows))
        step = Append(self, self._kv, lengths)
        everybody = torch.arange(len(ids), device=ids.device)
        logits = self.network.forward(ids[:, None], lengths[:, None], step, everybody)
        tokens, seen = self.landed(torch.stack([likeliest(logits), step.mask.sum(dim=(1, 2, 3))])).tolist()
        read = sum(seen)
        work = Work(
            rows=len(ids),
            inserted_rows=len(self._joining),
            kv_read=read,
            kv_padding=step.mask.numel() - read,
            kv_copied=copied + step.copied,
            attention_launches=step.launches,
        )
        self._joining.clear()
        for request in self._live:
            self._live[request] += 1
        return Outcome(work, self.chosen(self._rows, logits, tokens))

    def _rebuild(self) -> int:
        """Concatenate the rows that are left and those that join; return the KV slots of the result."""
        window = max(self._live.values())
        rows = []
        for request, length in self._live.items():
            new = self._new.pop(request, None)
            kv = crossing(new) if new is not None else self._old(request, length)
            rows.append(torch.nn.functional.pad(kv, (0, 0, window - length, 0)))
        batch = torch.stack(rows, dim=2)
        self._rows, self._kv = list(self._live), list(batch)
        return batch.shape[2] * batch.shape[4]

    def _old(self, request: int, length: int) -> Tensor:
        row = self._rows.index(request)
        return torch.stack([kv[:, row, :, -length:] for kv in self._kv])
