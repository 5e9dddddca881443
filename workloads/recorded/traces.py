"""Recorded traces: Azure 2023, Mooncake, BurstGPT, and the user's own."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from policies.checks import InputError, choice
from workloads.demand import Demand, counted, in_order, spread_within_ticks, with_duplicates_noted, without_failures
from workloads.options import Options
from workloads.recorded.places import PublishedFile, given_file, in_data_folder
from workloads.requests import Requests

if TYPE_CHECKING:
    from pandas import DataFrame

    from workloads.recorded.table import Table

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/main/FAST25-release/traces/"
AZURE_FILES = {
    "conv": PublishedFile(
        "azure2023",
        "AzureLLMInferenceTrace_conv.csv",
        f"{_AZURE}conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
    ),
    "code": PublishedFile(
        "azure2023",
        "AzureLLMInferenceTrace_code.csv",
        f"{_AZURE}code.csv",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
    ),
}
MOONCAKE_FILES = {
    "conversation": PublishedFile(
        "mooncake",
        "conversation_trace.jsonl",
        f"{_MOONCAKE}conversation_trace.jsonl",
        "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
    ),
    "synthetic": PublishedFile(
        "mooncake",
        "synthetic_trace.jsonl",
        f"{_MOONCAKE}synthetic_trace.jsonl",
        "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Recorded(Options, ABC):
    """A recording: its lengths are used in order, its arrivals unless others are asked for."""

    recorded: ClassVar[bool] = True

    @abstractmethod
    def read(self) -> tuple[str, Demand]:
        """Return the trace's name and all its requests, sorted by arrival, the first at 0.

        Raises:
            InputError: if there is no file or something in it is wrong.
        """

    def build(self, seed: int) -> Requests:
        """Read the trace and build its first `num_requests` requests.

        Raises:
            InputError: if the file is missing or bad, has too few rows, or an output exceeds `workload.max_new_cap`.
        """
        name, demand = self.read()
        longest_output = int(demand.output_tokens.max())
        if self.num_requests is not None:
            if self.num_requests > len(demand):
                raise InputError(
                    f"workload.num_requests is {self.num_requests}, but {name} has {len(demand)}: "
                    f"ask for at most {len(demand)}, or for all with workload.num_requests=null"
                )
            demand = demand.take(slice(self.num_requests))
        if self.arrivals().process == "trace":
            demand = with_duplicates_noted(demand)
        else:
            demand = demand.noted(f"recorded arrivals replaced: {self.arrivals()}")
        return self.requests(seed, name, demand, longest_output)


@dataclass(frozen=True, kw_only=True)
class RecordedWorkload(Recorded):
    """A recording in a file.

    Attributes:
        path: the trace file; None is the published one, where there is one.
    """

    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Azure(RecordedWorkload):
    """Azure LLM inference traces of 2023 (the Splitwise paper, ISCA 2024; CC-BY-4.0): about an hour of production.

    The 2024 traces have the same columns and can be given as `path`.

    Attributes:
        service: `conv` or `code`.
    """

    service: str = "conv"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        choice("workload.service", self.service, AZURE_FILES)

    def read(self) -> tuple[str, Demand]:
        """Read the columns TIMESTAMP, ContextTokens and GeneratedTokens."""
        path = AZURE_FILES[self.service].locate(self.path)
        table = _read_table(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
        demand = Demand(
            prompt_tokens=table.counts("ContextTokens", low=0),
            output_tokens=table.counts("GeneratedTokens", low=0),
            recorded_s=table.timestamps("TIMESTAMP"),
        )
        return f"azure_{self.service}", _published(path, demand)


@dataclass(frozen=True, kw_only=True)
class Mooncake(RecordedWorkload):
    """Mooncake traces (FAST 2025; Apache-2.0): an hour of Kimi's conversations, or a mix of public data sets.

    The conversation trace's clock ticks every 3 s: arrivals are spread evenly within each tick. Prompts that share
    `hash_ids` share their prefixes.

    Attributes:
        trace: `conversation` or `synthetic`.
    """

    trace: str = "conversation"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        choice("workload.trace", self.trace, MOONCAKE_FILES)

    def read(self) -> tuple[str, Demand]:
        """Read the columns timestamp (ms), input_length, output_length and, if it is there, hash_ids."""
        path = MOONCAKE_FILES[self.trace].locate(self.path)
        table = _read_table(path, ("timestamp", "input_length", "output_length"), ("hash_ids",))
        demand = Demand(
            prompt_tokens=table.counts("input_length", low=0),
            output_tokens=table.counts("output_length", low=0),
            recorded_s=table.seconds("timestamp") / 1000,
            prefix_hashes=table.lists("hash_ids") if "hash_ids" in table else None,
        )
        demand = _published(path, demand)
        return f"mooncake_{self.trace}", spread_within_ticks(demand) if self.trace == "conversation" else demand


@dataclass(frozen=True, kw_only=True)
class BurstGPT(RecordedWorkload):
    """BurstGPT traces (CC-BY-4.0): months of ChatGPT and GPT-4 requests; failed ones are dropped.

    The file is the user's own, from the releases of HPMLL/BurstGPT on GitHub: `path`, or the only BurstGPT*.csv under
    $BATON_DATA/burstgpt or $BATON_DATA.
    """

    def read(self) -> tuple[str, Demand]:
        """Read the columns Timestamp (s), Request tokens and Response tokens."""
        path = self._locate()
        table = _read_table(path, ("Timestamp", "Request tokens", "Response tokens"))
        demand = Demand(
            prompt_tokens=table.counts("Request tokens", low=0),
            output_tokens=table.counts("Response tokens", low=0),
            recorded_s=table.seconds("Timestamp"),
        )
        return "burstgpt", _published(path, demand)

    def _locate(self) -> Path:
        if self.path is not None:
            return given_file(self.path)
        found = in_data_folder("burstgpt", "BurstGPT*.csv")
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{found[0].parent} has {len(found)} BurstGPT files: choose one, workload.path={found[0]}")
        raise InputError(
            "BurstGPT was not found: get a CSV from https://github.com/HPMLL/BurstGPT/releases and give "
            "workload.path=FILE, or put it into the folder $BATON_DATA/burstgpt"
        )


@dataclass(frozen=True, kw_only=True)
class Trace(RecordedWorkload):
    """The user's own trace: a .csv, .jsonl or .parquet file.

    Columns: `arrival_s` (seconds, 0 or more), `prompt_tokens`, `output_tokens`; optionally `priority` (whole number,
    lower is more urgent), and together `prefix_id` (whole number or name; blank or -1 for none) and `prefix_tokens`
    (the part of the prompt, at most all of it, that requests of that prefix share); or, instead of these two,
    `hash_ids` (a list of whole numbers, one for each 512 tokens of the prompt, equal where these and all tokens before
    them are). Others are ignored.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.path is None:
            raise InputError("workload.path is missing: give workload.path=FILE, a .csv, .jsonl or .parquet file")

    def read(self) -> tuple[str, Demand]:
        """Read the columns above."""
        path = given_file(self.path)
        return path.name, _own_demand(_read_table(path, *_OWN_COLUMNS))


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame(Recorded):
    """The user's own trace as a DataFrame, with the columns of `Trace`.

    Attributes:
        frame: one row per request.
    """

    frame: "DataFrame"

    def read(self) -> tuple[str, Demand]:
        """Read the columns of `Trace`."""
        from workloads.recorded.formats import frame_table

        return "DataFrame", _own_demand(frame_table(self.frame, *_OWN_COLUMNS))


_OWN_COLUMNS = (
    ("arrival_s", "prompt_tokens", "output_tokens"),
    ("priority", "prefix_id", "prefix_tokens", "hash_ids"),
)
"""Columns of a trace of the user's own: those that it must have, and those that it may."""


def _own_demand(table: "Table") -> Demand:
    demand = Demand(
        prompt_tokens=table.counts("prompt_tokens", low=1),
        output_tokens=table.counts("output_tokens", low=1),
        recorded_s=table.seconds("arrival_s"),
        priority=table.counts("priority", low=-(2**31)) if "priority" in table else None,
    )
    demand = _with_prefixes(table, demand)
    if table.ignored:
        demand = demand.noted(f"{counted(len(table.ignored), 'column')} ignored: {', '.join(table.ignored)}")
    return in_order(demand)


def _read_table(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> "Table":
    # pandas takes a third of a second to import: only those who read a trace shall pay.
    from workloads.recorded.formats import read_table

    return read_table(path, columns, optional)


def _published(path: Path, demand: Demand) -> Demand:
    """Drop the failed requests of a published trace and bring the rest into order."""
    demand = without_failures(demand)
    if not len(demand):
        raise InputError(f"{path}: every request has 0 tokens: give a file with at least one that was answered")
    return in_order(demand)


def _with_prefixes(table: "Table", demand: Demand) -> Demand:
    if ("prefix_id" in table) != ("prefix_tokens" in table):
        raise InputError(f"{table.path}: prefix_id and prefix_tokens need each other: add or rename a column")
    if "hash_ids" in table:
        if "prefix_id" in table:
            raise InputError(f"{table.path}: prefix_id and hash_ids both say what is shared: remove one of them")
        return replace(demand, prefix_hashes=table.lists("hash_ids"))
    if "prefix_id" not in table:
        return demand
    prefix_id = table.labels("prefix_id")
    prefix_tokens = table.counts("prefix_tokens", low=0, may_be_blank=prefix_id < 0)
    too_long = prefix_tokens > demand.prompt_tokens
    table.refuse("prefix_tokens", too_long, "at most prompt_tokens of that row")
    table.refuse("prefix_tokens", (prefix_id < 0) & (prefix_tokens > 0), "0 or blank, as in a row without prefix_id")
    return replace(demand, prefix_id=prefix_id, prefix_tokens=prefix_tokens)
