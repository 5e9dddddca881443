"""Whether a validation met the limits that are stated for predictions, figure by figure."""

from collections.abc import Iterator, Mapping
from typing import Any

Report = Mapping[str, Any]

LIMITS = {"throughput": 0.10, "mean TTFT": 0.15, "mean E2E": 0.15, "ratios of throughput": 0.05}
"""Largest relative error of each kind of figure that counts as met."""

_METRICS = {"throughput": "output_throughput", "mean TTFT": "mean_ttft_ms", "mean E2E": "mean_e2el_ms"}


def errors(report: Report) -> dict[str, list[float]]:
    """Return the relative errors of all measured loads, by kind of figure; a kind without any is left out."""
    found = {kind: list(_errors(report, kind)) for kind in LIMITS}
    return {kind: each for kind, each in found.items() if each}


def _errors(report: Report, kind: str) -> Iterator[float]:
    for load in report["loads"]:
        if kind in _METRICS:
            every = load.get("policies", {}).values()
            yield from (metrics[_METRICS[kind]]["error"] for metrics in every if _METRICS[kind] in metrics)
        else:
            yield from (ratio["error"] for ratio in load.get("ratios", ()))


def judged(report: Report) -> dict[str, Any]:
    """Return, as JSON values, of how many figures of each kind the error is within its limit, and if of all."""
    kinds = {
        kind: {
            "limit": LIMITS[kind],
            "within": sum(abs(error) <= LIMITS[kind] for error in found),
            "of": len(found),
            "worst": max(found, key=abs),
        }
        for kind, found in errors(report).items()
    }
    return {"met": bool(kinds) and all(kind["within"] == kind["of"] for kind in kinds.values()), "kinds": kinds}
