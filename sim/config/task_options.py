"""What `python -m sim` is to do, and the options that a task has no use for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from policies.checks import Checked, InputError, Number, Whole, choice, number, shown, whole_number
from sim.metrics.slo import SLO
from workloads.requests import MAX_TOKENS

TASKS = ("run", "overlay", "capacity", "explain", "claims")
OPTIONS = ("task", "replications", "warm_up", "precision", "request")
"""The options of a task, beside those of a simulation."""

MAX_REPLICATIONS = 10_000
WARM_UP = 0.1
"""Share of the requests that is not counted where runs are repeated, unless another is given."""
ATTAINMENT = 0.99
PRECISION = 0.02
"""Step between the rates that `capacity` tries, relative to the rate, unless another is given."""
MOST_LOOKS = 32
"""Replications of a rate that `capacity` makes at most, unless another number is given."""

_OF_ONE_RUN = {"interval": False, "vllm_bench": False}
"""What only a comparison that is made once has, and its default."""

_OF_CLAIMS = {"claims.size": "quick"}
"""What only task=claims has, and its default."""

_UNUSED: dict[str, dict[str, Any]] = {
    "run": {**_OF_CLAIMS, "request": None, "precision": None, "slo.attainment": None},
    "overlay": {**_OF_CLAIMS, "request": None, "replications": None, "precision": None, "slo.attainment": None},
    "capacity": {**_OF_CLAIMS, "request": None, "timeline": False, **_OF_ONE_RUN},
    "claims": {
        "policy": None,
        "policies": ["run_to_completion", "orca", "baton"],
        "max_batch": None,
        "slo": {"ttft_s": None, "tpot_s": None, "attainment": None},
        "stretch": True,
        "execution": None,
        "request": None,
        "replications": None,
        "precision": None,
        "timeline": False,
        "report": False,
        **_OF_ONE_RUN,
    },
    "explain": {
        **_OF_CLAIMS,
        "replications": None,
        "precision": None,
        "slo.attainment": None,
        "report": False,
        **_OF_ONE_RUN,
    },
}


@dataclass(frozen=True)
class Objective(SLO):
    """An SLO and the share of the requests that must meet it.

    Attributes:
        attainment: That share, above 0 and below 1; None: 0.99.

    Raises:
        InputError: if a limit or the share is out of range.
    """

    attainment: Annotated[float | None, Number(0.01, 0.9999)] = None


def check_attainment(given: object) -> None:
    """Raise InputError if it is no share that can be asked for."""
    number("slo.attainment", given, 0.01, 0.9999)


def check_replications(given: object) -> None:
    """Raise InputError if nothing can be repeated so often."""
    whole_number("replications", given, 2, MAX_REPLICATIONS)


def check_warm_up(given: object) -> None:
    """Raise InputError if it is no share that can be left out."""
    number("warm_up", given, 0, 0.9)


def check_precision(given: object) -> None:
    """Raise InputError if it is no step between rates."""
    number("precision", given, 0.001, 0.5)


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is to be done.

    Attributes:
        task: one of `TASKS`.
        replications: How often a comparison is repeated (None: it is made once), or a rate at most.
        warm_up: Share of the requests, the first to arrive, that does not count where runs are repeated.
        precision: Step between the rates that `capacity` tries, relative to the rate.
        request: The request to explain.
    """

    task: str
    replications: int | None
    warm_up: float
    precision: float
    request: int | None


def read_task(config: Mapping[str, Any]) -> TaskOptions:
    """Return what a configuration asks for.

    Raises:
        InputError: if an option is out of range, or the task has no use for it.
    """
    task, replications = config.get("task", "run"), config.get("replications")
    warm_up, precision, request = (config.get(option) for option in ("warm_up", "precision", "request"))
    choice("task", task, TASKS)
    _refuse_unused(config, task)
    if replications is not None:
        check_replications(replications)
    repeats = task == "capacity" or replications is not None
    if warm_up is not None:
        if not repeats:
            raise InputError(f"warm_up={shown(warm_up)} has no use without replications=N: leave it out, or give both")
        check_warm_up(warm_up)
    if task == "run" and replications is not None:
        for option in ("timeline", *_OF_ONE_RUN):
            if config.get(option):
                raise InputError(f"{option}=true has no use with replications=N: leave it out, or run once")
    if precision is not None:
        check_precision(precision)
    if task == "explain":
        whole_number("request", request, 0, MAX_TOKENS)
    return TaskOptions(
        task=task,
        replications=replications if replications is not None or task != "capacity" else MOST_LOOKS,
        warm_up=(WARM_UP if warm_up is None else float(warm_up)) if repeats else 0.0,
        precision=PRECISION if precision is None else float(precision),
        request=request,
    )


def _refuse_unused(config: Mapping[str, Any], task: str) -> None:
    for option, default in _UNUSED[task].items():
        value: Any = config
        for key in option.split("."):
            value = value.get(key, default) if isinstance(value, Mapping) else default
        if value != default:
            told = str(value).lower() if isinstance(value, bool) else shown(value)
            raise InputError(f"{option}={told} has no use in task={task}: leave it out")


@dataclass(frozen=True)
class OverlayOptions(Checked, option="overlay"):
    """How task=overlay compares.

    Attributes:
        warmup: Requests at the start that are simulated but not compared.
        times: Who took the times: a `client`, or the `server` itself, which knows nothing of the way to it.

    Raises:
        InputError: if the first is no whole number of at least 0, or the second is neither.
    """

    warmup: Annotated[int, Whole(0, MAX_TOKENS)] = 0
    times: Literal["client", "server"] = "client"


Size = Literal["quick", "full"]


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions(Checked, option="claims"):
    """How much is simulated.

    Attributes:
        size: `quick`, less than a minute, or `full`, some minutes.

    Raises:
        InputError: The size is unknown.
    """

    size: Size = "quick"
