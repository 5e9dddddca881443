"""Files of a run: what is written is what is read, and nothing half-written gets its final name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.checks import InputError
from sim.engine.iteration_log import COLUMNS
from sim.metrics.request_columns import request_columns
from sim.output.parquet import IterationWriter, write_requests
from sim.output.timeline import Timeline
from sim.output.writing import make_folder, write_summary
from tests.sim.small_run import POLICIES, make_requests, run

RUN = run(POLICIES["baton"], make_requests())


def test_iterations_are_written_slice_by_slice_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "iterations.parquet"
    with IterationWriter(path) as write:
        for start in range(0, len(RUN.log), 50):
            write(RUN.log[start : start + 50])
        assert not path.exists()
    file = pq.ParquetFile(path)
    assert file.num_row_groups == -(-len(RUN.log) // 50)
    table = file.read()
    assert tuple(table.column_names) == COLUMNS
    for name in COLUMNS:
        np.testing.assert_array_equal(table[name].to_numpy(), RUN.log[name])
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("writer", [IterationWriter, Timeline])
def test_an_interrupted_run_leaves_no_file(tmp_path: Path, writer: Any, error: type[BaseException]) -> None:
    with pytest.raises(error), writer(tmp_path / "file") as write:
        write(RUN.log)
        assert len(os.listdir(tmp_path)) == 1
        raise error
    assert os.listdir(tmp_path) == []


def _log_to_full_disk(writer: Any) -> Callable[[Path], None]:
    def write_log(path: Path) -> None:
        with writer(path) as write:
            for _ in range(100):
                write(RUN.log)

    return write_log


@pytest.mark.parametrize(
    "write",
    [
        _log_to_full_disk(IterationWriter),
        _log_to_full_disk(Timeline),
        lambda path: write_requests(path, {"x_s": np.zeros(10_000)}),
        lambda path: write_summary(path, {}),
    ],
    ids=["iterations", "timeline", "requests", "summary"],
)
def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / f".file.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"^.*file: cannot be written \(No space left on device\); .*$"):
        write(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_requests_read_back_with_nulls_for_undefined_times(tmp_path: Path) -> None:
    columns = request_columns(RUN.requests, RUN.request_log, release_with_batch=False)
    write_requests(tmp_path / "requests.parquet", columns)
    table = pq.read_table(tmp_path / "requests.parquet")
    assert table.column_names == list(columns)
    assert table["tpot_s"].null_count == int((RUN.requests.output_tokens == 1).sum()) > 0
    assert table["status"].to_pylist() == columns["status"].tolist()
    for name in set(columns) - {"status"}:
        np.testing.assert_array_equal(table[name].to_numpy(), columns[name])


def test_a_summary_that_json_cannot_say_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary = {"policies": {"orca": {"completed": 3, "mean_ttft_ms": None, "saturated": True}}, "seed": 0}
    write_summary(path, summary)
    with pytest.raises(ValueError, match="JSON"):
        write_summary(path, {"mean": float("nan")})
    assert json.loads(path.read_text()) == summary
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_is_made_with_its_parents_or_refused_in_one_line(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a/b").is_dir()
    assert os.listdir(tmp_path / "a/b") == []
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file/below", tmp_path / "file", Path("/proc/below")):
        with pytest.raises(InputError, match=r"^.*: cannot be written .*hydra\.run\.dir=FOLDER$"):
            make_folder(bad)
