"""The embedded ShareGPT statistics give back the conversations' own quantiles."""

import time

import numpy as np
import pytest

from policies.checks import InputError
from workloads import ShareGPT
from workloads.sharegpt import Turns, read_histogram

# Quantiles of the conversations themselves, before they were binned (52,211 first turns; 30,731 multi-turn).
QUANTILES = {
    "first": {"prompt_tokens": {0.5: 32, 0.9: 345, 0.99: 898}, "output_tokens": {0.5: 289, 0.9: 671, 0.99: 984}},
    "multi": {"prompt_tokens": {0.5: 1730, 0.9: 5696, 0.99: 7434}, "output_tokens": {0.5: 415, 0.9: 834, 0.99: 998}},
}
MEANS = {"first": (111.2, 327.9), "multi": (2340.0, 438.7)}


@pytest.mark.parametrize("turns", ["first", "multi"])
def test_quantiles_and_means_are_those_of_the_conversations(turns: Turns) -> None:
    requests = ShareGPT(turns=turns, num_requests=300_000).build(0)
    for column, quantiles in QUANTILES[turns].items():
        for quantile, tokens in quantiles.items():
            assert np.quantile(getattr(requests, column), quantile) == pytest.approx(tokens, rel=0.035)
    assert requests.prompt_tokens.mean() == pytest.approx(MEANS[turns][0], rel=0.02)
    assert requests.output_tokens.mean() == pytest.approx(MEANS[turns][1], rel=0.02)


@pytest.mark.parametrize(
    ("turns", "shortest", "longest_prompt", "longest_output", "longest_total"),
    [("first", (4, 4), 1023, 1614, 2048), ("multi", (1, 2), 8141, 1024, 8192)],
)
def test_lengths_keep_to_the_filter_of_the_source(
    turns: Turns, shortest: tuple[int, int], longest_prompt: int, longest_output: int, longest_total: int
) -> None:
    requests = ShareGPT(turns=turns, num_requests=300_000).build(0)
    assert requests.prompt_tokens.min() >= shortest[0]
    assert requests.output_tokens.min() >= shortest[1]
    assert requests.prompt_tokens.max() <= longest_prompt
    assert requests.output_tokens.max() <= longest_output
    assert (requests.prompt_tokens + requests.output_tokens).max() <= longest_total
    assert set(requests.max_new_tokens) == {longest_output}


@pytest.mark.parametrize(("turns", "conversations"), [("first", 52_211), ("multi", 30_731)])
def test_the_histogram_counts_every_conversation_once(turns: Turns, conversations: int) -> None:
    histogram = read_histogram(turns)
    assert histogram.counts.sum() == conversations
    np.testing.assert_array_equal(histogram.prompt_low[1:], histogram.prompt_high[:-1] + 1)
    np.testing.assert_array_equal(histogram.output_low[1:], histogram.output_high[:-1] + 1)


def test_cells_are_drawn_by_their_counts() -> None:
    histogram = read_histogram("first")
    requests = ShareGPT(num_requests=200_000).build(0)
    edges = np.append(histogram.prompt_low, histogram.prompt_high[-1] + 1)
    outputs = np.append(histogram.output_low, histogram.output_high[-1] + 1)
    drawn, _, _ = np.histogram2d(requests.prompt_tokens, requests.output_tokens, bins=[edges, outputs])
    np.testing.assert_allclose(drawn / 200_000, histogram.counts / histogram.counts.sum(), atol=0.0015)


def test_the_first_requests_of_a_longer_run_are_those_of_a_shorter_one() -> None:
    short, long = ShareGPT(num_requests=100).build(3), ShareGPT(num_requests=3000).build(3)
    np.testing.assert_array_equal(short.prompt_tokens, long.prompt_tokens[:100])
    np.testing.assert_array_equal(short.output_tokens, long.output_tokens[:100])


def test_another_arrival_process_changes_no_length() -> None:
    at_once, poisson = ShareGPT(num_requests=100).build(3), ShareGPT(num_requests=100, rate=2.0).build(3)
    np.testing.assert_array_equal(at_once.prompt_tokens, poisson.prompt_tokens)
    np.testing.assert_array_equal(at_once.output_tokens, poisson.output_tokens)


def test_a_million_requests_take_about_a_second() -> None:
    start = time.perf_counter()
    assert len(ShareGPT(num_requests=1_000_000, rate=10.0).build(0)) == 1_000_000
    assert time.perf_counter() - start < 2.0


def test_unknown_turns_are_refused() -> None:
    with pytest.raises(InputError, match=r"workload\.turns is 'second': choose one of first, multi"):
        ShareGPT(turns="second", num_requests=1)  # type: ignore[arg-type]
