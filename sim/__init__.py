"""The simulator: engine, cost model, metrics, pictures, command line; `simulate` and `compare` for use from Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.api import compare, simulate
    from sim.setting import Results

__version__ = "0.1.0"

__all__ = ["Results", "compare", "simulate"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sim import api

    return getattr(api, name)
