"""Requests made shorter."""

import numpy as np

from tests.runs import requests_of
from workloads.reshape import capped, scaled

REQUESTS = requests_of([(0, 100, 10), (1, 3, 40), (2, 1, 1)], max_new=50)


def lengths(requests: object) -> list[list[int]]:
    return [getattr(requests, name).tolist() for name in ("prompt_tokens", "output_tokens", "max_new_tokens")]


def test_scaled_lengths_are_rounded_and_at_least_one() -> None:
    shorter = scaled(REQUESTS, 0.1)
    assert lengths(shorter) == [[10, 1, 1], [1, 4, 1], [5, 5, 5]]
    assert np.array_equal(shorter.arrival_s, REQUESTS.arrival_s)
    assert shorter.notes == ("all lengths multiplied by 0.1, max_new_tokens too",)
    assert scaled(REQUESTS, 1) is REQUESTS


def test_a_cap_lowers_what_is_declared_before_it_shortens() -> None:
    shorter = capped(REQUESTS, 55)
    # 100 + 10 becomes 50 + 5; 3 + 50 and 1 + 50 fit as declared.
    assert lengths(shorter) == [[50, 3, 1], [5, 40, 1], [5, 50, 50]]
    assert shorter.notes == (
        "1 request declared fewer max_new_tokens, to need at most 55 tokens",
        "1 request shortened to 55 tokens",
    )
    assert capped(REQUESTS, 150) is REQUESTS


def test_nothing_exceeds_a_cap_however_small() -> None:
    for tokens in (2, 3, 7, 54):
        shorter = capped(REQUESTS, tokens)
        assert (shorter.prompt_tokens + shorter.max_new_tokens <= tokens).all()
