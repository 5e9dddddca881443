"""The union of busy intervals."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim.engine.iteration_log import DTYPE
from sim.metrics.busy import BusyTime

lane = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=30)
"""Gap before each interval, and its length."""


@example(first=[(0, 4)], second=[(0, 1), (0, 1), (1, 1)], size=1)  # lane 1 is logged thrice before lane 0
@given(first=lane, second=lane, size=st.integers(1, 10))
def test_the_union_is_measured_whatever_the_slices(
    first: list[tuple[int, int]], second: list[tuple[int, int]], size: int
) -> None:
    rows, seconds = [], set()
    # As in a run with two lanes, lane 1 ends an iteration before lane 0 does.
    for number, (pairs, clock) in enumerate([(first, second[0][0] + second[0][1]), (second, 0)]):
        for gap, length in pairs:
            rows.append((clock + gap, length, number))
            clock += gap + length
            seconds |= set(range(clock - length, clock))
    log = np.zeros(len(rows), dtype=DTYPE)
    for record, (start, length, number) in zip(log, sorted(rows, key=lambda row: row[0] + row[1]), strict=True):
        record["start_s"], record["duration_s"], record["lane"] = start, length, number
    busy = BusyTime()
    for begin in range(0, len(log), size):
        busy(log[begin : begin + size])
    assert busy.seconds == pytest.approx(len(seconds))
