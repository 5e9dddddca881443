"""Arguments of the command line as Hydra takes them."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sim.cli.overrides import quoted
from tests.command_line import sim


@pytest.mark.parametrize(
    "path",
    ["t.csv", "a b (1).csv", "é/ü.csv", "~/t.csv", "it's.csv", "a,b.csv", "x=1,{y}.csv", "back\\'.csv"],
)
def test_a_path_is_read_as_it_stands(path: str) -> None:
    argument = quoted(f"workload.path={path}", sweep=False)
    assert OverridesParser.create().parse_override(argument).value() == path


def test_what_is_quoted_or_a_list_stays() -> None:
    for argument in (
        "workload.path='a b.csv'",
        "measured=[a,b]",
        "workload.path=${measured}",
        "seed=é",
        "measured=null",
    ):
        assert quoted(argument, sweep=False) == argument


def test_commas_separate_the_values_of_a_sweep() -> None:
    assert quoted("workload.path=a.csv,é.csv", sweep=True) == "workload.path=a.csv,'é.csv'"


def test_a_file_with_an_accent_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tracé (2), à moi.csv"
    path.write_text("when_ms,ContextTokens,GeneratedTokens\n0,5,1\n2000,5,1\n")
    arguments = ("workload=trace", f"workload.path={path}", "workload.columns={arrival_s: when_ms}", "+policy=orca")
    assert sim(*arguments, "pictures=false", f"hydra.run.dir={tmp_path}/out") == 0
    assert "recorded: 2 requests in 2 s" in capsys.readouterr().out
