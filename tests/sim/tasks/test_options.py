"""A task is a folder and a YAML: its options exist with it alone, and its defaults are written in its YAML alone."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.command_line import files, sim
from tests.sim.config.test_settings import CONF, task_options

OUT = "hydra.run.dir=out"
MINE = """# @package _global_
defaults:
  - /compared
  - _self_

task:
  _target_: sim.tasks.mine.MineTask
  name: mine
  study: sim.tasks.mine.Mine
depth: 3
"""
SOURCE = """
from dataclasses import dataclass
from typing import Annotated

from policies.checks import Whole
from sim.config.task import Task


@dataclass(frozen=True, kw_only=True)
class MineTask(Task):
    depth: Annotated[int, Whole(1, 9)]


class Mine:
    def __init__(self, settings, folder):
        self.settings, self.folder = settings, folder

    def __call__(self, console):
        (self.folder / "depth.txt").write_text(f"{self.settings.task.depth} {list(self.settings.policies)}")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a task of one's own: a module beside ours, and one YAML."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("sim.tasks.mine")
    monkeypatch.setitem(sys.modules, "sim.tasks.mine", module)
    exec(SOURCE, module.__dict__)
    Path("own/task").mkdir(parents=True)
    Path("own/task/mine.yaml").write_text(MINE)
    return tmp_path


def mine_with(*arguments: str) -> int:
    return sim("--config-dir", "own", "task=mine", *arguments)


def test_a_task_of_ones_own_is_a_module_and_a_yaml(mine: Path) -> None:
    assert mine_with("depth=5", "+policy=orca", OUT) == 0
    assert files(mine / "out") == {"depth.txt"}
    assert (mine / "out/depth.txt").read_text() == "5 ['orca']"


def test_its_options_may_be_swept(mine: Path) -> None:
    assert mine_with("-m", "depth=1,2", "hydra.sweep.dir=out") == 0
    assert [(mine / f"out/{point}/depth.txt").read_text()[0] for point in (0, 1)] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("task=mine", "depth=10"), "depth is 10: give a whole number from 1 to 9"),
        (("task=mine", "precision=0.1"), "precision=0.1 has no use in task=mine: leave it out"),
        (("depth=5",), "depth=5 has no use in task=run: leave it out"),
        (("+depth=5",), "depth=5 has no use in task=run: leave it out"),
        (("task=mine", "task.study=os.path.join"), "task.study=os.path.join is refused: "),
        (("task=mine", "task.study=sim.tasks.mine.Mien"), "task.study=sim.tasks.mine.Mien: there is no such class"),
        (("task=mine", "task._target_=policies.orca.Orca"), "task._target_=policies.orca.Orca is no Task"),
        (("task=mein",), "task=mein is unknown; did you mean mine? choose from "),
    ],
)
def test_what_is_wrong_with_it_is_said_in_one_line(
    arguments: tuple[str, ...], message: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim("--config-dir", "own", *arguments, OUT) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1
    assert not files(mine / "out")


TASKS = {file.stem: task_options(file.stem) for file in (CONF / "task").glob("*.yaml")}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_an_option_of_other_tasks_is_refused(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its task's file, at its default too; the options that `sim` has whatever the task are in no such file."""
    others: dict[str, Any] = {name: value for each in TASKS.values() for name, value in each.items()}
    useless = sorted(set(others) - set(TASKS[task]) - {"slo"})
    assert useless or task == "run"
    for option in useless[:2]:
        value = others[option]
        argument = f"{option}.{next(iter(value))}=1" if isinstance(value, dict) else f"{option}=1"
        assert sim(f"task={task}", argument, f"hydra.run.dir={tmp_path}/out") == 2
        assert capsys.readouterr().err == f"error: {argument} has no use in task={task}: leave it out\n"


def test_every_task_is_described_by_its_file() -> None:
    for name, described in TASKS.items():
        assert described["task"]["name"] == name
