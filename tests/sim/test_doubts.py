"""When a profile is doubted, and who is told."""

from dataclasses import replace
from typing import Any

import pytest

from sim.doubts import doubts
from sim.notes import engine_notes
from sim.profile import Profile
from tests.runs import H100
from tests.sim.test_configuration import settings
from tests.sim.test_profile import FIT, PROFILE


def profile(**fit: Any) -> Profile:
    """Return a profile with one good fit and one as told."""
    first, *rest = PROFILE.layouts
    return replace(PROFILE, layouts=[replace(first, fits=[FIT, replace(FIT, **fit)]), *rest])


@pytest.mark.parametrize(
    ("fit", "said"),
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
def test_a_profile_is_doubted_for_what_it_met_badly(fit: dict[str, Any], said: str | None) -> None:
    found = doubts(profile(**fit))
    assert len(found) == (said is not None)
    assert said is None or (found[0].startswith("the profile mine is poor") and said in found[0])


def test_only_profiles_are_doubted_and_a_prediction_says_so() -> None:
    assert doubts(H100) == []
    poor = replace(settings(), hardware=profile(held_out_error=0.5))
    assert sum(note.startswith("the profile mine is poor") for note in engine_notes(poor)) == 1
