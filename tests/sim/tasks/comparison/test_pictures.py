"""Pictures: what is drawn is what was measured, also where there is little or nothing to draw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure

from policies.checks import InputError
from sim.metrics.metrics import Summary
from sim.metrics.occupancy import Occupancy, Series
from sim.metrics.request_columns import request_columns
from sim.reporting import axes, series
from sim.tasks.comparison import pictures
from tests.sim.small_run import POLICIES, make_requests, run


@dataclass
class Outcome:
    summary: Summary
    columns: dict[str, npt.NDArray[Any]]
    occupancy: Series


def outcome(policy: str) -> Outcome:
    done = run(POLICIES[policy], make_requests(rate=0.0))
    occupancy = Occupancy()
    occupancy(done.log)
    columns = request_columns(done.requests, done.request_log, done.policy.traits.release_with_batch)
    return Outcome(done.summary(), columns, occupancy.series())


THREE = {name: outcome(name) for name in ("run_to_completion", "orca", "baton")}
NOTHING = Outcome(
    {"saturated": None, "output_throughput": None, "idle_time_fraction_stall": float("nan")},
    {"ttft_s": np.full(3, np.nan), "e2e_s": np.empty(0)},
    Occupancy().series(),
)


@pytest.mark.parametrize(
    "outcomes",
    [
        {f"policy_{number}_with_a_name_that_is_longer_than_a_line": THREE["baton"] for number in range(7)}
        | {"nothing": NOTHING},
        {"nothing": NOTHING},
    ],
    ids=["eight", "empty"],
)
def test_every_picture_is_written(tmp_path: Path, outcomes: dict[str, Outcome]) -> None:
    paths = pictures.write_plots(tmp_path, outcomes)
    assert paths[0].name == "comparison.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert len(paths) == 5
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"comparison\.png: cannot be written"):
        pictures.write_plots(tmp_path / "gone", {"nothing": NOTHING})


def test_bars_have_the_lengths_of_the_summary() -> None:
    panel = Figure().subplots()
    axes.draw_idle(panel, THREE)
    ends = np.zeros(3)
    for container in panel.containers:
        ends = np.array([bar.get_x() + bar.get_width() for bar in container])
    expected = [100 * float(each.summary["idle_time_fraction"] or 0) for each in THREE.values()]
    np.testing.assert_allclose(ends, expected)
    assert max(expected) > 10
    panel = Figure().subplots()
    axes.draw_throughput(panel, THREE)
    for container, key in zip(panel.containers, ("saturated_output_throughput", "output_throughput"), strict=True):
        widths = [bar.get_width() for bar in container]
        assert widths == [each.summary[key] for each in THREE.values()]


def test_a_distribution_is_thinned_but_exact_where_it_is_drawn() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=100_003)
    drawn, shares = series.distribution(np.append(values, np.nan))
    assert len(drawn) == 501
    assert (drawn[0], drawn[-1], shares[-1]) == (values.min(), values.max(), 1)
    below = np.searchsorted(np.sort(values), drawn, side="right") / len(values)
    np.testing.assert_allclose(shares, below)
    few, steps = series.distribution(np.array([3.0, 1.0, 1.0, 2.0]))
    assert few.tolist() == [1, 1, 1, 2, 3]
    assert steps.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert len(series.distribution(np.full(4, np.nan))[0]) == 0


def test_thinned_series_keep_their_integral() -> None:
    held = THREE["baton"].occupancy
    edges, means = series.thinned(held.edges_s, held.live_rows, 100)
    assert len(means) <= 100
    assert np.dot(means, np.diff(edges)) == pytest.approx(np.dot(held.live_rows, np.diff(held.edges_s)))
    assert (edges[0], edges[-1]) == (0, held.edges_s[-1])


def test_thinned_peaks_keep_the_extremes() -> None:
    edges, peaks = series.thinned_peaks(np.arange(8.0), np.array([1.0, 9, 2, 0, 0, 0, 5]), 4)
    assert (edges.tolist(), peaks.tolist()) == ([0, 2, 4, 6, 7], [9, 2, 0, 5])


def test_policies_look_different_in_colour_and_in_grey() -> None:
    looks = series.styles([str(number) for number in range(8)]).values()
    assert len({look["color"] for look in looks}) == len({str(look["linestyle"]) for look in looks}) == 8
