"""A folder that is used again holds the results of its last run and what was never ours, nothing else."""

from pathlib import Path

import pytest

from sim.output import folder as leftovers
from tests.command_line import files, sim, summary

FEW = ("workload.num_requests=30", "workload=synthetic", "policies=[orca,baton]", "workload.rate=40")
ALL_FILES = ("timeline=true", "report=true", "vllm_bench=true")
REPEATED = ("replications=2", "report=true")
CAPACITY = ("task=capacity", "slo.ttft_s=1", "slo.attainment=0.5", "replications=2", "precision=0.5", "report=true")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every kind of run was made, one after the other, and then one of a single policy.

    A file that a run leaves under a name that is not known would stay for ever.
    """
    folder = tmp_path_factory.mktemp("used")
    (folder / "baton").mkdir()
    (folder / "baton" / "notes.txt").write_text("mine")
    (folder / "summary.csv").write_text("mine")
    (folder / "mine").mkdir()
    (folder / "mine" / "summary.json").write_text("{}")
    mine = {*files(folder)}
    for options in (ALL_FILES, REPEATED, CAPACITY, ("task=explain", "request=3")):
        assert sim(*FEW, *options, f"hydra.run.dir={folder}") == 0
        assert {Path(name).name for name in files(folder) - mine} <= set(leftovers.LEFT)
    assert sim(*FEW[:2], "+policy=orca", "pictures=false", f"hydra.run.dir={folder}") == 0
    return folder


def test_only_the_last_run_and_files_of_the_users_own_are_left(used: Path) -> None:
    """Subfolders of policies go with what was in them, unless somebody put a file there."""
    mine = {"baton/notes.txt", "summary.csv", "mine/summary.json"}
    assert files(used) == {"summary.json", "requests.parquet", "iterations.parquet", *mine}
    assert not (used / "orca").exists()
    assert list(summary(used)["policies"]) == ["orca"]


def test_a_folder_that_no_run_has_used_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a summary of ours, a file of the same name is somebody else's."""
    (tmp_path / "replications.parquet").write_text("mine")
    assert sim(*FEW, "pictures=false", f"hydra.run.dir={tmp_path}") == 0
    assert (tmp_path / "replications.parquet").read_text() == "mine"
    assert "Removed" not in capsys.readouterr().out


def test_it_is_said_and_what_the_run_reads_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The requests of an earlier run, replayed in its own folder, are there until the run has replaced them."""
    assert sim(*FEW, "pictures=false", f"hydra.run.dir={tmp_path}") == 0
    replayed = tmp_path / "orca" / "requests.parquet"
    again = (f"measured={replayed}", "task=overlay", "+policy=baton", "pictures=false", f"hydra.run.dir={tmp_path}")
    assert sim(*again) == 0
    assert f"Removed from {tmp_path}: the results of an earlier run" in capsys.readouterr().out.replace("\n", " ")
    assert replayed.is_file()
    assert not (tmp_path / "baton").exists()


def test_an_input_that_is_refused_removes_nothing(tmp_path: Path) -> None:
    """The results of before are there until the next run begins."""
    assert sim(*FEW, "pictures=false", f"hydra.run.dir={tmp_path}") == 0
    before = files(tmp_path)
    assert sim(*FEW, "task=explain", "request=99", f"hydra.run.dir={tmp_path}") == 2
    assert files(tmp_path) == before
