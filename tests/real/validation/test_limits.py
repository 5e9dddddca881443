"""The verdict of a validation."""

from typing import Any

import pytest

from real.validation.limits import LIMITS, judged
from real.validation.report import verdict


def load(throughput: float = 0.0, ttft: float = 0.0, e2e: float = 0.0, ratio: float = 0.0, **facts: Any) -> Any:
    """Return a measured load of one policy and one ratio, with these errors."""
    metrics = {"output_throughput": throughput, "mean_ttft_ms": ttft, "mean_e2el_ms": e2e}
    policies = {"orca": {metric: {"error": error} for metric, error in metrics.items()}}
    return {"policies": policies, "ratios": [{"error": ratio}], "accurate": True} | facts


@pytest.mark.parametrize("kind, place", [(kind, place) for place, kind in enumerate(LIMITS)])
def test_a_figure_is_within_its_limit_on_either_side_and_no_further(kind: str, place: int) -> None:
    for error, within in ((LIMITS[kind], 2), (-LIMITS[kind], 2), (LIMITS[kind] + 1e-9, 1), (-LIMITS[kind] - 1e-9, 1)):
        errors = [0.0] * 4
        errors[place] = error
        found = judged({"loads": [load(), load(*errors)]})
        assert found["kinds"][kind] == {"limit": LIMITS[kind], "within": within, "of": 2, "worst": error}
        assert found["met"] is (within == 2)


def test_it_is_said_in_a_sentence() -> None:
    report = {"loads": [load(), load(ttft=-0.2, accurate=False), {"workload": "not measured"}]}
    assert verdict(report) == (
        "within the stated limits (throughput 10 %, mean TTFT 15 %, mean E2E 15 %, ratios of throughput 5 %): no; "
        "throughput 2 of 2, mean TTFT 1 of 2, mean E2E 2 of 2, ratios of throughput 2 of 2; at 1 of 2 loads ratios "
        "were measured less exactly than asked for"
    )
    assert "5 %): yes; throughput 1 of 1" in verdict({"loads": [load()]})
    assert judged({"loads": []})["met"] is False, "nothing measured meets nothing"
