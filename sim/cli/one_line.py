"""One line about what is wrong with a configuration, from errors that take several."""

import errno
import os
import re

from policies.checks import InputError, nearest

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


def missing_key(error: Exception) -> str | None:
    """Return the option that was given a value but is not there; None if the error is another."""
    return getattr(error.__cause__, "full_key", None) if "Could not override" in str(error) else None


def _missing_key(error: Exception) -> str | None:
    """Say which options there are where one was not found."""
    key, parent = missing_key(error), getattr(error.__cause__, "parent_node", None)
    if key is None or parent is None:
        return None
    place, _, name = key.rpartition(".")
    names = [str(each) for each in parent if each not in ("_target_", "hydra")] if hasattr(parent, "keys") else []
    if not names:
        return f"{key}: there is no such option"
    takes = f"{place} takes" if place else "choose from"
    return f"{key}: there is no such option; {nearest(name, names)}{takes} {', '.join(names)}"


def _missing_file(error: Exception) -> str | None:
    """Say which files of a group there are where one was not found."""
    found = _MISSING_FILE.search(str(error))
    if found is None:
        return None
    group, name, options = found.groups()
    if group == "hydra/launcher" and name in _EXTRAS:
        return f"hydra/launcher={name} needs another package: pip install '.[{_EXTRAS[name]}]'"
    names = options.split()
    return f"{group}={name} is unknown; {nearest(name, names)}choose from {', '.join(names)}"


def _joined(error: Exception) -> str:
    """Return the lines of the message that help, and those of its cause."""
    text, cause = str(error), str(error.__cause__ or "")
    lines = [line.strip().rstrip(".") for line in f"{text}\n{cause if cause not in text else ''}".splitlines()]
    told = "; ".join(line for line in lines if line and not _NOISE.search(line)) or type(error).__name__
    where = getattr(error, "full_key", None) or getattr(error, "override", None)
    return f"{where}: {told}" if where and where not in told else told
