"""What was measured on a real model, as the claims take it: a file per machine, read and written."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from policies.checks import InputError, choice, number, shown, whole_number
from sim.engine.execution import EXECUTIONS
from sim.metrics.interval import CONFIDENCE, Interval, t_quantile
from sim.output.writing import Draft, writing
from workloads.demand import counted

RATIO, SAME_TOKENS = "request_throughput", "same_tokens"
SHARES = ("idle_token_fraction", "wasted_time_fraction", "idle_time_fraction")
METRICS = (RATIO, *SHARES, SAME_TOKENS)
"""What is known of a quantity that was measured:

`request_throughput`, requests/s over the whole run, as a ratio to that of another policy; shares as in
`sim.metrics.metrics`; `same_tokens`, the share of the requests answered with the same tokens as under another policy.
"""

OF_TWO = (RATIO, SAME_TOKENS)
"""Metrics that compare a policy with another."""

ALL_AT_ONCE = "all at once"
"""The load of requests that are all there at the start."""

MOST = 1e12
_FOLDER = "measured"

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a model ran.

    Attributes:
        device: `cpu` or `cuda`.
        machine: Name of the processor or GPU.
        model: Name of the model.
        dtype: Of weights and KV.
        attention: Implementation of attention.
        execution: How decode steps were run, `eager` or `graphs`.
        threads: Threads of a CPU operation.
        versions: Of the software, by name.
    """

    device: str
    machine: str
    model: str
    dtype: str
    attention: str
    execution: str = "eager"
    threads: int
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Check the types.

        Raises:
            InputError: if one is wrong, or the execution is unknown.
        """
        for name in ("device", "machine", "model", "dtype", "attention"):
            _text(name, getattr(self, name))
        choice("execution", self.execution, EXECUTIONS)
        whole_number("threads", self.threads, 1, 10**6)
        if not isinstance(self.versions, Mapping) or not all(isinstance(one, str) for one in self.versions.values()):
            raise InputError(f"versions is {shown(self.versions)}: give the version of each software by its name")

    @property
    def place(self) -> str:
        """The processor or GPU in words, of a processor with the threads that were used."""
        return f"{self.machine}, {counted(self.threads, 'thread')}" if self.device == "cpu" else self.machine

    @property
    def network(self) -> str:
        """The model in words."""
        recorded = "" if self.execution == "eager" else f", {self.execution}"
        return f"{self.model} ({self.dtype}, {self.attention}{recorded})"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A quantity that was measured several times in one setting.

    Attributes:
        metric: One of `METRICS`.
        policy: Of which policy.
        to: The policy that it is compared with; None for a share.
        workload: What arrived, shortened lengths included.
        load: How it arrived.
        num_requests: Requests of a run.
        max_batch: Most rows in the batch.
        repeats: What was repeated, in words.
        count: How often.
        measured: The mean, of ratios the geometric one; of `same_tokens` the least.
        standard_error: Of the mean, of ratios that of its logarithm; None if it is not known, after one run. Of
            `same_tokens` it says nothing.
        predicted: What was predicted for the same setting; None: nothing.
    """

    metric: str
    policy: str
    to: str | None
    workload: str
    load: str
    num_requests: int
    max_batch: int
    repeats: str
    count: int
    measured: float
    standard_error: float | None
    predicted: float | None

    def __post_init__(self) -> None:
        """Check the types and the ranges.

        Raises:
            InputError: if one is wrong.
        """
        if self.metric not in METRICS:
            raise InputError(f"metric is {shown(self.metric)}: choose one of {', '.join(METRICS)}")
        for name in ("policy", "workload", "load", "repeats", *(("to",) if self.metric in OF_TWO else ())):
            _text(name, getattr(self, name))
        if self.metric not in OF_TWO and self.to is not None:
            raise InputError(f"to is {shown(self.to)}: {self.metric} is of one policy, give null")
        for name in ("num_requests", "max_batch", "count"):
            whole_number(name, getattr(self, name), 1, 2**31 - 1)
        low, high = (1e-9, MOST) if self.metric == RATIO else (0, 1)
        number("measured", self.measured, low, high)
        for name, least, most in (("standard_error", 0, MOST), ("predicted", low, high)):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), least, most)
        if self.standard_error is not None and self.count < 2 and self.standard_error > 0:
            raise InputError(f"standard_error is {shown(self.standard_error)}: it is not known of one run, give null")

    @property
    def found(self) -> Interval:
        """The quantity and its 95 % interval: Student's t over what was repeated, of ratios on their logarithms.

        Of `same_tokens` nothing is uncertain: answers were compared one by one, and one that differed did differ.
        """
        if self.metric == SAME_TOKENS or self.standard_error == 0:
            return Interval(self.measured, self.measured, self.measured)
        if self.standard_error is None:
            return Interval(self.measured, 0.0 if self.metric == RATIO else -math.inf, math.inf)
        half = t_quantile(CONFIDENCE, self.count - 1) * self.standard_error
        if self.metric == RATIO:
            factor = math.exp(min(half, 700.0))
            return Interval(self.measured, self.measured / factor, self.measured * factor)
        return Interval(self.measured, max(self.measured - half, 0.0), min(self.measured + half, 1.0))

    def turned(self) -> "Measurement | None":
        """Return the same with the two policies exchanged; None if it is of one policy."""
        if self.to is None:
            return None
        exchanged = replace(self, policy=self.to, to=self.policy)
        if self.metric == SAME_TOKENS:
            return exchanged
        return replace(
            exchanged, measured=1 / self.measured, predicted=None if self.predicted is None else 1 / self.predicted
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on one machine.

    Attributes:
        machine: Where and how.
        date: When, as YYYY-MM-DD.
        commands: What was run.
        results: What was found.
    """

    machine: Machine
    date: str
    commands: Sequence[str]
    results: Sequence[Measurement]


def committed() -> list[Measured]:
    """Return what the project holds, a file per machine, in the order of their names."""
    folder = files("sim.claims").joinpath(_FOLDER)
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return [parse(entry.read_text("utf-8"), entry.name) for entry in found]


def read_file(path: Path) -> Measured:
    """Return what a file holds.

    Raises:
        InputError: if it cannot be read, or is not as `write` makes it.
    """
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give what python -m real or python -m sim.claims left") from None


def read_mapping(text: str, name: str) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Raises:
        InputError: if it is none.
    """
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}, line {error.lineno}: not valid JSON ({error.msg}); write it again") from None
    if not isinstance(given, dict):
        raise InputError(f"{name}: holds {shown(given)}, not a JSON object; write it again")
    return given


def parse(text: str, name: str) -> Measured:
    """Return what a text says.

    Args:
        text: JSON, as `write` makes it.
        name: What to call it in messages.

    Raises:
        InputError: if it is not as `write` makes it: what, and where.
    """
    given = read_mapping(text, name)
    unknown = given.keys() - {field.name for field in fields(Measured)}
    results, commands = given.get("results"), given.get("commands")
    if unknown:
        raise InputError(f"{name}: {min(unknown)} is unknown; leave it out")
    if not isinstance(results, list) or not results:
        raise InputError(f"{name}: results is {shown(results)}: give a list of at least one")
    if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
        raise InputError(f"{name}: commands is {shown(commands)}: give a list of what was run")
    try:
        _text("date", given.get("date"))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Measured(
        machine=_made(Machine, given.get("machine"), f"{name}: machine"),
        date=given["date"],
        commands=commands,
        results=[_made(Measurement, one, f"{name}: results[{place}]") for place, one in enumerate(results)],
    )


def write(path: Path, measured: Measured) -> None:
    """Write what was measured as JSON, a result a line.

    Raises:
        InputError: if the file cannot be written.
    """
    given = asdict(measured)
    results = ",\n    ".join(json.dumps(result, allow_nan=False) for result in given.pop("results"))
    head = json.dumps(given, indent=2, allow_nan=False).removesuffix("\n}")
    with writing(path), Draft(path) as part:
        part.write_text(f'{head},\n  "results": [\n    {results}\n  ]\n}}\n', encoding="utf-8")


def _made(kind: type[Kind], given: Any, where: str) -> Kind:
    if not isinstance(given, Mapping):
        raise InputError(f"{where} is {shown(given)}: give an object")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for problem in _misnamed(kind, given, known):
        raise InputError(f"{where}.{problem}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _misnamed(kind: type[Any], given: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    yield from (f"{name} is unknown: leave it out" for name in given if name not in known)
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    yield from (f"{name} is missing: give it" for name in needed if name not in given)


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} is {shown(value)}: give it in words")
