"""What the README shows, works."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policies.policy import Policy
from tests.runs import requests_of, run

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].split()[1:]
    for line in re.findall(r"^python -m (?:sim|real) .*$", README, re.MULTILINE)
    if not {"--help", "-m"} & set(line.split()[3:])
]


def test_the_policy_of_the_readme_serves_every_request() -> None:
    code, _ = BLOCKS
    names: dict[str, type[Policy]] = {}
    exec(code, names)
    result = run(requests_of([(0.0, 3, 4), (0.0, 2, 2), (1.0, 5, 1)]), names["OneByOne"](max_batch=2))
    # One prefill per iteration: t=1 the first; 2 the second beside it; 3 the second ends; 4 the third beside the first.
    assert result.finish_s == [4, 3, 4]


def test_what_it_shows_of_python_runs() -> None:
    _, code = BLOCKS
    names: dict[str, Any] = {}
    exec(code, names)
    assert list(names["results"]) == ["orca", "baton"]
    assert len(names["results"]["baton"].requests) == 3


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_of_the_readme_compose(command: list[str]) -> None:
    if "workload.path=requests.csv" in command:
        assert "workload=trace" in command
    done = subprocess.run([sys.executable, *command, "--cfg", "job"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_target_: workloads" in done.stdout
