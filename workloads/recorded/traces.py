"""Recorded traces: Azure, Mooncake, Qwen-Bailian, BurstGPT, and the user's own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from policies.checks import Choice, InputError, Whole
from workloads.demand import Demand, counted, in_order, with_duplicates_noted, with_rate_noted, without_failures
from workloads.options import MAX_REQUESTS, Options
from workloads.recorded.clock import spread_within_ticks
from workloads.recorded.columns import AZURE, BURSTGPT, MOONCAKE, OWN, QWEN_BAILIAN, Columns, check_columns, recognised
from workloads.recorded.places import PublishedFile, check_path, given_file, in_data_folder
from workloads.recorded.prefixes import chained, check_hash_tokens, deduced_tokens, lengths, refuse_wrong_counts
from workloads.recorded.units import PER_SECOND
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

Names = tuple[str, ...]
"""Names of columns."""


@dataclass(frozen=True, kw_only=True)
class Recorded(Options, ABC):
    """A recording: its lengths are used in order, its arrivals unless others are asked for."""

    recorded: ClassVar[bool] = True
    strange_rate: ClassVar[str] = "are the times in seconds?"
    """What is said of a recording with hardly any requests per second, or very many."""

    @abstractmethod
    def read(self) -> tuple[str, Demand]:
        """Return the trace's name and all its requests, sorted by arrival, the first at 0.

        Raises:
            InputError: if there is no file or something in it is wrong.
        """

    @property
    def needs_arrivals(self) -> bool:
        """Whether requests come as recorded."""
        return self.arrivals().process == "trace"

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
        if self.needs_arrivals:
            demand = with_rate_noted(with_duplicates_noted(demand), self.strange_rate)
        elif demand.recorded_s is not None:
            demand = demand.noted(f"recorded arrivals replaced: {self.arrivals()}")
        return self.requests(seed, name, demand, longest_output)


@dataclass(frozen=True, kw_only=True)
class RecordedWorkload(Recorded):
    """A recording in a file.

    Attributes:
        path: the trace file; None is the published one, where there is one.
    """

    path: Annotated[str | None, check_path] = None


@dataclass(frozen=True, kw_only=True)
class Clocked(Recorded):
    """A recording of when clients sent their requests, by a clock whose unit and ticks are checked.

    Attributes:
        first_request: how many requests, by arrival, are left out before the first that is used.
        time_unit: of arrivals: `s`, `ms`, `us` or `ns`; None is the format's own, where times since 1970 in another
            unit are recognised.
        spread_ticks: whether requests that a coarse clock gave one time are spread over its tick.
    """

    strange_rate: ClassVar[str] = "workload.time_unit says what the times are in"

    first_request: Annotated[int, Whole(0, MAX_REQUESTS)] = 0
    time_unit: Annotated[str | None, Choice(PER_SECOND)] = None
    spread_ticks: bool = True

    def _demand(self, table: "Table", columns: Columns, hash_tokens: int | None = None) -> Demand:
        """Return what a table says, checked, in order of arrival.

        Args:
            table: the recording.
            columns: which of its columns hold what.
            hash_tokens: tokens per hash, if a person said so.
        """
        low = 0 if columns.failures else 1
        demand = Demand(
            prompt_tokens=table.counts(columns.prompt_tokens, low=low),
            output_tokens=table.counts(columns.output_tokens, low=low),
            priority=table.counts(columns.priority, low=-(2**31)) if columns.priority in table else None,
        )
        demand = _with_prefixes(table, self._with_arrivals(table, demand, columns), columns, hash_tokens)
        demand = without_failures(demand) if columns.failures else demand
        if not len(demand):
            raise InputError(
                f"{table.path}: every request has 0 tokens: give a file with at least one that was answered"
            )
        return demand

    def _with_arrivals(self, table: "Table", demand: Demand, columns: Columns) -> Demand:
        if columns.arrival_s not in table:
            return demand
        try:
            unit = self.time_unit or columns.unit
            said = self.time_unit is not None
            seconds, note = table.times(columns.arrival_s, unit, said, whole=columns.whole and not said)
        except InputError as error:
            if self.needs_arrivals:
                raise
            return demand.noted(f"recorded arrivals cannot be read, and are not needed: {error}")
        demand = replace(demand, recorded_s=seconds)
        return demand if note is None else demand.noted(note)

    def _used(self, demand: Demand) -> Demand:
        """Return the requests in order, spread within ticks, from the first that is used."""
        if demand.recorded_s is not None:
            demand = in_order(demand)
        if self.spread_ticks and self.needs_arrivals:
            demand = spread_within_ticks(demand)
        if not self.first_request:
            return demand
        if self.first_request >= len(demand):
            raise InputError(
                f"workload.first_request is {self.first_request}, but there are {len(demand)} requests, counted from "
                f"0: give at most {len(demand) - 1}"
            )
        demand = demand.take(slice(self.first_request, None))
        demand = demand.noted(f"the first {counted(self.first_request, 'request')} left out")
        return demand if demand.recorded_s is None else in_order(demand)


@dataclass(frozen=True, kw_only=True)
class Published(Clocked, RecordedWorkload):
    """A recording in a format with columns of its own."""

    format: ClassVar[Columns]

    @abstractmethod
    def locate(self) -> tuple[str, Path]:
        """Return the workload's name and its file."""

    def read(self) -> tuple[str, Demand]:
        """Read the columns of the format."""
        name, path = self.locate()
        table = _read_table(path, *self.format.wanted(self.needs_arrivals))
        return name, self._used(self._demand(table, self.format, self._hash_tokens))

    @property
    def _hash_tokens(self) -> int | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Azure(Published):
    """Azure LLM inference traces of 2023 (the Splitwise paper, ISCA 2024; CC-BY-4.0): about an hour of production.

    The 2024 traces have the same columns and can be given as `path`: TIMESTAMP, ContextTokens and GeneratedTokens.

    Attributes:
        service: `conv` or `code`.
    """

    service: Literal["conv", "code"] = "conv"

    format: ClassVar[Columns] = AZURE

    def locate(self) -> tuple[str, Path]:
        """Return the workload's name and its file."""
        return f"azure_{self.service}", AZURE_FILES[self.service].locate(self.path)


@dataclass(frozen=True, kw_only=True)
class Hashed(Published):
    """A recording whose prompts share their prefixes where they share `hash_ids`.

    Attributes:
        hash_tokens: tokens that one hash stands for; None is as the format says.
    """

    hash_tokens: Annotated[int | None, check_hash_tokens] = None

    @property
    def _hash_tokens(self) -> int | None:
        return self.hash_tokens


@dataclass(frozen=True, kw_only=True)
class Mooncake(Hashed):
    """Mooncake traces (FAST 2025; Apache-2.0): an hour of Kimi's conversations, or a mix of public data sets.

    Their columns are timestamp (whole milliseconds), input_length, output_length and, if it is there, hash_ids, one for
    512 tokens. The conversation trace's clock ticks every 3 s.

    Attributes:
        trace: `conversation` or `synthetic`.
    """

    trace: Literal["conversation", "synthetic"] = "conversation"

    format: ClassVar[Columns] = MOONCAKE

    def locate(self) -> tuple[str, Path]:
        """Return the workload's name and its file."""
        return f"mooncake_{self.trace}", MOONCAKE_FILES[self.trace].locate(self.path)


@dataclass(frozen=True, kw_only=True)
class QwenBailian(Hashed):
    """Qwen-Bailian traces (USENIX ATC 2025; Apache-2.0): two hours of a Qwen model's users, as prompts share prefixes.

    Their columns are timestamp (seconds), input_length, output_length and hash_ids, one for 16 tokens. The file is the
    user's own, from alibaba-edu/qwen-bailian-usagetraces-anon on GitHub, where `git lfs pull` fetches it: `path`, or
    the only qwen*.jsonl under $BATON_DATA/qwen_bailian or $BATON_DATA.
    """

    format: ClassVar[Columns] = QWEN_BAILIAN

    def locate(self) -> tuple[str, Path]:
        """Return the workload's name and its file."""
        source = "clone https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon, run git lfs pull in it"
        return "qwen_bailian", _only_file(self.path, "Qwen-Bailian", "qwen_bailian", "qwen*.jsonl", source)


@dataclass(frozen=True, kw_only=True)
class BurstGPT(Published):
    """BurstGPT traces (CC-BY-4.0): months of ChatGPT and GPT-4 requests; failed ones are dropped.

    Their columns are Timestamp (s), Request tokens and Response tokens. The file is the user's own, from the releases
    of HPMLL/BurstGPT on GitHub: `path`, or the only BurstGPT*.csv under $BATON_DATA/burstgpt or $BATON_DATA.
    """

    format: ClassVar[Columns] = BURSTGPT

    def locate(self) -> tuple[str, Path]:
        """Return the workload's name and its file."""
        source = "get a CSV from https://github.com/HPMLL/BurstGPT/releases"
        return "burstgpt", _only_file(self.path, "BurstGPT", "burstgpt", "BurstGPT*.csv", source)


@dataclass(frozen=True, kw_only=True)
class Own(Clocked):
    """A trace of the user's own.

    Columns: `arrival_s` (seconds, 0 or more; needed if requests come as recorded), `prompt_tokens`, `output_tokens`;
    optionally `priority` (whole number, lower is more urgent), and together `prefix_id` (whole number or name; blank or
    -1 for none) and `prefix_tokens` (the part of the prompt, at most all of it, that requests of that prefix share);
    or, instead of these two, `hash_ids` (a list of whole numbers, one for each so many tokens of the prompt, equal
    where these and all tokens before them are). Others are ignored. The columns of Azure, Mooncake, Qwen-Bailian,
    BurstGPT, Vidur, Splitwise and LLMServingSim are recognised.

    Attributes:
        columns: names of columns that are called otherwise, as in `{arrival_s: TIMESTAMP}`; a name that ends in `ms`,
            `us` or `ns` says its unit.
        hash_tokens: tokens that one hash stands for; None is 512, or what the numbers of hashes show.
    """

    columns: Annotated[Mapping[str, str] | None, check_columns] = None
    hash_tokens: Annotated[int | None, check_hash_tokens] = None

    def _own(self, names: list[str], read: "Callable[[Names, Names], Table]") -> Demand:
        """Read the columns that are recognised among these names."""
        renamed = self.columns or {}
        columns = recognised(names, renamed)
        required, optional = columns.wanted(self.needs_arrivals)
        table = read(tuple(dict.fromkeys([*required, *renamed.values()])), optional)
        demand = self._demand(table, columns, self.hash_tokens)
        if columns.title != OWN.title:
            demand = demand.noted(f"read as {columns.title}'s: {', '.join(name for name in table.columns)}")
        elif table.ignored:
            demand = demand.noted(f"{counted(len(table.ignored), 'column')} ignored: {', '.join(table.ignored)}")
        return self._used(demand)


@dataclass(frozen=True, kw_only=True)
class Trace(Own, RecordedWorkload):
    """The user's own trace in a file: CSV, JSON lines or Parquet, whatever its name; see `Own` for its columns."""

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.path is None:
            raise InputError("workload.path is missing: give workload.path=FILE, a .csv, .jsonl or .parquet file")

    def read(self) -> tuple[str, Demand]:
        """Read the file."""
        from workloads.recorded.formats import column_names

        path = given_file(self.path)
        return path.name, self._own(column_names(path), partial(_read_table, path))


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame(Own):
    """The user's own trace as a DataFrame; see `Own` for its columns.

    Attributes:
        frame: one row per request.
    """

    frame: "DataFrame"

    def read(self) -> tuple[str, Demand]:
        """Read the frame."""
        from workloads.recorded.formats import frame_table

        names = [str(name) for name in self.frame.columns]
        return "DataFrame", self._own(names, partial(frame_table, self.frame))


def _read_table(path: Path, columns: Names, optional: Names = ()) -> "Table":
    # pandas takes a third of a second to import: only those who read a trace shall pay.
    from workloads.recorded.formats import read_table

    return read_table(path, columns, optional)


def _only_file(path: str | None, title: str, folder: str, pattern: str, source: str) -> Path:
    """Return the file that was given, or else the only one of its kind in the data folder."""
    if path is not None:
        return given_file(path)
    found = in_data_folder(folder, pattern)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{found[0].parent} has {len(found)} {title} files: choose one, workload.path={found[0]}")
    raise InputError(
        f"{title} was not found: {source} and give workload.path=FILE, or put it into the folder $BATON_DATA/{folder}"
    )


def _with_prefixes(table: "Table", demand: Demand, columns: Columns, hash_tokens: int | None) -> Demand:
    """Add what prompts share, as hashes or as prefixes with names."""
    id_name, tokens_name = columns.prefix_id, columns.prefix_tokens
    if (id_name in table) != (tokens_name in table):
        raise InputError(f"{table.path}: {id_name} and {tokens_name} need each other: add or rename a column")
    if columns.hash_ids in table:
        if id_name in table:
            raise InputError(
                f"{table.path}: {id_name} and {columns.hash_ids} both say what is shared: remove one of them"
            )
        return _with_hashes(table, demand, columns, hash_tokens)
    if id_name not in table:
        return demand
    prefix_id = table.labels(id_name)
    prefix_tokens = table.counts(tokens_name, low=0, may_be_blank=prefix_id < 0)
    too_long = prefix_tokens > demand.prompt_tokens
    table.refuse(tokens_name, too_long, f"at most {columns.prompt_tokens} of that row")
    table.refuse(tokens_name, (prefix_id < 0) & (prefix_tokens > 0), f"0 or blank, as in a row without {id_name}")
    return replace(demand, prefix_id=prefix_id, prefix_tokens=prefix_tokens)


def _with_hashes(table: "Table", demand: Demand, columns: Columns, hash_tokens: int | None) -> Demand:
    """Add hashes of prefixes, whose numbers must be those that the prompts' lengths allow."""
    hashes = table.lists(columns.hash_ids)
    count, answered = lengths(hashes), (demand.prompt_tokens > 0) & (demand.output_tokens > 0)
    tokens, note = hash_tokens or columns.hash_tokens, None
    if tokens is None:
        tokens, note = deduced_tokens(table, count[answered], demand.prompt_tokens[answered])
    refuse_wrong_counts(table, columns.hash_ids, count, demand.prompt_tokens, tokens, answered)
    notes = [note] if note else []
    if lacking := int((answered & (count == 0) & (demand.prompt_tokens >= tokens)).sum()):
        notes.append(f"{counted(lacking, 'prompt')} without hashes, which share nothing")
    if (linked := chained(hashes, count)) is not None:
        notes.append("equal hash_ids after different ones: each is taken together with those before it")
    hashes = hashes if linked is None else linked
    return replace(demand, prefix_hashes=hashes, hash_tokens=tokens, notes=(*demand.notes, *notes))
