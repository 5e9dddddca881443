"""The simulator: engine, cost model, metrics, command line; `simulate`, `compare` and `capacity` for Python."""

from typing import TYPE_CHECKING, Any

from sim.version import __version__ as __version__

if TYPE_CHECKING:
    from sim.api import capacity, compare, simulate
    from sim.simulation.results import Results
    from sim.tasks.capacity.results import Capacities
    from sim.tasks.replications.results import Replicated


__all__ = ["Capacities", "Replicated", "Results", "capacity", "compare", "simulate"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sim import api

    return getattr(api, name)
