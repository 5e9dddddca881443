"""What a set of requests guarantees to its consumers."""

from typing import Any

import numpy as np
import pytest

from workloads import Requests


def arrays(**changes: Any) -> dict[str, Any]:
    """Return the arrays of three sound requests, with changes."""
    counts = {
        "prompt_tokens": [10, 20, 30],
        "output_tokens": [1, 2, 3],
        "max_new_tokens": [4, 4, 4],
        "priority": [0, 0, 0],
        "prefix_id": [-1, 0, 0],
        "prefix_tokens": [0, 5, 30],
    }
    good: dict[str, Any] = {name: np.array(values) for name, values in counts.items()}
    good["arrival_s"] = np.array([0.0, 0.5, 0.5])
    return good | {name: np.array(value) if isinstance(value, list) else value for name, value in changes.items()}


def test_length_is_the_number_of_requests() -> None:
    assert len(Requests(**arrays())) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_s": [0.0, 0.5, 0.4]}, "ascending"),
        ({"arrival_s": [0.0, 0.5, np.inf]}, "finite"),
        ({"arrival_s": [-1.0, 0.5, 0.6]}, "not negative"),
        ({"arrival_s": [0, 1, 2]}, "arrival_s must be float64"),
        ({"prompt_tokens": [0, 20, 30]}, "prompt_tokens must be at least 1; request 0"),
        ({"output_tokens": [1, 0, 3]}, "output_tokens must be at least 1; request 1"),
        ({"output_tokens": [1, 2]}, r"output_tokens must be int64 \[3\]"),
        ({"output_tokens": [1.0, 2.0, 3.0]}, "output_tokens must be int64"),
        ({"max_new_tokens": [4, 4, 2]}, "max_new_tokens must be at least output_tokens; request 2"),
        ({"prefix_tokens": [0, 5, 31]}, "prefix_tokens must be from 0 to prompt_tokens"),
        ({"prefix_tokens": [1, 5, 30]}, "without a prefix_id"),
        ({"prefix_id": [-2, 0, 0]}, "prefix_id must be -1 or more"),
        ({"concurrency": 2}, "closed loop"),
        ({"concurrency": 0, "arrival_s": [0.0, 0.0, 0.0]}, "closed loop"),
    ],
)
def test_arrays_that_do_not_make_requests_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requests(**arrays(**changes))
