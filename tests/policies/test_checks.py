"""Options check themselves: what a type allows passes, whatever else a person may write is refused in one line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest

from policies.checks import Checked, Choice, InputError, Number, Whole, nearest


def even(option: str, value: object) -> None:
    if not isinstance(value, int) or value % 2:
        raise InputError(f"{option} is odd")


@dataclass(frozen=True, kw_only=True)
class Oven(Checked, option="oven"):
    heat: Annotated[float, Number(0, 300)] = 180
    minutes: Annotated[int | None, Whole(1)] = None
    share: Annotated[float, Number(0, 1, above=True)] = 0.5
    fan: bool = False
    name: str | None = None
    mode: Literal["grill", "bake"] | None = "bake"
    shelf: Annotated[str, Choice({"top": 1, "middle": 2})] = "top"
    trays: Annotated[int, even] = 2
    notes: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Microwave(Oven, option="microwave"):
    turns: bool = True


ALLOWED: dict[str, list[Any]] = {
    "heat": [0, 300, 0.5],
    "minutes": [None, 1, 10**30],
    "share": [1, 1e-9],
    "fan": [True, False],
    "name": [None, ""],
    "mode": [None, "grill"],
    "shelf": ["middle"],
    "trays": [0, -2],
    "notes": [None, 3, "anything"],
}
REFUSED: dict[str, list[Any]] = {
    "heat": [None, -0.1, 300.1, math.nan, math.inf, True, "180", [180], 10**400],
    "minutes": [0, 1.0, math.inf, True, "5"],
    "share": [None, 0, 1.1, math.nan, -math.inf],
    "fan": [None, 0, "true"],
    "name": [3, b"oven"],
    "mode": ["fry", 1, ["grill"]],
    "shelf": [None, "bottom", ["top"]],
    "trays": [None, 3],
    "notes": [],
}


@pytest.mark.parametrize("option", [field.name for field in fields(Oven)])
@pytest.mark.parametrize(("kind", "place"), [(Oven, "oven"), (Microwave, "microwave")])
def test_a_type_is_the_check_of_an_option_and_of_its_heirs(kind: type[Oven], place: str, option: str) -> None:
    for value in ALLOWED[option]:
        assert getattr(kind(**{option: value}), option) == value
    for value in REFUSED[option]:
        with pytest.raises(InputError) as refusal:
            kind(**{option: value})
        assert str(refusal.value).startswith(f"{place}.{option}")
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "near"), [("poison", "poisson"), ("bacth", "batch"), ("zzz", None), (3, None), (None, None)]
)
def test_the_nearest_name_is_suggested_where_one_is_near(name: object, near: str | None) -> None:
    hint = nearest(name, ["batch", "poisson", "gamma"])
    assert (hint == "") if near is None else (near in hint)
