"""What tests of a command line share."""

from pathlib import Path

import pytest

from sim.tasks.comparison import comparison


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, without the traces of this machine; nothing is drawn, for that takes longest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATON_DATA", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    return tmp_path
