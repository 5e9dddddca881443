"""When a profile is doubted, and where that stands."""

from dataclasses import replace
from typing import Any

import pytest

from sim.cost.profile import Profile
from sim.simulation.notes import engine_notes
from tests.runs import H100
from tests.sim.config.test_settings import settings
from tests.sim.cost.test_profile import FIT, PROFILE


def profile(**fit: Any) -> Profile:
    """Return a profile with one good fit and one with these figures."""
    first, *rest = PROFILE.layouts
    return replace(PROFILE, layouts=[replace(first, fits=[FIT, replace(FIT, **fit)]), *rest])


@pytest.mark.parametrize(
    ("fit", "fault"),
    [
        ({"held_out_error": 0.10, "held_out_spread": 0.25}, None),
        ({"held_out_error": None, "held_out_spread": None, "r2": None}, None),
        ({"held_out_error": -0.16}, "decode: held-out time is met with -16%"),
        ({"held_out_spread": 0.30}, "decode: single held-out iterations with 30%"),
        ({"r2": 0.3}, None),  # decode steps hardly differ: what is left is noise
        ({"phase": "prefill", "r2": 0.90}, None),
        ({"phase": "prefill", "r2": 0.89, "held_out_error": 0.2}, "time is met with +20%, R\u00b2 is 0.89"),
    ],
)
def test_a_profile_is_doubted_for_what_it_met_badly(fit: dict[str, Any], fault: str | None) -> None:
    doubts = profile(**fit).doubts()
    assert len(doubts) == (fault is not None)
    assert fault is None or (doubts[0].startswith("the profile mine is poor") and fault in doubts[0])


def test_a_long_complaint_names_the_worst_two_and_advises_nothing_that_was_done() -> None:
    """By how many times a limit is exceeded: 0.5 of 0.1, 0.9 of 0.25, then the rest."""
    fits = [
        replace(FIT, held_out_error=error, held_out_spread=spread)
        for error, spread in ((0.11, 0.1), (0.5, 0.1), (0.12, 0.1), (0.0, 0.9))
    ]
    poor = replace(PROFILE, layouts=[replace(PROFILE.layouts[0], fits=fits)], threads=1)
    (doubt,) = poor.doubts()
    assert 0 < doubt.index("+50%") < doubt.index("with 90%") < doubt.index("; and 2 more)")
    assert "+11%" not in doubt and "+12%" not in doubt and "threads" not in doubt
    (of_two_threads,) = replace(poor, threads=2).doubts()
    assert of_two_threads.endswith("more profile.rounds= or threads=1")


def test_only_profiles_are_doubted_and_a_prediction_says_so() -> None:
    assert H100.doubts() == []
    poor = replace(settings(), hardware=profile(held_out_error=0.5))
    assert sum(note.startswith("the profile mine is poor") for note in engine_notes(poor)) == 1
