"""Checks of single options, each naming the option and how to mend it."""

from collections.abc import Collection

from policies.errors import InputError


def choice(option: str, value: object, choices: Collection[str]) -> None:
    """Raise InputError unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{option} is {shown(value)}: choose one of {', '.join(choices)}")


def whole_number(option: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless the value is an int (not a bool) from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{option} is {shown(value)}: give a whole number from {low} to {high}")


def number(option: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless the value is a finite number (not a bool) from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{option} is {shown(value)}: give a number from {low:g} to {high:g}")


def shown(value: object) -> str:
    """Return a value as one short line for an error message."""
    if value is None:
        return "null"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
