"""The folder conf/ of this program, whatever folder of that name lies where a command is given."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"


def claim_name() -> None:
    """Let the package `conf` be ours: Hydra looks it up by name, and Python searches the working folder first."""
    spec = spec_from_file_location("conf", CONF / "__init__.py", submodule_search_locations=[str(CONF)])
    assert spec is not None and spec.loader is not None
    sys.modules["conf"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
