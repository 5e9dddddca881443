"""The options of task=claims; their defaults are in conf/task/claims.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from policies.checks import Checked, InputError, shown
from sim.config.task import Task

Size = Literal["quick", "full"]


def check_paths(option: str, value: object) -> None:
    """Raise InputError unless this is a path, or a list of paths."""
    paths = value if isinstance(value, list) else [value]
    if not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"{option} is {shown(value)}: give a folder or a file, or several as [A,B]")


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions(Checked, option="claims"):
    """How much is simulated.

    Attributes:
        size: `quick`, less than a minute, or `full`, some minutes.
    """

    size: Size = "quick"


@dataclass(frozen=True, kw_only=True)
class ClaimsTask(Task):
    """A trial of the claims.

    Attributes:
        claims: How thorough it is.
        measured: Results of `python -m real` that stand beside them, a folder or a file or several.
    """

    claims: ClaimsOptions
    measured: Annotated[Any | None, check_paths]

    @property
    def measured_paths(self) -> tuple[Path, ...]:
        """Where these results are."""
        paths = self.measured if isinstance(self.measured, list) else [self.measured]
        return tuple(Path(path) for path in paths if path is not None)
