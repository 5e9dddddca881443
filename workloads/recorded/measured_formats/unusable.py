"""Formats that are known and cannot be read: what a file is, and what to give instead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from policies.checks import InputError
from workloads.recorded.measured_formats.format import Objects

_VLLM = "save each request, vllm bench serve --save-result --save-detailed"
_AIPERF = "give profile_export.jsonl, which AIPerf writes with --export-level records"
_TABLE = "write a table with a row per request: arrival_s, prompt_tokens, output_tokens, ttft_s, e2e_s"


@dataclass(frozen=True)
class Unusable:
    """A format that is refused.

    Attributes:
        what: What such a file is.
        remedy: What to give instead.
        marks: Says by its keys whether a file is one.
    """

    what: str
    remedy: str
    marks: Callable[[Mapping[str, Any]], bool]

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether a file is one."""
        return self.marks(keys)

    def read(self, path: Path, objects: Objects) -> NoReturn:
        """Refuse it."""
        raise InputError(f"{path}: is {self.what}: {self.remedy}")


def _with(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return what tells a file that has all of these keys."""
    return lambda keys: set(names) <= keys.keys()


def _is_summary(keys: Mapping[str, Any]) -> bool:
    """Return whether metrics are given as statistics, {"unit": ..., "avg": ...}, or its CSV has those columns."""
    inner = keys.get("records")
    metrics = [*keys.values(), *(inner.values() if isinstance(inner, Mapping) else ())]
    statistics = [each for each in metrics if isinstance(each, Mapping) and {"unit", "avg"} <= each.keys()]
    return bool(statistics) or "input_config" in keys or {"Metric", "avg"} <= keys.keys()


def _is_nightly(keys: Mapping[str, Any]) -> bool:
    return "Test name" in keys or any(key.startswith(("Mean TTFT", "Mean TPOT", "# of req")) for key in keys)


UNUSABLE = (
    Unusable(
        "GuideLLM's report, which is not read", f"of its benchmarks[].requests.successful {_TABLE}", _with("benchmarks")
    ),
    Unusable("a table of vLLM's nightly benchmarks, which holds means alone", _VLLM, _is_nightly),
    Unusable(
        "Perf Analyzer's profile as GenAI-Perf leaves it, which counts no tokens",
        f"measure with AIPerf, its successor, and {_AIPERF}",
        _with("experiments"),
    ),
    Unusable("AIPerf's raw export", _AIPERF, lambda keys: "responses" in keys or "parsed_record" in keys),
    Unusable("a summary of AIPerf or GenAI-Perf, which holds statistics alone", _AIPERF, _is_summary),
    Unusable(
        "inference-perf's report of each request, which is not read", _TABLE, _with("start_time", "end_time", "info")
    ),
    Unusable(
        "a summary of inference-perf, which holds statistics alone",
        f"save each request, report.request_lifecycle.per_request: true, and {_TABLE}",
        _with("load_summary"),
    ),
    Unusable(
        "a result of vLLM's offline benchmarks, which serve no arrivals",
        _VLLM,
        lambda keys: (
            {"avg_latency", "percentiles"} <= keys.keys() or {"elapsed_time", "requests_per_second"} <= keys.keys()
        ),
    ),
    Unusable("a summary of this simulator", "give requests.parquet, which lies beside it", _with("policies", "notes")),
    Unusable(
        "an overlay of this simulator", "give the measured run that was laid over", _with("differences", "measured")
    ),
    Unusable(
        "a trace, which says nothing of answers' times",
        "workload=trace reads it",
        _with("input_length", "output_length"),
    ),
    Unusable("a model's configuration", "model=hf model.path=FOLDER reads it", _with("model_type")),
)
"""What is known not to serve, the most particular first."""
