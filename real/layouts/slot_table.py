"""Which slots of a pool the rows of a batch hold, on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sim.engine.execution import WINDOW_STEP


class SlotTable:
    """Rows 0 to n - 1 are requests; those behind them hold the slot that is nobody's.

    Attributes:
        requests: Whose each row is.
        slots: int64 [rows, columns]; what lies behind a row's own slots means nothing.
    """

    def __init__(self, rows: int, nobodys: int, device: torch.device) -> None:
        """Make a table for so many rows, without requests."""
        self._nobodys = nobodys
        self.requests: list[int] = []
        self._held: dict[int, int] = {}
        self.slots = torch.full((rows, WINDOW_STEP), nobodys, device=device)

    def hold(self, slots: Mapping[int, Tensor]) -> bool:
        """Hold these requests and no others, with these slots; return whether the table had to move for it.

        A row whose request has left is taken by the last one.
        """
        longest = max(map(len, slots.values()))
        moves = longest > self.slots.shape[1]
        if moves:
            wider = -(-longest // WINDOW_STEP) * WINDOW_STEP
            self.slots = self.slots.new_full((len(self.slots), wider), self._nobodys)
            self._held.clear()
        for row in range(len(self.requests) - 1, -1, -1):
            if self.requests[row] not in slots:
                self._remove(row)
        seated = set(self.requests)
        self.requests += [request for request in slots if request not in seated]
        for row, request in enumerate(self.requests):
            if self._held.get(request) != len(slots[request]):
                self._held[request] = len(slots[request])
                self.slots[row, : len(slots[request])] = slots[request]
        return moves

    def _remove(self, row: int) -> None:
        self._held.pop(self.requests[row], None)
        last = self.requests.pop()
        if row < len(self.requests):
            self.requests[row] = last
            self.slots[row] = self.slots[len(self.requests)]
        self.slots[len(self.requests)] = self._nobodys
