"""From a composed configuration to the objects of a run. What it names is checked before anything is imported."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from policies.checks import InputError, nearest, shown, switch, whole_number
from policies.policy import Policy, Traits
from sim.config.aliases import MOVED
from sim.config.pretrained import Pretrained
from sim.config.table_file import with_tables
from sim.config.task import Task
from sim.cost.device import Device
from sim.cost.engine_constants import EngineConstants
from sim.cost.memory import check_kv_tokens, kv_capacity
from sim.cost.model import Model
from sim.metrics.slo import SLO
from sim.simulation.execution import execution_of
from sim.simulation.policy_failure import SEE_MORE, kind_of, place_of
from sim.simulation.setting import Setting
from workloads.recorded.measured import Measured
from workloads.requests import MAX_TOKENS, Workload
from workloads.streams import MAX_SEED

Config = Mapping[str, Any]

Kind = TypeVar("Kind")

PACKAGES = ("policies.", "workloads.", "sim.", "real.")
"""What a `_target_` may begin with."""

MAX_GPUS = 8
"""Most GPUs of a node that share each layer."""

GROUPS = ("workload", "hardware", "model", "policy", "engine", "task")

FILES = ("timeline", "pictures", "report", "vllm_bench")
"""Switches that say which files a run leaves."""

OPTIONS = ("workload", "hardware", "model", "policy", "policies", "max_batch", "seed", "slo", *FILES)
"""What every configuration may hold at its top."""

SIMULATED = ("task", "measured", "engine", "execution", "tensor_parallel", "kv_tokens", "stretch", "interval")
"""What that of a simulation may hold beside them, and beside the options of its task."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared, whatever runs it.

    Attributes:
        policies: The policies to run, by name, in order.
        workload: What arrives.
        seed: Of all random streams.
        slo: What goodput is judged by.
        timeline: Whether to write a trace for Perfetto.
        pictures: Whether to draw.
        report: Whether to write a page to read in a browser.
        vllm_bench: Whether to write the summary as `vllm bench serve` does.
    """

    policies: dict[str, Policy]
    workload: Workload
    seed: int
    slo: SLO
    timeline: bool
    pictures: bool
    report: bool
    vllm_bench: bool


@dataclass(frozen=True, kw_only=True)
class Settings(Compared, Setting):
    """All that a simulation needs.

    Attributes:
        kv_tokens: KV memory of a GPU, in tokens.
        interval: Whether the simulation is repeated on hardware as it may truly be.
        task: What to do with all that.
    """

    kv_tokens: int
    interval: bool
    task: Task


def read_settings(config: Config, policies: Mapping[str, Any]) -> Settings:
    """Make the objects that a configuration of `python -m sim` describes.

    Args:
        config: The composed configuration, resolved, in plain containers.
        policies: The configuration of each policy to run, by name.

    Raises:
        InputError: if an option is unknown, missing, out of range or contradicts another, or names a foreign class.
    """
    task = read_task(config)
    options = [field.name for field in fields(task) if field.name not in config["task"]]
    compared = read_compared(config, policies, [*SIMULATED, *options], task.slo)
    task.check(compared.workload)
    if config.get("measured") is not None and "measured" not in options and not isinstance(compared.workload, Measured):
        raise InputError(
            f"measured={config['measured']} has no use in task={task.name}: add task=overlay, workload=measured or "
            "task=claims"
        )
    engine = task.engine(read_object(config, "engine", EngineConstants))
    gpus = read_count(config, "tensor_parallel", most=MAX_GPUS)
    assert gpus is not None
    hardware = read_object(config, "hardware", Device).deployed(engine, gpus)
    engine = hardware.engine_on(engine)
    execution = execution_of(config.get("execution"), hardware, engine)
    model = read_model(config)
    if isinstance(model, Pretrained):
        model = model.dimensions()
    kv_tokens = read_count(config, "kv_tokens", optional=True)
    if kv_tokens is not None:
        check_kv_tokens(hardware, model, kv_tokens)
    return Settings(
        **vars(compared),
        hardware=hardware,
        engine=engine,
        execution=execution,
        model=model,
        kv_tokens=kv_capacity(hardware, model) if kv_tokens is None else kv_tokens,
        stretch=read_switch(config, "stretch", absent=True),
        interval=read_switch(config, "interval", absent=False),
        task=task,
    )


def read_task(config: Config) -> Task:
    """Make the task that a configuration describes, with its options.

    Raises:
        InputError: if an option is missing or out of range.
    """
    kind = _kind_of(config, "task", Task)
    options = dict(config["task"])
    for field in fields(kind):
        if field.name in config and field.name not in options:
            nested: Any = field.type if is_dataclass(field.type) else None
            options[field.name] = read_options(config, field.name, nested) if nested else config[field.name]
    task: Task = build(options, "task")
    return task


def study_of(task: Task) -> Callable[[Settings, Path], Callable[[Any], None]]:
    """Return the class that does a task; its module is not imported before.

    Raises:
        InputError: if there is none.
    """
    place = f"task.study={task.chosen_study}"
    if not task.chosen_study.startswith(PACKAGES):
        raise InputError(f"{place} is refused: give a class of {', '.join(f'{p}*' for p in PACKAGES)}")
    study: Callable[[Settings, Path], Callable[[Any], None]] | None = _imported(task.chosen_study, place)
    if not callable(study):
        raise InputError(f"{place}: there is no such class; correct the path")
    return study


def read_compared(
    config: Config, policies: Mapping[str, Any], options: Collection[str], slo: type[SLO] = SLO
) -> Compared:
    """Make what every run needs.

    Args:
        config: As `read_settings` takes it.
        policies: The same.
        options: What this configuration may hold at its top beside `OPTIONS`.
        slo: What its `slo` describes.

    Raises:
        InputError: as `read_settings`.
    """
    known = list(dict.fromkeys([*OPTIONS, *options]))
    for option in config:
        if option not in known:
            hint = nearest(option, known)
            raise InputError(f"{option}: there is no such option; {hint}choose from {', '.join(known)}")
    if not policies and "policies" in config:
        raise InputError("policies is empty: name at least one, as in policies=[orca,baton]")
    refuse_foreign(config)
    refuse_foreign(policies)
    return Compared(
        policies=_policies(policies, read_count(config, "max_batch", optional=True)),
        workload=read_object(config, "workload", Workload),
        seed=read_seed(config.get("seed")),
        slo=read_options(config, "slo", slo) if "slo" in config else slo(),
        **{name: read_switch(config, name, absent=False) for name in FILES},
    )


def refuse_foreign(settings: Any, option: str = "", packages: tuple[str, ...] = PACKAGES) -> None:
    """Raise InputError at any `_target_`, however deep, that does not begin with one of these packages.

    Args:
        settings: Plain containers and values.
        option: Where they are in the configuration, for messages.
        packages: What a target may begin with.
    """
    if isinstance(settings, list | tuple):
        settings = dict(enumerate(settings))
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            place = f"{option}.{key}" if option else str(key)
            if key == "_target_" and not str(value).startswith(packages):
                raise InputError(f"{place}={value} is refused: give a class of {', '.join(f'{p}*' for p in PACKAGES)}")
            refuse_foreign(value, place, packages)


def build(settings: Any, option: str) -> Any:
    """Return what settings describe: each mapping with a `_target_` becomes an object, the innermost first.

    Args:
        settings: Plain containers and values.
        option: Where they are in the configuration, for messages.

    Raises:
        InputError: if a target is no dataclass of ours, or its options are not the ones it takes.
    """
    if isinstance(settings, Mapping) and "_target_" in settings:
        refuse_foreign(settings, option)
        target = _target(settings["_target_"], option)
        settings = with_tables(settings, option) if issubclass(target, Device) else settings
        options = {str(key): build(value, f"{option}.{key}") for key, value in settings.items() if key != "_target_"}
        _check_names(target, options, option)
        return target(**options)
    if isinstance(settings, list):
        return [build(value, option) for value in settings]
    return settings


def _target(path: str, option: str) -> type[Any]:
    """Import a class; it must be a dataclass defined in the module that the path names, not one it has imported."""
    place, path = f"{option}._target_={path}", MOVED.get(path, path)
    target = _imported(path, place)
    ours = inspect.isclass(target) and is_dataclass(target) and not inspect.isabstract(target)
    if not ours or target.__module__ != path.rpartition(".")[0]:
        raise InputError(f"{place}: there is no such class to configure; correct the path")
    assert isinstance(target, type)
    return target


def _imported(path: str, place: str) -> Any:
    """Import what a path names; None if its module has none of that name."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ImportError as error:
        raise InputError(f"{place}: {error}; correct the path") from error
    except Exception as error:
        raise InputError(f"{place}: {place_of(error)} raised {kind_of(error)}; {SEE_MORE}") from error


def _check_names(target: type[Any], options: Config, option: str) -> None:
    settable = [field for field in fields(target) if field.init]
    names = [field.name for field in settable]
    for name in options:
        if name not in names:
            hint = nearest(name, names)
            raise InputError(
                f"{option}.{name}: there is no such option; {hint}{target.__name__} takes {', '.join(names)}"
            )
    for field in settable:
        if field.name not in options and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{option}.{field.name} is missing: give {option}.{field.name}=VALUE")


def read_model(config: Config) -> Model | Pretrained:
    """Return the model that a configuration describes, or the one on disk that it names."""
    model: Model | Pretrained = read_object(config, "model", Model | Pretrained)
    return model


def read_object(config: Config, group: str, kind: Any) -> Any:
    """Build a group of the configuration, which must become an object of this kind."""
    _kind_of(config, group, kind)
    return build(config[group], group)


def _kind_of(config: Config, group: str, kind: Any) -> type[Any]:
    """Return the class that a group of the configuration names, which must be of this kind."""
    settings = config.get(group)
    if not isinstance(settings, Mapping) or "_target_" not in settings:
        raise InputError(f"{group} names no _target_: choose one by name; --help lists the names")
    refuse_foreign(settings, group)
    target = _target(settings["_target_"], group)
    if not (hasattr(target, "build") if kind is Workload else issubclass(target, kind)):
        raise InputError(f"{group}._target_={settings['_target_']} is no {group.title()}: choose another {group}")
    return target


def read_options(config: Config, option: str, kind: type[Kind]) -> Kind:
    """Make the dataclass that a mapping of options describes."""
    given = config.get(option)
    if not isinstance(given, Mapping):
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        raise InputError(f"{option}={shown(given)}: give {' or '.join(f'{option}.{name}=VALUE' for name in names)}")
    _check_names(kind, given, option)
    return kind(**given)


def read_switch(config: Config, option: str, absent: bool | None = None) -> bool:
    """Return an option that is on or off; `absent` is what it is in a task that does not have it."""
    value: Any = config.get(option, absent)
    switch(option, value)
    return bool(value)


def read_count(config: Config, option: str, optional: bool = False, most: int = MAX_TOKENS) -> int | None:
    """Return an option that is a whole number of at least 1, or None if it is `optional`."""
    value = config.get(option)
    if value is None and optional:
        return None
    whole_number(option, value, 1, most)
    assert isinstance(value, int)
    return value


def _policies(settings: Mapping[str, Any], max_batch: int | None) -> dict[str, Policy]:
    """Build all policies, each with `max_batch` if it is given."""
    policies = {}
    for name, options in settings.items():
        if max_batch is not None and isinstance(options, Mapping):
            options = {**options, "max_batch": max_batch}
        try:
            policies[name] = _policy(name, options)
        except InputError as error:
            told = f"{error} (in policy {name})" if len(settings) > 1 else str(error)
            raise InputError(told) from error.__cause__
    return policies


def _policy(name: str, options: Any) -> Policy:
    """Build a policy, and see that it can say what its traits are."""
    try:
        policy: Policy = read_object({"policy": options}, "policy", Policy)
        traits = policy.traits
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"policy {name}: {place_of(error)} raised {kind_of(error)}; {SEE_MORE}") from error
    if not isinstance(traits, Traits):
        raise InputError(f"policy {name}: its traits are {traits!r:.60}, which are no policies.policy.Traits")
    return policy


def read_seed(given: object) -> int:
    """Return a seed.

    Raises:
        InputError: if it is none.
    """
    whole_number("seed", given, 0, MAX_SEED)
    assert isinstance(given, int)
    return given
