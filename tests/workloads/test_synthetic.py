"""Synthetic workloads: the length distributions, and the independence of the random streams."""

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import InputError
from workloads import Fixed, LengthDistribution, LogNormal, Synthetic, Uniform, Zipf
from workloads.streams import stream

DISTRIBUTIONS = [Fixed(7), Uniform(3, 90), LogNormal(50.0, 1.5, 2, 400), Zipf(1.1, 4, 300)]


def orca(**options: Any) -> Synthetic:
    """Return the Orca paper's synthetic workload with these options."""
    chosen: dict[str, Any] = {"prompt": Uniform(32, 512), "output": Uniform(1, 128), "num_requests": 500}
    return Synthetic(**(chosen | options))


class TestDistributions:
    """The shapes of the length distributions."""

    @pytest.mark.parametrize("lengths", DISTRIBUTIONS, ids=repr)
    def test_lengths_are_whole_tokens_within_bounds(self, lengths: LengthDistribution) -> None:
        drawn = lengths.sample(stream(0, "prompts"), 20_000)
        assert drawn.dtype == np.int64
        assert drawn.min() >= getattr(lengths, "low", 1)
        assert drawn.max() == lengths.longest

    @pytest.mark.parametrize("lengths", DISTRIBUTIONS, ids=repr)
    @given(small=st.integers(1, 50), more=st.integers(0, 500), seed=st.integers(0, 2**40))
    def test_a_larger_draw_starts_with_the_smaller_one(
        self, lengths: LengthDistribution, small: int, more: int, seed: int
    ) -> None:
        few = lengths.sample(stream(seed, "prompts"), small)
        many = lengths.sample(stream(seed, "prompts"), small + more)
        np.testing.assert_array_equal(few, many[:small])

    def test_uniform_includes_both_ends_equally(self) -> None:
        drawn = Uniform(3, 6).sample(stream(0, "prompts"), 100_000)
        np.testing.assert_allclose(np.bincount(drawn)[3:] / 100_000, 0.25, atol=0.01)

    def test_lognormal_has_its_median_and_sigma(self) -> None:
        drawn = LogNormal(760, 0.985, 1, 10**6).sample(stream(0, "prompts"), 100_000)
        assert np.median(drawn) == pytest.approx(760, rel=0.02)
        assert np.log(drawn).std() == pytest.approx(0.985, rel=0.02)

    def test_zipf_probability_falls_as_a_power_of_the_length(self) -> None:
        counts = np.bincount(Zipf(2.0, 10, 1000).sample(stream(0, "prompts"), 400_000))
        assert counts[10] / counts[20] == pytest.approx(4.0, rel=0.05)

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            (Fixed(0), r"workload\.output\.tokens is 0"),
            (Uniform(0, 5), r"workload\.output\.low is 0"),
            (Uniform(6, 5), r"workload\.output\.low is 6, above workload\.output\.high=5"),
            (Uniform(1, 2**31), r"workload\.output\.high is 2147483648"),
            (LogNormal(0.0, 1.0, 1, 5), r"workload\.output\.median is 0\.0"),
            (LogNormal(4.0, -1.0, 1, 5), r"workload\.output\.sigma is -1\.0"),
            (Zipf(-1.0, 1, 5), r"workload\.output\.exponent is -1\.0"),
            (Zipf(1.0, 1, 10**7), r"workload\.output\.high is 10000000"),
            (128, r"workload\.output is 128: give a distribution"),
        ],
    )
    def test_parameters_that_make_no_distribution_are_refused(self, lengths: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            orca(output=lengths)


class TestStreams:
    """Arrivals, prompts and outputs are drawn apart."""

    def test_another_arrival_process_changes_no_length(self) -> None:
        at_once, poisson = orca().build(1), orca(rate=3.0).build(1)
        np.testing.assert_array_equal(at_once.prompt_tokens, poisson.prompt_tokens)
        np.testing.assert_array_equal(at_once.output_tokens, poisson.output_tokens)

    def test_another_output_distribution_changes_no_prompt_and_no_arrival(self) -> None:
        short, long = orca(rate=3.0).build(1), orca(rate=3.0, output=Zipf(1.0, 1, 900)).build(1)
        np.testing.assert_array_equal(short.prompt_tokens, long.prompt_tokens)
        np.testing.assert_array_equal(short.arrival_s, long.arrival_s)

    def test_prompts_and_outputs_are_independent(self) -> None:
        requests = orca(prompt=Uniform(1, 100), output=Uniform(1, 100), num_requests=50_000).build(1)
        assert abs(np.corrcoef(requests.prompt_tokens, requests.output_tokens)[0, 1]) < 0.02

    def test_the_first_requests_of_a_longer_run_are_those_of_a_shorter_one(self) -> None:
        short, long = orca(rate=3.0).build(1), orca(rate=3.0, num_requests=5000).build(1)
        for name in ("arrival_s", "prompt_tokens", "output_tokens", "max_new_tokens"):
            np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[:500])

    def test_seeds_differ(self) -> None:
        assert (orca().build(1).prompt_tokens != orca().build(2).prompt_tokens).any()

    def test_the_same_seed_gives_the_same_requests_in_another_process(self) -> None:
        program = (
            "from workloads import Synthetic, Uniform;"
            "r = Synthetic(prompt=Uniform(1, 10**6), output=Uniform(1, 9), num_requests=3, rate=1.0).build(7);"
            "print(r.prompt_tokens.tolist(), r.arrival_s.tolist())"
        )
        said = [
            subprocess.run(
                [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True, text=True, check=True,
            ).stdout
            for seed in ("1", "2")
        ]  # fmt: skip
        assert said[0] == said[1] != ""


def test_a_million_requests_take_about_a_second() -> None:
    start = time.perf_counter()
    assert len(orca(num_requests=1_000_000, rate=100.0).build(0)) == 1_000_000
    assert time.perf_counter() - start < 2.0
