"""What the author of a policy reads when it goes wrong: one line that names the policy, the place and the time."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import policies
from sim.__main__ import main
from sim.tasks.comparison import comparison
from tests.command_line import files, run_here, summary

FILE = """from dataclasses import dataclass
from policies.plan import CARRY_ON, IDLE, Plan
from policies.policy import Policy, Traits

def helper(view):
    return view.length(99)

@dataclass(frozen=True, kw_only=True)
class Mine(Policy):
    @property
    def traits(self):
        return TRAITS

    def plan(self, view, now, lane):
        newcomers = view.admissible(1)
        if newcomers and not view.rows:
            return Plan(prefill=newcomers)
        if now < 0.02:
            return CARRY_ON if view.rows else IDLE
        ANSWER
"""
SLOTS = 'Traits(layout="selective_fused", memory="slots")'
PLACE = "policies/mine.py"
Author = Callable[..., None]


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Author]:
    """Write a policy of one's own, and its configuration, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path / "policies")])
    for folder in ("policies", "conf/policy"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/policy/mine.yaml").write_text("_target_: policies.mine.Mine\nmax_batch: 4\n")

    def write(answer: str, traits: str = SLOTS) -> None:
        (tmp_path / PLACE).write_text(FILE.replace("ANSWER", answer).replace("TRAITS", traits))

    yield write
    sys.modules.pop("policies.mine", None)


def sim(*arguments: str) -> int:
    return run_here(main, "--config-dir=conf", "workload.num_requests=3", "hydra.run.dir=out", *arguments)


WHEN = r"policy mine at 0\.0[0-9]+ s: "


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("return 1 / (view.beside - view.beside)", rf"{WHEN}{PLACE}:20 raised ZeroDivisionError: division by zero"),
        ("return helper(view)", rf"{WHEN}{PLACE}:6 raised KeyError: 99"),
        ("return None", rf"{WHEN}plan\(\) \({PLACE}:14\) returned None, which is no policies.plan.Plan"),
        ("return Plan(insert=3, decode=True)", rf"{WHEN}plan\(\) \({PLACE}:14\) returned a plan that cannot be read: "),
        ("return Plan(insert=[77], decode=True)", rf"{WHEN}the ledger refused its plan: "),
    ],
)
def test_a_policy_that_goes_wrong_is_told_in_a_line(
    answer: str, said: str, author: Author, capsys: pytest.CaptureFixture[str]
) -> None:
    author(answer)
    assert sim("+policy=mine") == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "Traceback" not in shown
    assert re.match(f"error: {said}", shown), shown


@pytest.mark.parametrize(
    ("answer", "traits", "said"),
    [
        ("return None", "1 / 0", f"policy mine: {PLACE}:12 raised ZeroDivisionError: division by zero"),
        ("return None", "None", "policy mine: its traits are None, which are no policies.policy.Traits"),
        ("return (", SLOTS, f"policy._target_=policies.mine.Mine: {PLACE}:20 raised SyntaxError: "),
    ],
)
def test_one_that_cannot_begin_too(
    answer: str, traits: str, said: str, author: Author, capsys: pytest.CaptureFixture[str]
) -> None:
    author(answer, traits)
    assert sim("+policy=mine") == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {said}") and shown.count("\n") == 1


def test_debug_shows_the_traceback_before_the_line(author: Author, capsys: pytest.CaptureFixture[str]) -> None:
    author("return helper(view)")
    assert sim("+policy=mine", "debug=true") == 2
    trace, line = capsys.readouterr().err.rsplit("error: ", 1)
    assert trace.startswith("Traceback") and "return helper(view)" in trace and "KeyError: 99" in trace
    assert line.startswith("policy mine at ") and line.count("\n") == 1


def test_what_others_finished_is_kept(author: Author, capsys: pytest.CaptureFixture[str]) -> None:
    author("return helper(view)")
    assert sim("policies=[orca,mine]") == 2
    assert "policy mine at" in (shown := capsys.readouterr().err) and "saved what was finished (orca)" in shown
    assert list(summary(Path("out"))["policies"]) == ["orca"]
    assert not any(file.startswith("mine/") for file in files(Path("out")))


def test_replications_and_sweeps_say_it_too(author: Author, capsys: pytest.CaptureFixture[str]) -> None:
    author("return helper(view)")
    assert sim("+policy=mine", "replications=2") == 2
    assert capsys.readouterr().err.startswith("error: policy mine at ")
    assert run_here(main, "--config-dir=conf", "-m", "+policy=mine", "workload.num_requests=3,4") == 2
    assert capsys.readouterr().err.count("failed: policy mine at ") == 2


def test_a_plan_of_the_warm_up_that_cannot_be_read_is_told_too(
    author: Author, capsys: pytest.CaptureFixture[str]
) -> None:
    author("return Plan(prefill=[3])")
    few = ("workload.num_requests=10", "replications=2", "hydra.run.dir=out")
    assert run_here(main, "--config-dir=conf", "+policy=mine", *few) == 2
    assert re.match(rf"error: {WHEN}plan\(\) .* returned a plan that cannot be read", capsys.readouterr().err)
