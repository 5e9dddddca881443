"""The objects that files of conf/ describe, by name, as the command line chooses them; for use from Python."""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import yaml

from policies.checks import InputError, nearest
from sim.config.settings import build, refuse_foreign
from sim.config.shipped import CONF

Kind = TypeVar("Kind")


def names(group: str) -> list[str]:
    """Return the names of a group, such as `policy` or `hardware`, in alphabetical order."""
    return sorted(path.stem for path in CONF.joinpath(group).glob("*.yaml"))


@cache
def options(group: str, name: str) -> Mapping[str, Any]:
    """Return what conf/GROUP/NAME.yaml says, in plain containers.

    Raises:
        InputError: There is no such file.
    """
    if name not in names(group):
        hint = nearest(name, names(group))
        raise InputError(f"{group}={name} is unknown; {hint}choose from {', '.join(names(group))}")
    described: Mapping[str, Any] = yaml.safe_load(CONF.joinpath(group, f"{name}.yaml").read_text("utf-8"))
    return described


def named(group: str, given: str | Kind, kind: type[Kind], **changes: Any) -> Kind:
    """Return an object as it is, or the one that a name stands for.

    Args:
        group: Folder of conf/: `policy`, `workload`, `hardware`, `engine` or `model`.
        given: A name, or an object.
        kind: What it must be.
        changes: Options of a named object that are not as its file says.

    Raises:
        InputError: The name is unknown, or an option is bad.
    """
    if not isinstance(given, str):
        if not isinstance(given, kind):
            raise InputError(f"{group}={given!r:.60}: give a name or a {kind.__name__}")
        return given
    settings = {**options(group, given), **changes}
    refuse_foreign(settings, group)
    made = build(settings, group)
    if not isinstance(made, kind):
        raise InputError(f"{group}={given} is no {kind.__name__}: choose another")
    return made
