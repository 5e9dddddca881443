"""What options of hardware, models and engines may hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from policies.checks import InputError, Number, Whole

Count = Annotated[int, Whole(1)]
Positive = Annotated[float, Number(0, above=True)]
Share = Annotated[float, Number(0, 1, above=True)]
Seconds = Annotated[float, Number(0)]
Factor = Annotated[float, Number(1)]


@dataclass(frozen=True)
class Kind:
    """An instance of a class; if `several`, a list of at least `least` of them."""

    kind: type
    several: bool = False
    least: int = 1

    def __call__(self, option: str, value: Any) -> None:
        """Refuse anything else."""
        enough = not self.several or (isinstance(value, list | tuple) and len(value) >= self.least)
        if not enough or not all(isinstance(each, self.kind) for each in (value if self.several else [value])):
            what = "a list of " if self.several else "a "
            raise InputError(f"{option}: must be {what}{self.kind.__module__}.{self.kind.__name__}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0, and no bool."""
    return is_number(value) and value > 0


def ascending(option: str, value: Any) -> None:
    """Refuse what is no list of ascending positive numbers."""
    numbers = isinstance(value, list | tuple) and len(value) > 0 and all(map(is_positive, value))
    if not numbers or any(later <= earlier for earlier, later in pairwise(value)):
        raise InputError(f"{option} must be a list of ascending positive numbers")


Axis = Annotated[Sequence[float], ascending]
