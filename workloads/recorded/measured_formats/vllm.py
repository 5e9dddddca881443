"""vLLM's `bench serve` and its `benchmark_serving.py`, and SGLang's `bench_serving`: lists, one entry per request."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from policies.checks import InputError, shown
from workloads.demand import counted
from workloads.recorded.measured_formats.format import Objects
from workloads.recorded.measured_formats.run import (
    Answered,
    Columns,
    Gaps,
    MeasuredRun,
    gap_lists,
    gpu_count,
    lists_table,
    named,
    sent_seconds,
    taken,
)
from workloads.requests import FloatArray

if TYPE_CHECKING:
    from workloads.recorded.table import Table

_NEEDED = ("input_lens", "output_lens", "ttfts")
_OPTIONAL = ("itls", "latencies", "start_times", "errors")
"""What else of each request is saved, depending on the version."""


class VLLM:
    """`vllm bench serve --save-result --save-detailed`: seconds; E2E are `latencies`, or `ttfts` plus `itls`."""

    title: ClassVar[str] = "vLLM"
    flags: ClassVar[str] = "vllm bench serve --save-result --save-detailed"
    several: ClassVar[str] = "--append-result puts several runs into one file"
    unsent: ClassVar[str] = "measure with a vLLM that saves them, or with --request-rate inf"

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether there are its lists, or the sums of a run without them."""
        return bool({*_NEEDED, "itls"} & keys.keys()) or {"completed", "request_throughput"} <= keys.keys()

    def read(self, path: Path, objects: Objects) -> MeasuredRun:
        """Read the lists of the only run."""
        if len(objects) > 1:
            raise InputError(f"{path}: {self.several}, here {len(objects)}: give one run, in a file of its own")
        saved = objects[0][1]
        every = self._table(path, saved)
        table, notes = taken(every, _answered(every))
        prompt_tokens, output_tokens = table.counts("input_lens", low=0), table.counts("output_lens", low=1)
        gaps = gap_lists(table, "itls") if "itls" in table else None
        first_s = table.seconds("ttfts")
        # Without its latency an answer ends with its last gap, which leaves out what came after the last token.
        last_s = table.seconds("latencies") if "latencies" in table else first_s + [sum(each) for each in gaps or []]
        whole = (output_tokens > 1) & _in_one_piece(table, gaps)
        sent_s, told = self._sent(table, saved)
        if lost := int(whole.sum()):
            told = (*told, f"{counted(lost, 'answer')} came in one piece: TTFT and TPOT are not known of them")
        return Answered(
            table=table,
            columns=Columns(
                prompt_tokens="input_lens",
                sent="start_times" if "start_times" in table else "ttfts",
                first="ttfts",
                last="latencies" if "latencies" in table else "itls",
            ),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            sent_s=sent_s,
            first_s=first_s,
            last_s=last_s,
            gaps=gaps,
            whole=whole,
            notes=(*_client_notes(saved), *told, *notes),
        ).run(self._model(saved), gpu_count(self._server(saved)), self.title)

    def _model(self, saved: Mapping[str, Any]) -> str | None:
        return named(saved.get("model_id"))

    def _server(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is said of the server: vLLM's `--metadata` stands beside the results."""
        return saved

    def _table(self, path: Path, saved: Mapping[str, Any]) -> "Table":
        """Return the lists as a table."""
        needed = _NEEDED if isinstance(saved.get("latencies"), list) else (*_NEEDED, "itls")
        missing = [name for name in needed if saved.get(name) is None]
        if missing:
            raise InputError(f"{path}: no {', '.join(missing)}: save each request, {self.flags}")
        lists = {name: saved[name] for name in (*_NEEDED, *_OPTIONAL) if saved.get(name) is not None}
        for name, cells in lists.items():
            if not isinstance(cells, list):
                raise InputError(f"{path}: {name} is {shown(cells)}, not a list with an entry for each request")
        return lists_table(path, lists, lambda row: f"request {row}", "correct it, or measure again")

    def _sent(self, table: "Table", saved: Mapping[str, Any]) -> tuple[FloatArray, tuple[str, ...]]:
        """Return when requests were sent; without a record of it only a run that sent all at once can be replayed."""
        if "start_times" in table:
            return sent_seconds(table, "start_times")
        if str(saved.get("request_rate")) == "inf" and saved.get("max_concurrency") is None:
            return np.zeros(len(table)), ()
        raise InputError(f"{table.path}: no start_times, so it is not known when requests were sent: {self.unsent}")


class SGLang(VLLM):
    """`python -m sglang.bench_serving --output-details`: vLLM's lists, a line per run, no times of sending.

    It divides the time between two pieces among their tokens, so that there are as many gaps as tokens.
    """

    title: ClassVar[str] = "SGLang"
    flags: ClassVar[str] = "python -m sglang.bench_serving --output-details"
    several: ClassVar[str] = "bench_serving appends each run to its output file as a line"
    unsent: ClassVar[str] = "measure with --request-rate inf and without --max-concurrency"

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether there is what only SGLang writes, beside what vLLM writes too."""
        marks = {"server_info", "total_output_tokens_retokenized", "sharegpt_output_len", "random_input_len"}
        own = "tokenizer_id" not in keys and str(keys.get("backend")).startswith("sglang")
        return super().fits(keys) and (own or bool(marks & keys.keys()))

    def _model(self, saved: Mapping[str, Any]) -> str | None:
        return named(saved.get("model") or self._server(saved).get("model_path"))

    def _server(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the server's own arguments."""
        info = saved.get("server_info")
        return info if isinstance(info, dict) else saved


def _answered(table: "Table") -> Any:
    """Return which requests were answered, bool [n]: no error was noted, and there is a token."""
    answered = np.array([cell is not None and cell != 0 for cell in table.columns["output_lens"].tolist()])
    if "errors" in table:
        answered &= np.array([not error for error in table.columns["errors"].tolist()])
    return answered


def _client_notes(saved: Mapping[str, Any]) -> Iterator[str]:
    if saved.get("max_concurrency") is not None:
        yield (
            f"the client held {shown(saved['max_concurrency'])} requests in flight at most: they are replayed at the "
            "times at which it sent them, which followed the measured answers"
        )


def _in_one_piece(table: "Table", gaps: Gaps | None) -> Any:
    """Return which answers have no gap although gaps were recorded, bool [n]."""
    return np.zeros(len(table), dtype=np.bool_) if gaps is None else np.array([not each for each in gaps])
