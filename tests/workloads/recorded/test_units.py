"""Units of time are told by name and by size."""

import numpy as np
import pytest

from workloads.recorded.units import PER_SECOND, date, duration, epoch_unit, factor_unit, in_seconds


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("seconds", [1.4e9, 1.79e9, 4.1e9])
def test_a_time_since_1970_shows_its_unit(unit: str, seconds: float) -> None:
    assert epoch_unit(seconds * PER_SECOND[unit]) == unit


@pytest.mark.parametrize("time", [0.0, 3.6e6, 9e8, 5e9, 9e11, 5e12, 9e14, 5e15, 1e20])
def test_other_times_are_none_since_1970(time: float) -> None:
    assert epoch_unit(time) is None


@pytest.mark.parametrize(("unit", "ratio"), [("ms", 1000), ("ms", 1 / 700), ("us", 2e6), ("ns", 1e-9)])
def test_durations_a_thousand_apart_are_in_other_units(unit: str, ratio: float) -> None:
    assert factor_unit(ratio) == unit


@pytest.mark.parametrize("ratio", [1, 10, 300, 0.1, 3.2e4, 0, np.nan, np.inf])
def test_other_ratios_are_not(ratio: float) -> None:
    assert factor_unit(ratio) is None


def test_seconds() -> None:
    assert in_seconds(np.array([1.0, 2500.0]), "ms").tolist() == [0.001, 2.5]
    assert date(1.79e9) == "2026-09-21 14:13:20 UTC"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0125, "12.5 ms"), (0, "0 ms"), (1.1, "1.1 s"), (119, "119 s"), (3600, "60 min"), (86400, "24 h")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
