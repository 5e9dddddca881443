"""The fit: from logs that were made with known costs it must bring these costs back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from real.profiling.fit import Measured, fit_layout, non_negative, places, predicted
from sim.cost.profile import LayoutCost
from sim.cost.terms import Term
from sim.cost.work import Work
from sim.engine.iteration_log import DTYPE, Slice

ROWS = [0.010, 0.011, 0.013, 0.012, 0.016, 0.018, 0.019, 0.021]
"""Decode steps of 1 to 8 rows, in seconds: not monotone, as on real machines."""

TRUTH = [
    Term(name="decode", phase="decode", of="iterations", by="rows", at=list(range(1, 9)), seconds=ROWS),
    Term(name="decode_kv", phase="decode", of="kv", seconds=[3e-6]),
    Term(name="prefill", phase="prefill", of="iterations", by="slots", at=[1, 64, 1024], seconds=[0.008, 0.040, 0.500]),
    Term(name="prefill_prompts", phase="prefill", of="prompts", seconds=[4e-4]),
    Term(name="prefill_pairs", phase="prefill", of="pairs", seconds=[2e-7]),
    Term(name="mixed", phase="mixed", of="iterations", by="slots", at=[2, 1024], seconds=[0.012, 0.600]),
    Term(name="mixed_kv", phase="mixed", of="kv", seconds=[5e-6]),
    Term(name="copies", phase="any", of="kv_copied", seconds=[1e-6]),
]
SHAPES = 40


def log(works: Sequence[Work]) -> Slice:
    records = np.zeros(len(works), dtype=DTYPE)
    for name, column in zip(Work._fields, zip(*works, strict=True), strict=True):
        records[name] = column
    records["steps"] = 1
    return records


def works(count: int, rng: np.random.Generator) -> list[Work]:
    """Random iterations of every phase."""
    made = []
    for phase in rng.choice(["decode", "prefill", "mixed"], count, p=[0.6, 0.25, 0.15]):
        rows, length = int(rng.integers(1, 9)), int(rng.integers(10, 500))
        prompts, tokens = int(rng.integers(1, 5)), int(np.exp(rng.uniform(np.log(8), np.log(250))))
        decode = {"rows": rows, "kv_read": rows * length, "kv_padding": int(rng.integers(0, 500))}
        prefill = {
            "prefill_rows": prompts,
            "prefill_tokens": prompts * tokens,
            "prefill_pairs": prompts * tokens * (tokens + 1) // 2,
        }
        inserted = {"inserted_rows": 1, "kv_copied": length} if rng.random() < 0.2 else {}
        fields: dict[str, dict[str, int]] = {"decode": decode | inserted, "prefill": prefill, "mixed": decode | prefill}
        made.append(Work(attention_launches=1, **fields[phase]))
    return made


def measured(noise: float = 0.0, delayed: float = 0.0, count: int = 1500) -> Measured:
    """A log whose durations the known costs give, with relative noise and a share of delays by other programs."""
    rng = np.random.default_rng(0)
    records = log(works(count, rng))
    seconds = predicted(TRUTH, records) * rng.lognormal(0, noise, count)
    records["duration_s"] = np.where(rng.random(count) < delayed, seconds + 0.2, seconds)
    return Measured(records, rng.integers(0, SHAPES, count), np.full(count, 2e-4))


def coefficients(costs: LayoutCost, name: str) -> Term:
    return next(term for term in costs.terms if term.name == name)


def test_known_costs_come_back() -> None:
    costs = fit_layout("rectangle", measured(), held_out=range(8))
    assert coefficients(costs, "decode").seconds == pytest.approx(ROWS, rel=5e-3)
    assert coefficients(costs, "decode_kv").seconds == pytest.approx([3e-6], rel=5e-3)
    assert coefficients(costs, "copies").seconds == pytest.approx([1e-6], rel=0.02)
    assert coefficients(costs, "mixed_kv").seconds == pytest.approx([5e-6], rel=0.03)
    assert coefficients(costs, "prefill").coefficient(512) == pytest.approx(0.040 + 448 / 960 * 0.460, rel=0.01)
    assert coefficients(costs, "between_iterations").seconds == pytest.approx([2e-4])


def test_noise_is_averaged_out_and_its_size_told() -> None:
    costs = fit_layout("rectangle", measured(noise=0.05), held_out=range(8))
    assert coefficients(costs, "decode").seconds == pytest.approx(ROWS, rel=0.02)
    assert {fit.phase for fit in costs.fits} == {"decode", "prefill", "mixed"}
    for fit in costs.fits:
        assert fit.held_out_error == pytest.approx(0.0, abs=0.02)
        assert fit.held_out_spread == pytest.approx(0.04, abs=0.02)
        assert fit.r2 is not None and fit.r2 > 0.85
    assert coefficients(costs, "decode_kv").r2 == pytest.approx(0.8, abs=0.2)


def test_delays_neither_bend_the_costs_nor_get_lost() -> None:
    data = measured(noise=0.02, delayed=0.02)
    costs = fit_layout("rectangle", data)
    table = np.array(coefficients(costs, "decode").seconds) / ROWS
    np.testing.assert_allclose(table / table.mean(), 1.0, atol=0.02)
    decode = data.records[(data.records["rows"] > 0) & (data.records["prefill_rows"] == 0)]
    assert predicted(costs.terms[:-1], decode).sum() == pytest.approx(decode["duration_s"].sum(), rel=0.005)


def test_held_out_shapes_betray_costs_that_the_terms_cannot_say() -> None:
    data = measured(noise=0.01)
    strange = data.shape < 8
    data.records["duration_s"][strange] *= 1.5
    costs = fit_layout("rectangle", data, held_out=range(8))
    assert all(fit.held_out_error == pytest.approx(-1 / 3, abs=0.03) for fit in costs.fits)


def test_what_did_not_occur_or_cannot_be_told_apart_has_no_term() -> None:
    data = measured(noise=0.01)
    data.records["attention_launches"] = data.records["rows"] + data.records["prefill_rows"]
    data.records["kv_copied"] = 0
    names = {term.name for term in fit_layout("selective_per_request", data).terms}
    assert not names & {"copies", "host_copies"}
    only = data.of((data.records["prefill_rows"] == 0) & (data.records["rows"] == 3))
    assert {"prefill", "mixed"}.isdisjoint(term.name for term in fit_layout("static", only).terms)


def test_a_table_has_all_of_a_few_places_and_even_steps_of_many() -> None:
    assert places(np.array([1, 2, 2, 5, 8.0])) == [1, 2, 5, 8]
    values: Any = np.arange(1, 2000, dtype=np.float64)
    at = places(values)
    assert at[0] == 1 and at[-1] == 1999 and len(at) <= 24


def test_no_coefficient_is_negative_and_the_others_make_up_for_it() -> None:
    rng = np.random.default_rng(0)
    system, wanted = rng.random((200, 6)), np.array([1.0, 0.0, 2.0, -1.0, 0.5, -0.2])
    target = system @ wanted
    found = non_negative(system, target)
    left = system.T @ (target - system @ found)
    assert (found >= 0).all() and (left < 1e-8).all(), "more of any coefficient would not help"
    assert np.abs(left[found > 0]).max() < 1e-8, "nor less of one that counts"
    np.testing.assert_allclose(non_negative(system, system @ np.abs(wanted)), np.abs(wanted), atol=1e-9)
