"""The notebooks run from top to bottom, and what they assert holds."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_all_are_there() -> None:
    assert [name[:2] for name in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in data or "text/html" in data for data in shown)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_asserts_something_and_is_stored_without_results(name: str) -> None:
    code = [cell for cell in nbformat.read(ROOT / "notebooks" / name, as_version=4).cells if cell.cell_type == "code"]
    assert any("assert " in cell.source for cell in code)
    assert not any(cell.outputs or cell.execution_count for cell in code)
