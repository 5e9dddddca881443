"""The KEY=VALUE arguments of the command line, checked where Hydra would answer with a misleading hint."""

import re
from collections.abc import Iterator, Sequence

from policies.checks import InputError
from sim.config.settings import GROUPS

BY_PATH = ("hardware", "model", "engine")
"""Groups of which one's own file may be given by its path."""

PATHS = ("workload.path", "measured", "model.path")
"""Options whose values are paths."""

CONTRADICTIONS = (("policy", "policies"), ("max_batch", "policy.max_batch"))
"""Keys that cannot be given together."""


def check_overrides(overrides: Sequence[str], sweep: bool) -> None:
    """Refuse what cannot be meant.

    Args:
        overrides: Arguments such as `seed=1` or `+policy=baton`.
        sweep: Whether several values may be given for a key.

    Raises:
        InputError: at the first argument that is malformed, repeated, misplaced or contradicts another.
    """
    keys = [option_of(override) for override in overrides]
    for override, key in zip(overrides, keys, strict=True):
        if keys.count(key) > 1:
            raise InputError(f"{key} is given twice: give it once")
        if key in GROUPS:
            _check_group(key, override, sweep)
        if key.startswith("policy.") and "policy" not in keys:
            raise InputError(f"{key} needs +policy=NAME; to set all policies that are compared, give max_batch=N")
    if "hydra.launcher.n_jobs=0" in overrides:
        raise InputError("hydra.launcher.n_jobs=0: give a number of processes, or -1 for all cores")
    for one, other in CONTRADICTIONS:
        if one in keys and other in keys:
            raise InputError(f"{one}= and {other}= contradict each other: give the one or the other")


def files_given(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the group and the path of every file that is given instead of a name, as in `hardware=./profile.yaml`."""
    for override in overrides:
        group, _, values = override.partition("=")
        for value in values.split(",") if group in BY_PATH else ():
            if (path := value.strip(" '\"")).endswith(".yaml"):
                yield group, path


def quoted(override: str, sweep: bool) -> str:
    """Return an argument so that Hydra reads a path as it stands, with spaces, accents, commas, `~` and the like.

    Args:
        override: An argument.
        sweep: Whether a comma separates values.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") not in PATHS or value.startswith(("'", '"', "[", "$")):
        return override
    paths = value.split(",") if sweep else [value]
    return f"{key}=" + ",".join(path if _PLAIN.fullmatch(path) else _in_quotes(path) for path in paths)


def _in_quotes(path: str) -> str:
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", path) + "'"


_PLAIN = re.compile(r"[\w/.+:@%-]*", re.ASCII)


def forced(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a sweep so that they hold whatever the others choose.

    Hydra composes a sweep once without what is swept over, where the options of a swept group, or of a swept task, may
    be unknown. Whether they exist is checked again for every run.
    """
    swept_task = any(re.match(r"task=.*,", argument) for argument in arguments)
    options = r"(?!hydra\b)[\w.]+" if swept_task else rf"(?:{'|'.join(GROUPS)})\..+?"
    groups = tuple(f"{group}=" for group in GROUPS)
    return [
        argument if argument.startswith(groups) else re.sub(rf"^({options})=", r"++\1=", argument)
        for argument in arguments
    ]


def option_of(override: str) -> str:
    """Return the option or group that an argument names.

    Raises:
        InputError: if it is no argument of that kind.
    """
    key, equals, _ = override.partition("=")
    key = key.lstrip("+~")
    if not key or not (equals or override.startswith("~")):
        raise InputError(f"{override!r} is no option: give KEY=VALUE, as in workload=sharegpt or +policy=baton")
    return key


def _check_group(group: str, override: str, sweep: bool) -> None:
    """Refuse a group that is left empty, appended where it is there, or given several names in one run."""
    key, _, value = override.partition("=")
    right = "+policy" if group == "policy" else group
    if value in ("", "null"):
        raise InputError(f"{override}: choose one by name, {right}=NAME; --help lists the names")
    if key != right:
        raise InputError(f"{override}: write {right}={value}")
    if group in BY_PATH:
        for path in (one.strip(" '\"") for one in value.split(",")):
            if path.endswith((".json", ".yml")) or (path.startswith(("/", ".", "~")) and not path.endswith(".yaml")):
                raise InputError(f"{group}={path}: give a name, or the path of a YAML file that ends in .yaml")
    if re.search(r"[,\[]", value) and not sweep:
        compared = f"compare with policies=[{value.strip('[]')}], or " if group == "policy" else ""
        raise InputError(f"{override}: give one name; {compared}run each with -m")
