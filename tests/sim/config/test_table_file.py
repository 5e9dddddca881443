"""Tables in a file of their own: what a hardware file names is found wherever the two lie, or missed in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from policies.checks import InputError
from sim.calibration.command import read_named
from sim.calibration.hardware_file import json_rows, write_hardware
from sim.cli.sweep import fingerprint
from sim.config.settings import build
from sim.config.table_file import with_tables
from tests.command_line import sim, summary

SHIPPED = Path(__file__).parents[3] / "conf/hardware"
FEW = ("policies=[orca]", "workload.num_requests=5", "pictures=false")


pytestmark = pytest.mark.usefixtures("scratch")


def calibrated(folder: Path) -> Path:
    """Write the RTX 4090 as somebody who calibrated it would have it, and return the hardware file."""
    folder.mkdir(parents=True)
    write_hardware(folder / "mine.yaml", read_named("hardware", "rtx4090"), "mine")
    return folder / "mine.yaml"


def test_a_calibration_is_used_by_its_path_and_by_its_name_in_a_folder_of_ones_own(scratch: Path) -> None:
    calibrated(scratch / "my/hardware")
    places = [
        ("hardware=rtx4090",),
        ("hardware=my/hardware/mine.yaml",),
        (f"hardware={scratch}/my/hardware/mine.yaml",),
        ("--config-dir=my", "hardware=mine"),
    ]
    results: list[Any] = []
    for number, place in enumerate(places):
        assert sim(*FEW, *place, f"hydra.run.dir=out{number}") == 0
        results.append(summary(scratch / f"out{number}"))
    assert [each["hardware"] for each in results] == ["rtx4090", "mine", "mine", "rtx4090"], "a file by its own name"
    assert all(each["policies"] == results[0]["policies"] for each in results), "to the last digit"


def test_hardware_beside_which_a_file_lies_is_not_that_of_the_same_name_here(scratch: Path) -> None:
    tables = json.loads((calibrated(scratch / "my").with_suffix(".json")).read_text())
    tables["elementwise"]["seconds"] = [1000 * each for each in tables["elementwise"]["seconds"]]
    (scratch / "mine.json").write_text(json.dumps(tables))
    for number, place in enumerate(("rtx4090", "my/mine.yaml")):
        assert sim(*FEW, f"hardware={place}", f"hydra.run.dir=out{number}") == 0
    assert summary(scratch / "out0")["policies"] == summary(scratch / "out1")["policies"]


def test_a_shipped_file_may_be_copied_and_built_upon_without_its_tables(scratch: Path) -> None:
    (scratch / "my/hardware").mkdir(parents=True)
    shutil.copy(SHIPPED / "rtx4090.yaml", scratch / "copy.yaml")
    (scratch / "my/hardware/large.yaml").write_text("defaults: [rtx4090]\nname: large\nmemory_bytes: 40e9\n")
    assert sim(*FEW, "hardware=copy.yaml", "hydra.run.dir=copy") == 0
    assert sim(*FEW, "--config-dir=my", "hardware=large", "hydra.run.dir=large") == 0
    assert summary(scratch / "large")["kv_tokens"] > summary(scratch / "copy")["kv_tokens"]


def test_a_calibration_without_its_tables_says_what_is_missing(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated(scratch / "my").with_suffix(".json").unlink()
    assert sim(*FEW, "hardware=my/mine.yaml") == 2
    assert capsys.readouterr().err == (
        "error: hardware.tables=my/mine.json: cannot be read (No such file or directory); it belongs to the hardware "
        "file: keep it beside that, or give its path\n"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", '{"matrices": ', r"hardware.tables=t.json: not valid JSON \(.*\); write it anew"),
        ("t.json", b"\xff", r"hardware.tables=t.json: not valid JSON \(.*\); write it anew"),
        ("t.json", "[1]", "hardware.tables=t.json: holds no JSON object"),
        ("t.json", '{"wings": 2}', "hardware.wings: there is no such option; Calibrated takes "),
        ("t.json", '{"matrices": {"_target_": "os.system"}}', "hardware.matrices._target_=os.system is refused"),
        (3, "", "hardware.tables=3: give the name of a JSON file"),
        (".", "", r"hardware.tables=.: cannot be read \(Is a directory\)"),
        ("pkg://os/t.json", "", r"hardware.tables=pkg://os/t.json: cannot be read \(No such file or directory\)"),
        ("pkg://conf/t.json", "", "hardware.tables=pkg://conf/t.json: cannot be read"),
    ],
)
def test_a_bad_file_of_tables_is_one_line(scratch: Path, name: Any, text: str | bytes, message: str) -> None:
    (scratch / "t.json").write_bytes(text.encode() if isinstance(text, str) else text)
    settings = {"_target_": "sim.cost.kernels.calibrated.Calibrated", "name": "mine", "tables": name}
    with pytest.raises(InputError, match=message) as refusal:
        build(settings, "hardware")
    assert "\n" not in str(refusal.value)


def test_what_the_hardware_file_says_itself_comes_first(scratch: Path) -> None:
    (scratch / "t.json").write_text('{"a": 1, "b": 2}')
    assert with_tables({"tables": "t.json", "b": 3}, "hardware") == {"a": 1, "b": 3}
    assert with_tables({"b": 3}, "hardware") == {"b": 3}


def test_tables_that_change_make_another_point_of_a_sweep(scratch: Path) -> None:
    config = {"hardware": {"tables": "t.json"}}
    (scratch / "t.json").write_text("{}")
    before = fingerprint(config)
    assert fingerprint(config) == before
    (scratch / "t.json").write_text("{ }")
    assert fingerprint(config) != before


def test_rows_of_numbers_are_lines() -> None:
    text = json_rows({"a": [[1, 2.5], [3, 4]], "b": {2: [1e-5]}, "c": "x"})
    assert text == '{\n "a": [\n  [1, 2.5],\n  [3, 4]\n ],\n "b": {\n  "2": [1e-05]\n },\n "c": "x"\n}'
    assert json.loads(text) == {"a": [[1, 2.5], [3, 4]], "b": {"2": [1e-5]}, "c": "x"}
