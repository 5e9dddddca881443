"""Which columns of a recording hold what: those of formats that are known by their headers, and the user's own."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from policies.checks import InputError, nearest, shown
from workloads.recorded.units import PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of a recording's columns, and what their numbers mean.

    Attributes:
        title: whose format it is.
        arrival_s: arrivals.
        prompt_tokens: tokens of prompts.
        output_tokens: tokens of answers.
        priority: whole numbers, lower is more urgent.
        prefix_id: which shared prefix a prompt starts with; `prefix_tokens` says how long that is.
        prefix_tokens: tokens of that prefix.
        hash_ids: lists of hashes, one per so many tokens of the prompt.
        unit: of arrivals: `s`, `ms`, `us`, `ns`, or `date` for dates and times alone.
        whole: whether arrivals are whole numbers of their unit.
        failures: whether requests with 0 tokens are there, which failed.
        hash_tokens: tokens per hash; None if the format does not fix it.
        marks: other columns that tell this format from others with the same names.
    """

    title: str
    arrival_s: str = "arrival_s"
    prompt_tokens: str = "prompt_tokens"
    output_tokens: str = "output_tokens"
    priority: str = "priority"
    prefix_id: str = "prefix_id"
    prefix_tokens: str = "prefix_tokens"
    hash_ids: str = "hash_ids"
    unit: str = "s"
    whole: bool = False
    failures: bool = True
    hash_tokens: int | None = None
    marks: tuple[str, ...] = ()

    def lengths_in(self, names: Collection[str]) -> bool:
        """Return whether a file with columns of these names may be of this format: it has lengths, and the marks."""
        return {self.prompt_tokens, self.output_tokens, *self.marks} <= set(names)

    def wanted(self, arrivals: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that must be there and those that may.

        Args:
            arrivals: whether recorded arrivals are needed.
        """
        required = (self.prompt_tokens, self.output_tokens)
        optional = (self.priority, self.prefix_id, self.prefix_tokens, self.hash_ids)
        if arrivals:
            return (self.arrival_s, *required), optional
        return required, (self.arrival_s, *optional)


OWN = Columns(title="the user's own", failures=False)
AZURE = Columns(
    title="Azure",
    arrival_s="TIMESTAMP",
    prompt_tokens="ContextTokens",
    output_tokens="GeneratedTokens",
    unit="date",
)
MOONCAKE = Columns(
    title="Mooncake",
    arrival_s="timestamp",
    prompt_tokens="input_length",
    output_tokens="output_length",
    unit="ms",
    whole=True,
    hash_tokens=512,
)
QWEN_BAILIAN = replace(
    MOONCAKE, title="Qwen-Bailian", unit="s", whole=False, hash_tokens=16, marks=("chat_id", "parent_chat_id")
)
BURSTGPT = Columns(
    title="BurstGPT", arrival_s="Timestamp", prompt_tokens="Request tokens", output_tokens="Response tokens"
)
VIDUR = Columns(
    title="Vidur",
    arrival_s="arrived_at",
    prompt_tokens="num_prefill_tokens",
    output_tokens="num_decode_tokens",
)
SPLITWISE = Columns(
    title="Splitwise", arrival_s="arrival_timestamp", prompt_tokens="prompt_size", output_tokens="token_size"
)
LLMSERVINGSIM = Columns(
    title="LLMServingSim",
    arrival_s="arrival_time_ns",
    prompt_tokens="input_toks",
    output_tokens="output_toks",
    unit="ns",
)
KNOWN = (AZURE, QWEN_BAILIAN, MOONCAKE, BURSTGPT, VIDUR, SPLITWISE, LLMSERVINGSIM)
"""Formats that are recognised by their headers; those with marks before those without."""

_NAMES = tuple(field.name for field in fields(Columns) if isinstance(field.default, str) and field.name != "unit")


_OTHERS = {
    ("input_lens", "output_lens"): "vLLM's results of a benchmark: workload=measured reads them, task=overlay compares",
    ("metadata", "metrics"): "AIPerf's records: workload=measured reads them, task=overlay compares",
    ("sub_requests",): "LLMServingSim's sessions with tools, whose requests wait for each other: this is not simulated",
    ("conversations",): "conversations in words: count their tokens and write a row per request",
    ("model_type",): "a model's configuration: model=hf model.path=FOLDER reads it",
}
"""Columns of what is no trace, and what that is."""


def recognised(names: Collection[str], given: Mapping[str, str]) -> Columns:
    """Return which columns of a file with these names hold what.

    Args:
        names: the columns that are there.
        given: the option `workload.columns`: what is in which column.
    """
    columns = next((each for each in (OWN, *KNOWN) if each.lengths_in(names)), OWN)
    if "arrival_s" in given:
        columns = replace(columns, unit=unit_in(given["arrival_s"]) or "s", whole=False)
    named: Mapping[str, Any] = given
    return replace(columns, **named)


def format_of(names: Collection[str]) -> str | None:
    """Return what has columns of these names, and what would read it, in words; None if it is not known."""
    for marks, told in _OTHERS.items():
        if set(marks) <= set(names):
            return told
    known = next((each for each in KNOWN if each.lengths_in(names) and each.arrival_s in names), None)
    return None if known is None else f"{known.title}'s columns: workload=trace reads them"


def unit_in(name: str) -> str | None:
    """Return the unit that a column's name ends with, as in `arrival_ms` or `time (us)`."""
    last = name.replace("(", " ").replace(")", " ").replace("_", " ").replace("[", " ").replace("]", " ").split()[-1:]
    return last[0] if last and last[0] in PER_SECOND else None


def check_columns(option: str, value: object) -> None:
    """Raise InputError unless this gives names to columns that a trace can have."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name.strip() for name in value.values()):
        raise InputError(f"{option} is {shown(value)}: give names, as in {{arrival_s: TIMESTAMP}}")
    for key in value:
        if key not in _NAMES:
            raise InputError(f"{option} has {shown(key)}: {nearest(key, _NAMES)}its keys are {', '.join(_NAMES)}")
