"""InputError, and options that check themselves: a field says what it may hold, and every message how to mend it.

An option of a dataclass is checked by its type: `bool`, `Literal` and `str` say enough; of anything else the annotation
holds a rule, as in `Annotated[int, Whole(1)]`. None is allowed where the type says so. Pydantic would do this too, but
importing it takes 0.1 s of CPU, a seventh of what a small run takes to start.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

Rule = Callable[[str, Any], None]
"""Raises InputError at a value that an option may not have; its arguments are the option and the value."""


class InputError(ValueError):
    """Input that a person can mend: says what is wrong, where, and how to mend it, in one line.

    The command lines print its text alone and exit with code 2; anything else that is raised is a defect of ours.
    """


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, which is no bool."""

    low: int
    high: float = math.inf

    def __call__(self, option: str, value: Any) -> None:
        """Refuse anything else."""
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return
        if self.high == math.inf:
            raise InputError(f"{option}={value}: must be a whole number of at least {self.low}")
        raise InputError(f"{option} is {shown(value)}: give a whole number from {self.low} to {self.high}")


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, which is no bool; if `above`, more than `low`."""

    low: float
    high: float = math.inf
    above: bool = False

    def __call__(self, option: str, value: Any) -> None:
        """Refuse anything else."""
        finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if finite and self.low <= value <= self.high and not (self.above and value == self.low):
            return
        if self.high < math.inf and not self.above:
            raise InputError(f"{option} is {shown(value)}: give a number from {self.low:g} to {self.high:g}")
        most = f" and at most {self.high:g}" if self.high < math.inf else ""
        least = "above" if self.above else "of at least"
        raise InputError(f"{option}={value}: must be a number {least} {self.low:g}{most}")


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: Collection[str]

    def __call__(self, option: str, value: Any) -> None:
        """Refuse anything else."""
        if not isinstance(value, str) or value not in self.names:
            hint = nearest(value, self.names)
            raise InputError(f"{option} is {shown(value)}: {hint}choose one of {', '.join(self.names)}")


def switch(option: str, value: object) -> None:
    """Raise InputError unless the option is on or off."""
    if not isinstance(value, bool):
        raise InputError(f"{option}={shown(value)}: give true or false")


def text(option: str, value: object) -> None:
    """Raise InputError unless the value is text."""
    if not isinstance(value, str):
        raise InputError(f"{option}={value}: must be text")


class Checked:
    """Base of dataclasses whose options are checked as one is made.

    A class says where its options stand in a configuration: `class Orca(Policy, option="policy")`; its heirs say it
    only if theirs stand elsewhere.
    """

    option: ClassVar[str]

    def __init_subclass__(cls, option: str | None = None, **more: Any) -> None:
        """Note where the options stand."""
        super().__init_subclass__(**more)
        if option is not None:
            cls.option = option

    def __post_init__(self) -> None:
        """Refuse what the types of the options do not allow."""
        check_options(self, self.option)


def check_options(options: Any, place: str) -> None:
    """Raise InputError at the first option that its type does not allow.

    Args:
        options: An instance of a dataclass.
        place: Where its options stand in the configuration, such as `workload`; "" is its top.
    """
    for name, rule, optional in _rules(type(options)):  # type: ignore[arg-type]  # classes are hashable, mypy doubts it
        value = getattr(options, name)
        if value is not None or not optional:
            rule(f"{place}.{name}" if place else name, value)


@cache
def _rules(options: type[Any]) -> list[tuple[str, Rule, bool]]:
    """Return the options of a dataclass that have a rule, the rule, and whether None is allowed."""
    rules = []
    for field in fields(options):
        annotation: Any = field.type
        kind, written = annotation, ()
        if get_origin(annotation) is Annotated:
            kind, written = annotation.__origin__, annotation.__metadata__
        kinds = get_args(kind) if NoneType in get_args(kind) else (kind,)
        rule = next((each for each in (*written, *map(_rule_of, kinds)) if callable(each)), None)
        if rule is not None:
            rules.append((field.name, rule, NoneType in kinds))
    return rules


def _rule_of(kind: Any) -> Rule | None:
    """Return the rule that a type is by itself."""
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    return switch if kind is bool else text if kind is str else None


def nearest(name: object, names: Collection[str]) -> str:
    """Return a question that names what was probably meant, to stand before the list; "" if nothing is near."""
    from difflib import get_close_matches  # takes longer to import than all of this; only those who mistype shall pay

    near = get_close_matches(str(name), names, n=1)
    return f"did you mean {near[0]}? " if near else ""


def choice(option: str, value: object, choices: Collection[str]) -> None:
    """Raise InputError unless the value is one of the choices."""
    Choice(choices)(option, value)


def whole_number(option: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless the value is an int (not a bool) from low to high."""
    Whole(low, high)(option, value)


def number(option: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless the value is a finite number (not a bool) from low to high."""
    Number(low, high)(option, value)


def shown(value: object) -> str:
    """Return a value as one short line for an error message."""
    if value is None:
        return "null"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
