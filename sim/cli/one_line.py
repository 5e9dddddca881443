"""One line about what is wrong with a configuration, from errors that take several."""

import errno
import os
import re

from policies.checks import InputError

_MISSING_FILE = re.compile(r"Could not find '(.+)/(.+?)'\s+Available options in '.+?':\n((?:\t.+\n?)+?)(?=Config|\Z)")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+?)'\n")
_EXTRAS = {"joblib": "sweep", "submitit_slurm": "slurm", "submitit_local": "slurm"}
"""Launchers that another package brings, and the extra of ours that names it."""
_NOISE = re.compile(r"^(full_key|object_type|reference_type|provider)\b|^See https?://|^Config search path")


def in_one_line(error: Exception) -> str:
    """Return what an error of Hydra, OmegaConf, YAML or the file system says: what, where, how to mend."""
    if isinstance(error, InputError):
        return str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{mark.name}, line {mark.line + 1}: not valid YAML ({getattr(error, 'problem', 'syntax')}); correct it"
    if isinstance(error, UnicodeDecodeError):
        return "a configuration file is not UTF-8 text: correct or remove it"
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename}: {os.strerror(error.errno)}; {_remedy(error.errno)}"
    if found := _AMBIGUOUS.search(str(error)):
        return f"{found[1]}: give one value, or a list as [A,B]; or add -m, which runs each value"
    return _missing_key(error) or _missing_file(error) or _joined(error)


def _remedy(code: int) -> str:
    return "make room" if code in (errno.ENOSPC, errno.EDQUOT) else "choose another folder with hydra.run.dir=FOLDER"


def _missing_key(error: Exception) -> str | None:
    """Say which options there are where one was not found."""
    cause = error.__cause__
    key, parent = getattr(cause, "full_key", None), getattr(cause, "parent_node", None)
    if not key or parent is None or "Could not override" not in str(error):
        return None
    place = f"{key.rpartition('.')[0]} takes" if "." in key else "choose from"
    names = [str(name) for name in parent if name not in ("_target_", "hydra")] if hasattr(parent, "keys") else []
    return f"{key}: there is no such option" + (f"; {place} {', '.join(names)}" if names else "")


def _missing_file(error: Exception) -> str | None:
    """Say which files of a group there are where one was not found."""
    found = _MISSING_FILE.search(str(error))
    if found is None:
        return None
    group, name, options = found.groups()
    if group == "hydra/launcher" and name in _EXTRAS:
        return f"hydra/launcher={name} needs another package: pip install '.[{_EXTRAS[name]}]'"
    return f"{group}={name} is unknown; choose from {', '.join(options.split())}"


def _joined(error: Exception) -> str:
    """Return the lines of the message that help, and those of its cause."""
    text, cause = str(error), str(error.__cause__ or "")
    lines = [line.strip().rstrip(".") for line in f"{text}\n{cause if cause not in text else ''}".splitlines()]
    told = "; ".join(line for line in lines if line and not _NOISE.search(line)) or type(error).__name__
    where = getattr(error, "full_key", None) or getattr(error, "override", None)
    return f"{where}: {told}" if where and where not in told else told
