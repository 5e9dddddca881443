"""Which shapes decode steps are computed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import InputError
from sim.engine.execution import EAGER, GRAPHS, Execution


def test_row_buckets_are_powers_of_two_then_multiples_of_eight() -> None:
    assert [GRAPHS.rows(rows, 64) for rows in (1, 2, 3, 4, 5, 8, 9, 16, 17, 64)] == [1, 2, 4, 4, 8, 8, 16, 16, 24, 64]


def test_there_is_no_room_for_more_dummies_than_rows() -> None:
    assert [GRAPHS.rows(rows, 11) for rows in (3, 7, 9, 11)] == [4, 8, 11, 11]


def test_windows_are_multiples_of_128_as_far_as_rows_go() -> None:
    assert [GRAPHS.window(window, 300) for window in (1, 128, 129, 257, 300)] == [128, 128, 256, 300, 300]


@given(rows=st.integers(1, 500), most=st.integers(1, 500), window=st.integers(1, 9000), capacity=st.integers(1, 9000))
def test_a_shape_holds_what_it_is_for_and_is_its_own(rows: int, most: int, window: int, capacity: int) -> None:
    rows, window = min(rows, most), min(window, capacity)
    shape = GRAPHS.rows(rows, most)
    assert rows <= shape <= most and GRAPHS.rows(shape, most) == shape
    columns = GRAPHS.window(window, capacity)
    assert window <= columns <= capacity and GRAPHS.window(columns, capacity) == columns
    assert (EAGER.rows(rows, most), EAGER.window(window, capacity)) == (rows, window)


def test_other_executions_are_refused() -> None:
    with pytest.raises(InputError, match="execution=compiled: unknown; choose one of eager, graphs"):
        Execution("compiled")
