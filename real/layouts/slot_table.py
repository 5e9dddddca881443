"""Which slots of a pool the rows of a batch hold, on the device."""

import torch

from real.model.host_memory import Numbers, sent
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
        self._row: dict[int, int] = {}
        self.slots = torch.full((rows, WINDOW_STEP), nobodys, device=device)

    def widen(self, longest: int) -> bool:
        """Make room for rows of so many slots; return whether the table had to move for it."""
        rows, columns = self.slots.shape
        if longest <= columns:
            return False
        narrow, wider = self.slots, -(-longest // WINDOW_STEP) * WINDOW_STEP
        self.slots = narrow.new_full((rows, wider), self._nobodys)
        self.slots[:, :columns] = narrow
        return True

    def hold(self, request: int, slots: Numbers) -> None:
        """Hold a request with these slots, in the row that it has or a new one."""
        row = self._row.setdefault(request, len(self.requests))
        if row == len(self.requests):
            self.requests.append(request)
        self.slots[row, : len(slots)] = sent(slots, self.slots.device)

    def leave(self, request: int) -> None:
        """Let a request go, if it is there; the last row takes its place."""
        row = self._row.pop(request, None)
        if row is None:
            return
        last = self.requests.pop()
        if row < len(self.requests):
            self.requests[row], self._row[last] = last, row
            self.slots[row] = self.slots[len(self.requests)]
        self.slots[len(self.requests)] = self._nobodys
