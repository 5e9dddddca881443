"""The options that all workloads share: what they mean, and that none is silently ignored."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import InputError
from workloads import Fixed, Synthetic, Uniform
from workloads.options import Declaration


def synthetic(**options: Any) -> Synthetic:
    """Return the Orca paper's synthetic workload with these options."""
    chosen: dict[str, Any] = {"prompt": Uniform(32, 512), "output": Uniform(1, 128), "num_requests": 1000}
    return Synthetic(**(chosen | options))


class TestArrivals:
    """When requests come."""

    def test_all_at_once_is_the_default(self) -> None:
        requests = synthetic().build(0)
        assert not requests.arrival_s.any()
        assert requests.arrivals == "all at once"

    def test_a_rate_alone_means_poisson(self) -> None:
        alone, said = synthetic(rate=4.0).build(0), synthetic(rate=4.0, arrival="poisson").build(0)
        np.testing.assert_array_equal(alone.arrival_s, said.arrival_s)
        assert alone.arrivals == "poisson, 4 requests/s"

    @pytest.mark.parametrize(
        ("options", "cv"),
        [
            ({"arrival": "poisson"}, 1.0),
            ({"arrival": "gamma", "cv": 0.5}, 0.5),
            ({"arrival": "gamma", "cv": 3.0}, 3.0),
            ({"arrival": "constant"}, 0.0),
        ],
    )
    def test_gaps_have_the_rate_and_the_variation_asked_for(self, options: dict[str, Any], cv: float) -> None:
        gaps = np.diff(synthetic(rate=8.0, num_requests=200_000, **options).build(0).arrival_s)
        assert 1 / gaps.mean() == pytest.approx(8.0, rel=0.03)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-6)

    def test_constant_arrivals_start_at_zero(self) -> None:
        requests = synthetic(arrival="constant", rate=4, num_requests=3).build(0)
        assert requests.arrival_s.tolist() == [0.0, 0.25, 0.5]

    def test_a_closed_loop_has_clients_instead_of_times(self) -> None:
        requests = synthetic(arrival="closed_loop", concurrency=16).build(0)
        assert requests.concurrency == 16
        assert not requests.arrival_s.any()

    def test_twice_the_rate_is_the_same_pattern_twice_as_fast(self) -> None:
        slow, fast = synthetic(rate=2.0).build(0), synthetic(rate=4.0).build(0)
        np.testing.assert_allclose(slow.arrival_s, 2 * fast.arrival_s)


class TestDeclaration:
    """What the scheduler is told of the output length."""

    def test_max_declares_the_cap_for_all(self) -> None:
        requests = synthetic(max_new_cap=200).build(0)
        assert set(requests.max_new_tokens) == {200}
        assert requests.declared == "max (cap 200)"

    def test_max_without_a_cap_declares_the_longest_possible_output(self) -> None:
        requests = synthetic(num_requests=2).build(0)
        assert set(requests.max_new_tokens) == {128}

    def test_oracle_declares_the_output(self) -> None:
        requests = synthetic(max_new_tokens="oracle").build(0)
        np.testing.assert_array_equal(requests.max_new_tokens, requests.output_tokens)
        assert requests.declared == "oracle"

    @given(st.integers(1, 2**31 - 1))
    def test_pow2_rounds_up_to_the_next_power_of_two(self, output: int) -> None:
        declared = int(Declaration("pow2").declare(np.array([output]), longest=2**31)[0])
        assert declared.bit_count() == 1
        assert output <= declared < 2 * output or output == declared == 1

    def test_pow2_stays_below_the_cap(self) -> None:
        requests = synthetic(max_new_tokens="pow2", max_new_cap=130, output=Fixed(129)).build(0)
        assert set(requests.max_new_tokens) == {130}
        assert requests.declared == "pow2 (cap 130)"

    @pytest.mark.parametrize("rule", ["max", "pow2", "oracle"])
    def test_an_output_above_the_cap_is_refused(self, rule: str) -> None:
        with pytest.raises(InputError, match=r"raise workload\.max_new_cap \(to 128"):
            synthetic(max_new_tokens=rule, max_new_cap=64).build(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_requests": 0}, r"workload\.num_requests is 0: give a whole number from 1"),
        ({"num_requests": None}, r"workload\.num_requests is null"),
        ({"num_requests": 2.5}, r"workload\.num_requests is 2\.5"),
        ({"num_requests": True}, r"workload\.num_requests is True"),
        ({"num_requests": "many"}, r"workload\.num_requests is 'many'"),
        ({"num_requests": 10**12}, r"from 1 to 100000000"),
        (
            {"arrival": "possion"},
            r"workload\.arrival is 'possion': did you mean poisson\? choose one of poisson, gamma",
        ),
        ({"arrival": "trace"}, r"workload\.arrival=trace needs a recorded trace"),
        ({"arrival": "poisson"}, r"workload\.arrival=poisson needs workload\.rate"),
        ({"arrival": "constant"}, r"workload\.arrival=constant needs workload\.rate"),
        ({"arrival": "gamma", "rate": 1.0}, r"workload\.arrival=gamma needs workload\.cv"),
        ({"arrival": "closed_loop"}, r"workload\.arrival=closed_loop needs workload\.concurrency"),
        ({"arrival": "poisson", "rate": 0}, r"workload\.rate is 0"),
        ({"arrival": "poisson", "rate": -1.0}, r"workload\.rate is -1\.0"),
        ({"arrival": "poisson", "rate": float("nan")}, r"workload\.rate is nan"),
        ({"arrival": "poisson", "rate": float("inf")}, r"workload\.rate is inf"),
        ({"arrival": "poisson", "rate": "fast"}, r"workload\.rate is 'fast'"),
        ({"arrival": "gamma", "rate": 1.0, "cv": 0}, r"workload\.cv is 0"),
        ({"arrival": "closed_loop", "concurrency": 0}, r"workload\.concurrency is 0"),
        ({"arrival": "closed_loop", "concurrency": 1.5}, r"workload\.concurrency is 1\.5"),
        ({"arrival": "poisson", "rate": 1.0, "cv": 2.0}, r"workload\.cv=2\.0 has no use .*=null, or .*=gamma"),
        ({"arrival": "all_at_once", "rate": 1.0}, r"workload\.rate=1\.0 has no use .*poisson\|gamma\|constant"),
        ({"arrival": "closed_loop", "concurrency": 4, "rate": 1.0}, r"workload\.rate=1\.0 has no use"),
        ({"concurrency": 4}, r"workload\.concurrency=4 has no use .*workload\.arrival=closed_loop"),
        ({"rate_multiplier": 2.0}, r"workload\.rate_multiplier=2\.0 has no use .*workload\.arrival=trace"),
        ({"max_new_tokens": "exact"}, r"workload\.max_new_tokens is 'exact': choose one of max, pow2, oracle"),
        ({"max_new_tokens": 512}, r"workload\.max_new_tokens is 512: choose one of"),
        ({"max_new_cap": 0}, r"workload\.max_new_cap is 0"),
    ],
)
def test_bad_missing_or_useless_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        synthetic(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "one", True, None])
def test_a_seed_must_be_a_whole_number(seed: Any) -> None:
    with pytest.raises(InputError, match="seed is"):
        synthetic().build(seed)


def test_an_error_is_one_line_even_if_the_value_is_long() -> None:
    with pytest.raises(InputError) as refusal:
        synthetic(arrival="x\n" * 1000)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 250
