"""Files of measured tables: what a hardware file names instead of holding it, since composing so many numbers is slow.

A hardware file says `tables: NAME`, and the options that the JSON object in that file holds are its own:

- `pkg://conf/FILE` is a file that this program ships, so that a copy of a shipped hardware file finds its tables;
- a name without a folder is a file beside the hardware file, see `beside`;
- any other is a path.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies.checks import InputError
from sim.config.shipped import CONF

TABLES = "tables"
"""The option that names the file."""

SHIPPED = "pkg://conf/"
"""What the name of a file that this program ships begins with."""


def with_tables(settings: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    """Return settings with what their file of tables holds; what they say themselves comes first.

    Args:
        settings: Of a piece of hardware, in plain containers.
        option: Where they are in the configuration, for messages.

    Raises:
        InputError: if the file is missing or no JSON object.
    """
    if TABLES not in settings:
        return settings
    own = {key: value for key, value in settings.items() if key != TABLES}
    return {**_read(settings[TABLES], f"{option}.{TABLES}={settings[TABLES]}"), **own}


def beside(name: str, folder: str) -> str:
    """Return how a file of tables is named to those who do not know in which folder the hardware file lies."""
    return name if os.path.dirname(name) else os.path.join(folder or os.curdir, name)


def _read(name: object, place: str) -> dict[str, Any]:
    if not isinstance(name, str):
        raise InputError(f"{place}: give the name of a JSON file")
    try:
        found = json.loads(_file(name).read_text(encoding="utf-8"))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            f"{place}: cannot be read ({reason}); it belongs to the hardware file: keep it beside that, or give its "
            "path"
        ) from None
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON ({error}); write it anew") from None
    if not isinstance(found, dict):
        raise InputError(f"{place}: holds no JSON object; write it anew")
    return found


def _file(name: str) -> Path:
    return CONF / name.removeprefix(SHIPPED) if name.startswith(SHIPPED) else Path(name)
