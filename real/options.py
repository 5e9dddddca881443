"""Options of the tasks that measure. Torch is not imported for them."""

from dataclasses import dataclass

from policies.errors import InputError
from workloads.checks import number, shown, whole_number
from workloads.requests import MAX_TOKENS


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """How thorough a profile is.

    Attributes:
        quick: A coarse grid, one round.
        rounds: How often everything is measured.
        longest: Tokens of the longest prompt.
        limit_s: No round begins after so many seconds; None: all rounds are made.
    """

    quick: bool = False
    rounds: int = 3
    longest: int = 256
    limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not isinstance(self.quick, bool):
            raise InputError(f"profile.quick={shown(self.quick)}: give true or false")
        whole_number("profile.rounds", self.rounds, 1, 1000)
        whole_number("profile.longest", self.longest, 2, MAX_TOKENS)
        if self.limit_s is not None:
            number("profile.limit_s", self.limit_s, 0, 1e6)


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """How long to measure, and at which load.

    Attributes:
        limit_s: No round begins after so many seconds of measuring, but for the first of each load.
        standard_error: Relative standard error of the throughput ratios that is good enough.
        rounds: Fewest rounds; one is made even if the time is up.
        load: Arrival rate of the second load, as a share of the lowest measured capacity.
    """

    limit_s: float = 600.0
    standard_error: float = 0.015
    rounds: int = 3
    load: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        number("validate.limit_s", self.limit_s, 0, 1e6)
        number("validate.standard_error", self.standard_error, 1e-4, 1)
        whole_number("validate.rounds", self.rounds, 1, 1000)
        number("validate.load", self.load, 0.01, 10)
