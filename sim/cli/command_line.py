"""What the command lines share: Hydra composes a configuration, checked before it acts, and a program runs it.

Whatever a person can mend ends in one line on stderr and exit code 2; Ctrl-C ends in 130.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import hydra
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from policies.checks import InputError, nearest
from sim.cli.one_line import in_one_line, missing_key
from sim.cli.overrides import check_overrides, files_given, forced, option_of, quoted
from sim.cli.sweep import FAILED, Point, fingerprint, gather, in_words, open_sweep, sweep_id, write_table
from sim.config.settings import GROUPS, PACKAGES, Config, read_switch, refuse_foreign
from sim.config.shipped import claim_name
from sim.config.table_file import TABLES, beside
from sim.version import __version__

HYDRA_PACKAGES = (*PACKAGES, "hydra._internal.core_plugins.", "hydra_plugins.")
"""What a `_target_` anywhere in the composed configuration, Hydra's own part counted, may begin with."""

TASKS = {"real": "real_task"}
"""The group that holds the tasks of a configuration, where that is not `task`: both are `task=` on the command line."""

_load = ConfigLoaderImpl.load_configuration
claim_name()  # at import: a sweep's workers compose too


class Task(Protocol):
    """What a program does with a configuration."""

    def __call__(self, config: Config, policies: Mapping[str, Any], folder: Path) -> None:
        """Run.

        Args:
            config: The composed configuration, resolved, in plain containers.
            policies: The configuration of each policy to run, by name.
            folder: Where results go.

        Raises:
            InputError: if a person must mend the input.
            KeyboardInterrupt: on Ctrl-C; its message says what was saved.
        """


@dataclass(frozen=True)
class Program:
    """A command line.

    Attributes:
        config: Name of its configuration in conf/.
        task: What it does.
    """

    config: str
    task: Task

    def __call__(self) -> None:
        """Run the command line."""
        if sys.argv[1:] == ["--version"]:
            print(f"baton-sim {__version__}")
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing half-written either
        os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us, not Hydra's own printer
        try:
            sys.argv[1:] = _arguments(sys.argv[1:])
            ConfigLoaderImpl.load_configuration = _load_checked  # type: ignore[method-assign]
            hydra.main(version_base="1.3", config_path="pkg://conf", config_name=self.config)(self._run)()
        except KeyboardInterrupt as stop:
            _exit(130, str(stop) or "interrupted")
        except BrokenPipeError:
            _leave_pipe()
        except Exception as error:  # `_run` lets none pass: this one is Hydra's, about what it was given
            _exit(2, f"error: {in_one_line(error)}")

    def _run(self, composed: DictConfig) -> None:
        """Run one composed configuration."""
        try:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                self._run_point(composed)
            else:
                config, policies = _plain(composed)
                self.task(config, policies, Path(HydraConfig.get().runtime.output_dir))
        except InputError as error:
            _trace(composed, error)
            _exit(2, f"error: {error}")
        except KeyboardInterrupt as stop:
            _exit(130, str(stop) or "interrupted")
        except BrokenPipeError:
            _leave_pipe()
        except Exception:
            traceback.print_exc()
            sys.exit(1)

    def _run_point(self, composed: DictConfig) -> None:
        """Run one point of a sweep, unless it is finished, and record what became of it: the others go on."""
        job = HydraConfig.get()
        point = Point(
            folder=Path(job.runtime.output_dir), number=job.job.num, overrides=tuple(map(str, job.overrides.task))
        )
        told = f"run {point.number}: {' '.join(point.overrides)}"
        try:
            config, policies = _plain(composed)
            point = replace(point, fingerprint=fingerprint(config, policies))
            if point.finished:
                print(f"{told} (finished before)", flush=True)
                return
            print(told, flush=True)
            self.task(config, policies, point.folder)
            point.record()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                f"{stop or 'interrupted'}; the same command goes on with run {point.number}"
            ) from None
        except InputError as error:
            _trace(composed, error)
            print(f"run {point.number} failed: {error}", file=sys.stderr, flush=True)
            point.record(str(error))
        except BrokenPipeError:
            raise
        except Exception as error:
            traceback.print_exc()
            point.record(f"{type(error).__name__}: {error}", defect=True)


class Gathering(Callback):
    """Claims the folder of a sweep as it starts, and gathers its points as it ends."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that holds another sweep."""
        try:
            open_sweep(Path(config.hydra.sweep.dir), list(config.hydra.overrides.task))
        except InputError as error:
            _exit(2, f"error: {error}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the table and the picture of the sweep, and say which points failed."""
        from sim.cli.sweep_picture import write_sweep_plot

        folder = Path(config.hydra.sweep.dir)
        try:
            sweep = gather(folder)
            write_table(folder / "sweep.parquet", sweep.rows)
            picture = write_sweep_plot(folder / "sweep.png", sweep)
        except InputError as error:
            _exit(2, f"error: {error}")
        files = ["sweep.parquet", *([picture.name] if picture else [])]
        said, *failure = in_words(sweep.rows, folder, files).split("\n")
        print(said, flush=True)
        if failure:
            _exit(1 if any(row["defect"] for row in sweep.rows if row["status"] == FAILED) else 2, failure[0])


def _plain(composed: DictConfig) -> tuple[Config, dict[str, Any]]:
    """Return a configuration, and that of each policy to run, in plain containers."""
    try:
        config: Any = OmegaConf.to_container(composed, resolve=True)
        _refuse_added(config)
        _place_tables(config)
        read_switch(config, "debug")
        return {key: value for key, value in config.items() if key != "debug"}, _policies(config)
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise InputError(in_one_line(error)) from None


def _refuse_added(config: Mapping[str, Any]) -> None:
    """Refuse options that were added, as in `+precision=0.1` or `+policy=orca`, to a task that does not have them."""
    job = HydraConfig.get()
    added = [option_of(each) for each in job.overrides.task if each.startswith("+")]
    if not added or "task" not in job.runtime.choices:
        return
    own = compose(job.job.config_name, [f"task={job.runtime.choices['task']}"])
    for option in added:
        top = option.partition(".")[0]
        if ("policies" if top == "policy" else top) not in own and top in config:
            _refuse_useless(GlobalHydra.instance().config_loader(), job.job.config_name, job.overrides.task, top)


def _refuse_useless(loader: Any, program: str | None, overrides: Sequence[str], option: str) -> None:
    """Raise InputError if an option that the chosen task does not have is that of another.

    Args:
        loader: Hydra's.
        program: Name of the configuration.
        overrides: The arguments.
        option: The option.
    """
    tasks = loader.get_group_options("task")
    argument = next((each for each in overrides if f"{option_of(each)}.".startswith(f"{option}.")), None)
    composed = {task: _load(loader, program, [f"task={task}"], RunMode.RUN) for task in tasks}
    if argument is None or not any(
        _holds(each, "policies" if option == "policy" else option) for each in composed.values()
    ):
        return
    chosen = [each.partition("=")[2] for each in overrides if each.startswith("task=")]
    task = chosen[0] if chosen else _load(loader, program, [], RunMode.RUN).hydra.runtime.choices.task
    raise InputError(f"{argument.lstrip('+')} has no use in task={task}: leave it out")


def _holds(composed: DictConfig, option: str) -> bool:
    """Return whether a configuration has an option, whatever its value."""
    return OmegaConf.select(composed, option, default=composed) is not composed


def _place_tables(config: Mapping[str, Any]) -> None:
    """Say in which folder the tables of a hardware file lie: its own."""
    hardware, chosen = config.get("hardware"), str(HydraConfig.get().runtime.choices.get("hardware"))
    if not isinstance(hardware, dict) or not isinstance(hardware.get(TABLES), str):
        return
    folder = os.path.dirname(chosen)
    if not chosen.endswith(".yaml"):
        sources = [source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
        groups = [os.path.join(source, "hardware") for source in sources]
        folder = next((group for group in groups if os.path.isfile(os.path.join(group, f"{chosen}.yaml"))), folder)
    hardware[TABLES] = beside(hardware[TABLES], folder)


def _policies(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of every policy to run, by name: the one given by +policy=, else those to compare."""
    job = HydraConfig.get()
    if "policy" in config:
        return {str(job.runtime.choices.get("policy")): config["policy"]}
    if "policies" not in config:
        return {}
    names = _names(config["policies"])
    # A second composition, so that a policy file may build on others, as with +policy=.
    selected = [f"+policy@compared.{name}={name}" for name in names]
    composed = compose(job.job.config_name, [*job.overrides.task, *selected])
    made: Any = OmegaConf.to_container(composed, resolve=True)
    return {name: made["compared"][name] for name in names}


def _names(given: Any) -> list[str]:
    """Check the list of policies to compare."""
    known = GlobalHydra.instance().config_loader().get_group_options("policy")
    if not isinstance(given, list) or not given:
        raise InputError(f"policies={given}: give a list, such as policies=[orca,baton]")
    for name in given:
        if name not in known:
            raise InputError(f"policies: {name} is unknown; {nearest(name, known)}choose from {', '.join(known)}")
        if given.count(name) > 1:
            raise InputError(f"policies: {name} is named twice; name each once")
    return given


def _arguments(given: list[str]) -> list[str]:
    """Check the arguments before Hydra sees them, and return them as Hydra shall see them.

    Raises:
        InputError: at the first that is wrong.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    known, left = parser.parse_known_args(given)
    unknown = [argument for argument in left if argument.startswith("-")]
    if unknown:
        _refuse_flag(f"{unknown[0]}: there is no such flag")
    if known.experimental_rerun is not None:
        raise InputError("--experimental-rerun is refused: it would unpickle a file; give the options again")
    overrides = [*known.overrides, *left]  # argparse leaves those that stand after a flag
    flags = [argument for argument in given if argument not in overrides]
    check_overrides(overrides, sweep=known.multirun)
    for group, path in files_given(overrides):
        _offer(group, path)
    overrides = [quoted(each, sweep=known.multirun) for each in overrides]
    if not known.multirun:
        return [*overrides, *flags]
    if not any(override.startswith("hydra.sweep.dir=") for override in overrides):
        overrides = [*overrides, f"hydra.sweep.dir=multirun/{sweep_id(overrides)}"]
    return [*forced(overrides), *flags]


def _offer(group: str, path: str) -> None:
    """Let a file be chosen by its path, as those of conf/ are by name.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        node = OmegaConf.load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{group}={path}: {_reason(error)}") from None
    if not isinstance(node, DictConfig) or not node:
        raise InputError(f"{group}={path}: it holds no options; give a YAML file as those of conf/{group}")
    *folders, name = filter(None, path.split("/"))
    if group in ("hardware", "engine") and "name" in node:
        node["name"] = name.removesuffix(".yaml")  # a copy is not what it was copied from
    ConfigStore.instance().store(name=name, node=node, group="/".join([group, *folders]), package=group)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (
            f"cannot be read ({os.strerror(error.errno)}); give the path of a YAML file" if error.errno else str(error)
        )
    return in_one_line(error)


def _refuse_flag(message: str) -> NoReturn:
    raise InputError(f"{message}; see --help")


def _load_checked(
    self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
) -> DictConfig:
    """Compose a configuration and check it before Hydra acts on it: its callbacks, launchers and logging too."""
    group = TASKS.get(str(config_name), "task")
    try:
        config = _load(self, config_name, [re.sub("^task=", f"{group}=", each) for each in overrides], *args, **kwargs)
        if config_name in TASKS:
            given: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
            config.hydra.overrides.task = [re.sub(f"^{group}=", "task=", each) for each in given]
    except ConfigCompositionException as error:
        option = missing_key(error)
        if config_name in TASKS:
            raise InputError(in_one_line(error).replace(f"{group}=", "task=", 1)) from error
        if option and option.partition(".")[0] not in GROUPS:
            _refuse_useless(self, config_name, overrides, option)
        raise
    plain: Any = OmegaConf.to_container(config, resolve=False)
    try:
        refuse_foreign(plain, packages=HYDRA_PACKAGES)
    except InputError as error:  # the policies to compare are composed under a key of our own
        raise InputError(re.sub(r"^compared\.(.+?)\.", r"policy \1: ", str(error))) from None
    _refuse_factories(plain.get("hydra", {}))
    return config


def _refuse_factories(settings: Mapping[str, Any]) -> None:
    """Refuse logging configurations that name anything but classes of `logging`."""
    for part in ("job_logging", "hydra_logging"):
        found = str(settings.get(part))
        if "'()'" in found or re.search(r"'class': '(?!logging\.)", found):
            raise InputError(f"hydra.{part}: only classes of Python's logging may be named")


def _trace(composed: DictConfig, error: InputError) -> None:
    """With debug=true, show where an error came from."""
    if composed.get("debug") is True:
        traceback.print_exception(error.__cause__ or error)


def _leave_pipe() -> NoReturn:
    """End as other programs do when nobody reads on: silently, with 128 + SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _exit(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
