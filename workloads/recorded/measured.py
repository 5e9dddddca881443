"""Runs of a real server, as load generators record them: what was asked for and how long each request took."""

from dataclasses import dataclass

from policies.checks import InputError
from workloads.demand import Demand
from workloads.recorded.measured_formats.run import MeasuredRun
from workloads.recorded.places import given_file
from workloads.recorded.traces import RecordedWorkload

__all__ = ["Measured", "MeasuredRun"]


@dataclass(frozen=True, kw_only=True)
class Measured(RecordedWorkload):
    """The requests of a measured run, in one of the formats of `workloads.measured_formats`, whatever its file's name.

    - vLLM's `bench serve` or `benchmark_serving.py`, and SGLang's `bench_serving`: lists with an entry per request.
    - AIPerf's records, `profile_export.jsonl`.
    - A table, CSV, JSON or Parquet: `arrival_s, prompt_tokens, output_tokens, ttft_s, e2e_s` and, together, `prefix_id,
      prefix_tokens`; the `requests.parquet` of `python -m real` is one.

    Requests that failed, were cancelled or belong to a warm-up phase are left out, and those with a prompt of 0 tokens.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.path is None:
            raise InputError(
                "measured is missing: give measured=FILE, what vllm bench serve or AIPerf saved of each request"
            )

    def read(self) -> tuple[str, Demand]:
        """Return what was asked for."""
        run = self.run()
        return run.name, run.demand

    def run(self) -> MeasuredRun:
        """Read the file.

        Raises:
            InputError: if it is missing, of another kind, or something in it is wrong.
        """
        # Formats take a while to import: only those who read a run shall pay.
        from workloads.recorded.measured_formats.format import read_run

        return read_run(given_file(self.path, "measured"))
