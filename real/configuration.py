"""From a composed configuration to what a run on a real model needs. Torch is not imported for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from policies.checks import Checked, InputError, Number, Whole, choice, number, shown, whole_number
from sim.config.pretrained import Pretrained
from sim.config.settings import Compared, Config, read_compared, read_count, read_model, read_object, read_options
from sim.cost.device import Device
from sim.cost.model import Model
from sim.engine.execution import EXECUTIONS, Execution
from workloads.requests import MAX_TOKENS, Workload


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Checked, option="profile"):
    """How thorough a profile is.

    Attributes:
        quick: A coarse grid, one round.
        rounds: How often everything is measured.
        longest: Tokens of the longest prompt.
        limit_s: No round begins after so many seconds; None: all rounds are made.
    """

    quick: bool = False
    rounds: Annotated[int, Whole(1, 1000)] = 3
    longest: Annotated[int, Whole(2, MAX_TOKENS)] = 256
    limit_s: Annotated[float | None, Number(0, 1e6)] = None


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(Checked, option="validate"):
    """How long to measure, and at which load.

    Attributes:
        limit_s: No round begins after so many seconds of measuring, but for the first of each load.
        standard_error: Relative standard error of the throughput ratios that is good enough.
        rounds: Fewest rounds; one is made even if the time is up.
        load: Arrival rate of the second load, as a share of the lowest measured capacity.
    """

    limit_s: Annotated[float, Number(0, 1e6)] = 600.0
    standard_error: Annotated[float, Number(1e-4, 1)] = 0.015
    rounds: Annotated[int, Whole(1, 1000)] = 3
    load: Annotated[float, Number(0.01, 10)] = 0.7


TASKS = ("run", "profile", "validate")
DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")
MAX_BYTES = 2**60

SECOND = "workload"
"""The workload among the options of `validate`."""

_RUN_ONLY: dict[str, Any] = {"texts": None, "timeline": False, "report": False, "vllm_bench": False, "pictures": True}
_RUN_ONLY |= {"time_scale": 1, "slo.ttft_s": None, "slo.tpot_s": None}

UNUSED: dict[str, dict[str, Any]] = {
    "run": {},
    "validate": _RUN_ONLY,
    "profile": _RUN_ONLY | {"kv_tokens": None, "length_scale": 1, "max_request_tokens": None, "hardware": None},
}
"""Options that a task has no use for, with the values that they have unless they are given."""

OPTIONS = (
    "task",
    "device",
    "dtype",
    "attention",
    "execution",
    "threads",
    "memory_bytes",
    "kv_tokens",
    "time_scale",
    "length_scale",
    "max_request_tokens",
    "texts",
    "profile",
    "validate",
)
"""What a configuration may hold at its top beside what every one may."""


@dataclass(frozen=True, kw_only=True)
class Settings(Compared):
    """All that a task on a real model needs.

    Attributes:
        task: One of `TASKS`.
        model: Dimensions of a model to get random weights, or one that has its own.
        hardware: What idle time is priced by; None: the machine, measured as the run begins.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        dtype: Type of weights and KV; None: the model's own.
        attention: Implementation of attention.
        execution: How decode steps are run.
        threads: Threads of a CPU operation; None: as torch chooses.
        memory_bytes: Memory to use; None: what the device has.
        kv_tokens: KV memory, in tokens; None: what fits.
        time_scale: Seconds on the clock per second of the workload's arrivals.
        length_scale: Factor of all lengths.
        max_request_tokens: Most tokens of a request, longer ones are shortened; None: no bound.
        texts: File of real prompts; None: random tokens.
        profile: How task=profile measures.
        validate: How task=validate measures.
        second_workload: What else task=validate measures; None: nothing.
    """

    task: str
    model: Model | Pretrained
    hardware: Device | None
    device: str
    dtype: str | None
    attention: str
    execution: Execution
    threads: int | None
    memory_bytes: int | None
    kv_tokens: int | None
    time_scale: float
    length_scale: float
    max_request_tokens: int | None
    texts: Path | None
    profile: ProfileOptions
    validate: ValidateOptions
    second_workload: Workload | None


def read_settings(config: Config, policies: Mapping[str, Any]) -> Settings:
    """Make the objects that a configuration of `python -m real` describes.

    Args:
        config: The composed configuration, resolved, in plain containers.
        policies: The configuration of each policy to run, by name.

    Raises:
        InputError: if an option is unknown, missing, out of range or contradicts another, or names a foreign class.
    """
    compared = read_compared(config, policies, OPTIONS)
    choice("task", config.get("task"), TASKS)
    choice("dtype", config.get("dtype"), DTYPES)
    choice("attention", config.get("attention"), ATTENTIONS)
    choice("execution", config.get("execution"), EXECUTIONS)
    number("time_scale", config.get("time_scale"), 0, 1e6)
    number("length_scale", config.get("length_scale"), 1e-4, 1)
    _refuse_unused(config)
    for name, policy in compared.policies.items():
        if policy.traits.lanes == "separate":
            raise InputError(f"policy {name} needs a second GPU for its prefill, and one device is driven here")
        if policy.traits.finds_prefixes:
            raise InputError(
                f"policy {name} has a prefix cache, and none is run here: give policy.prefix_caching=false"
            )
        if policy.traits.chunks and config["task"] != "run":
            raise InputError(
                f"policy {name} prefills in chunks, which task={config['task']} knows nothing of: leave it out"
            )
    model = read_model(config)
    validate = _section(config, "validate")
    return Settings(
        **vars(compared),
        task=config["task"],
        model=model,
        hardware=read_object(config, "hardware", Device) if config.get("hardware") is not None else None,
        device=_text(config, "device"),
        dtype=_dtype(config["dtype"], model),
        attention=config["attention"],
        execution=Execution(config["execution"]),
        threads=read_count(config, "threads", optional=True, most=4096),
        memory_bytes=read_count(config, "memory_bytes", optional=True, most=MAX_BYTES),
        kv_tokens=read_count(config, "kv_tokens", optional=True),
        time_scale=float(config["time_scale"]),
        length_scale=float(config["length_scale"]),
        max_request_tokens=_max_request_tokens(config.get("max_request_tokens")),
        texts=_texts(config.get("texts"), model),
        profile=read_options({"profile": _section(config, "profile")}, "profile", ProfileOptions),
        validate=read_options(
            {"validate": {name: value for name, value in validate.items() if name != SECOND}},
            "validate",
            ValidateOptions,
        ),
        second_workload=_second_workload(validate.get(SECOND)),
    )


def _refuse_unused(config: Config) -> None:
    """Refuse what a task would not heed."""
    task = config["task"]
    for option, default in UNUSED[task].items():
        group, _, name = option.partition(".")
        value = config.get(group)
        if name and isinstance(value, Mapping):
            value = value.get(name)
        if value != default:
            told = value.get("name") if isinstance(value, Mapping) else shown(value)
            told = str(value).lower() if isinstance(value, bool) else told
            raise InputError(f"{option}={told} has no use in task={task}: leave it out")


def _dtype(given: str, model: Model | Pretrained) -> str | None:
    """Return the type of weights and KV that was asked for; None if none was.

    Raises:
        InputError: `dtype` and `model.dtype` ask for two.
    """
    wanted = [each for each in (None if given == "auto" else given, getattr(model, "dtype", None)) if each]
    if len(set(wanted)) > 1:
        raise InputError(f"dtype={wanted[0]} and model.dtype={wanted[1]} contradict each other: leave one of them out")
    return wanted[0] if wanted else None


def _text(config: Config, option: str) -> str:
    value = config.get(option)
    if not isinstance(value, str):
        raise InputError(f"{option}={shown(value)}: give a name")
    return value


def _max_request_tokens(given: Any) -> int | None:
    if given is not None:
        whole_number("max_request_tokens", given, 2, 2**31 - 1)
    return None if given is None else int(given)


def _texts(given: Any, model: Model | Pretrained) -> Path | None:
    if given is None:
        return None
    if isinstance(model, Model):
        raise InputError(f"texts={given} needs a model with a tokenizer: give model=hf model.path=FOLDER")
    return Path(str(given))


def _section(config: Config, option: str) -> Mapping[str, Any]:
    value = config.get(option)
    if not isinstance(value, Mapping):
        raise InputError(f"{option}={shown(value)}: give options of it, {option}.NAME=VALUE")
    return value


def _second_workload(given: Any) -> Workload | None:
    if given is None:
        return None
    workload: Workload = read_object({f"validate.{SECOND}": given}, f"validate.{SECOND}", Workload)
    return workload
