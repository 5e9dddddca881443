"""The options of task=claims."""

from dataclasses import dataclass
from typing import Literal, get_args

from workloads.checks import choice

Size = Literal["quick", "full"]

SIZES = get_args(Size)


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """How much is simulated.

    Attributes:
        size: `quick`, less than a minute, or `full`, some minutes.

    Raises:
        InputError: The size is unknown.
    """

    size: Size = "quick"

    def __post_init__(self) -> None:
        """Refuse what is unknown."""
        choice("claims.size", self.size, SIZES)
