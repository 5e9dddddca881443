"""A resampled trace: blocks of the recorded one, with everything that belongs to a request."""

import numpy as np
import pytest

from tests.runs import requests_of
from workloads.requests import Requests
from workloads.reshape import block_length, resampled

COUNT = 50


def recorded() -> Requests:
    """Requests that tell their place: prompts of 1, 2, 3, ... tokens, gaps of 1, 2, 3, ... s before them."""
    arrival = np.cumsum(np.arange(COUNT)).astype(float)
    return requests_of([(at, place + 1, place + 1) for place, at in enumerate(arrival)])


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_contiguous_and_bring_their_gaps(seed: int) -> None:
    drawn = resampled(recorded(), seed, arrivals_too=True)
    size = block_length(COUNT)
    assert (len(drawn), size) == (COUNT, 8)
    place = drawn.prompt_tokens - 1
    assert (drawn.output_tokens == drawn.prompt_tokens).all() and (drawn.max_new_tokens == drawn.prompt_tokens).all()
    breaks = np.flatnonzero(np.diff(place) % COUNT != 1) + 1
    assert (breaks % size == 0).all() and len(breaks) > 0
    gaps = np.diff(drawn.arrival_s)
    assert gaps.tolist() == np.where(place == 0, COUNT / 2, place)[1:].tolist()
    assert drawn.arrival_s[0] == 0


def test_every_request_is_drawn_as_often() -> None:
    drawn = np.concatenate([resampled(recorded(), seed, True).prompt_tokens for seed in range(2000)])
    counts = np.bincount(drawn, minlength=COUNT + 1)[1:]
    assert counts.min() > 0.9 * 2000 and counts.max() < 1.1 * 2000


def test_other_arrivals_are_kept_and_seeds_matter() -> None:
    requests = recorded()
    assert (resampled(requests, 3, arrivals_too=False).arrival_s == requests.arrival_s).all()
    assert (resampled(requests, 3, True).prompt_tokens == resampled(requests, 3, True).prompt_tokens).all()
    assert (resampled(requests, 3, True).prompt_tokens != resampled(requests, 4, True).prompt_tokens).any()
    assert len(resampled(requests_of([(2.0, 3, 4)]), 0, True)) == 1
