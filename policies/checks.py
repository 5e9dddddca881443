"""InputError, and the checks of single options: each names the option, and how to mend it."""

from collections.abc import Collection


class InputError(ValueError):
    """Input that a person can mend: says what is wrong, where, and how to mend it, in one line.

    The command lines print its text alone and exit with code 2; anything else that is raised is a defect of ours.
    """


def require_positive(option: str, value: object, optional: bool = False) -> None:
    """Raise InputError unless the option is a whole number of at least 1 (or None, if `optional`)."""
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"policy.{option}={value}: must be a whole number of at least 1")


def require_switch(option: str, value: object) -> None:
    """Raise InputError unless the option is on or off."""
    if not isinstance(value, bool):
        raise InputError(f"policy.{option}={value}: give true or false")


def require_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless the option is one of the choices."""
    if value not in choices:
        raise InputError(f"policy.{option}={value}: unknown; choose one of {', '.join(choices)}")


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
