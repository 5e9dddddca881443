"""The objects of conf/, by name, without Hydra."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from policies.errors import InputError
from sim.configuration import build

CONF = Path(str(files("conf")))


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as Hydra does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_named(group: str, name: str) -> Any:
    """Return an object of conf/.

    Raises:
        InputError: There is none of that name, or it cannot be built.
    """
    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"{group}={name}: there is no {path}")
    return build(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader), group)
