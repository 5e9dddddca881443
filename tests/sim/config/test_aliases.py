"""Files that were written for the release before name classes where they lay then, and still mean them."""

from importlib import import_module
from typing import Any

import pytest

from sim.config.aliases import MOVED
from sim.config.settings import build
from tests.sim.config.test_settings import CONF, load

OLDER = {new: old for old, new in MOVED.items()}
TERM: dict[str, Any] = {"name": "a", "phase": "any", "of": "rows", "seconds": [2.0]}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_class_is_where_the_table_says_and_nothing_is_left_where_it_was(old: str, new: str) -> None:
    module, name = new.rsplit(".", 1)
    assert getattr(import_module(module), name).__module__ == module
    assert not (CONF.parent / f"{old.rsplit('.', 1)[0].replace('.', '/')}.py").exists()


@pytest.mark.parametrize(
    ("group", "name", "changes"),
    [
        ("hardware", "h100_sxm_datasheet", {}),
        ("hardware", "h100_sxm", {}),
        ("model", "tiny_llama", {}),
        ("model", "hf", {"path": "folder"}),
        ("engine", "vllm", {}),
        ("workload", "trace", {"path": "file.csv"}),
        ("workload", "azure_conv", {}),
        ("workload", "burstgpt", {}),
        ("workload", "mooncake_synthetic", {}),
        ("workload", "measured", {"path": "file.csv"}),
    ],
)
def test_a_file_of_the_release_before_makes_the_same_object(group: str, name: str, changes: dict[str, Any]) -> None:
    settings = load(group, name, **changes)
    older = settings | {"_target_": OLDER[settings["_target_"]]}
    assert build(older, group) == build(settings, group)


def test_so_does_one_that_names_classes_within() -> None:
    old, new = (
        build({"_target_": layout, "layout": "static", "terms": [{"_target_": term, **TERM}]}, "hardware")
        for layout, term in (
            ("sim.profile.LayoutCost", "sim.profile.Term"),
            ("sim.cost.profile.LayoutCost", "sim.cost.terms.Term"),
        )
    )
    assert old == new


def test_no_file_of_ours_needs_the_table() -> None:
    texts = {path: path.read_text() for path in CONF.rglob("*") if path.suffix in (".yaml", ".json")}
    assert len(texts) > 50
    assert not [(path, old) for path, text in texts.items() for old in MOVED if f"{old}\n" in text or f'{old}"' in text]
