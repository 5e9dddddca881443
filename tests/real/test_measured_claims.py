"""Runs on a real model enter the claims: their tokens are compared one by one, and one that differs is seen."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from real.__main__ import main
from sim.claims.beside import set_beside
from sim.claims.collect import collect
from sim.claims.verdict import Verdict
from tests.command_line import run_here


def test_answers_of_a_real_model_are_the_same_under_every_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    small = ("device=cpu", "threads=1", "workload.num_requests=6", "length_scale=0.03", "pictures=false")
    assert run_here(main, *small, "policies=[run_to_completion,orca,baton]", "hydra.run.dir=out") == 0
    torch.set_num_threads(threads)
    found = collect([tmp_path / "out"])
    correct = set_beside([], found).correct
    assert found[0].machine.device == "cpu" and found[0].commands[0].startswith("python -m real device=cpu threads=1 ")
    assert correct is not None and correct.verdict is Verdict.HOLDS
    assert [one.factors["other"] for one in correct.findings] == ["run_to_completion", "orca"]
    path = tmp_path / "out/baton/generated.parquet"
    table = pq.read_table(path).to_pydict()
    table["tokens"][2][-1] += 1
    pq.write_table(pa.table(table), path)
    spoilt = set_beside([], collect([tmp_path / "out"])).correct
    assert spoilt is not None and spoilt.verdict is Verdict.FAILS
    assert [one.found.estimate for one in spoilt.findings] == [pytest.approx(5 / 6)] * 2
