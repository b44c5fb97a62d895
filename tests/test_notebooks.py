"""The notebooks of the documentation run from beginning to end, with budgets cut to a few steps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
EXECUTED = sorted(FOLDER.glob("*.ipynb"))  # with the outputs that readers see
NOTEBOOKS = [*sorted(FOLDER.glob("*.md")), *EXECUTED]
BUDGETS = ((r"\b(steps=|step == )\d+", r"\g<1>3"), (r"\bminutes=[\d.]+", "steps=3"))
LARGEST_BYTES = 150_000  # of a notebook with its outputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder. Jupyter and IPython have their files in another one, and computing takes one thread."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def outputs(cells: list[Any], words: str) -> list[Any]:
    """What the one cell with these words shows."""
    (found,) = (cell.outputs for cell in cells if words in cell.source)
    return list(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, folder: Path) -> None:
    import jupytext
    import nbclient

    notebook = jupytext.read(path)
    for cell in notebook.cells:
        for budget, few in BUDGETS:
            cell.source = re.sub(budget, few, cell.source)
    nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"] == []
    (progress,) = outputs(cells, "run = scriven.train")  # one display, which has changed
    assert "step 3" in progress.data["text/html"] and "Done after 3 steps" in progress.data["text/html"]
    assert "<svg" in progress.data["text/html"]
    (coloured,) = outputs(cells, "# the darker")
    assert "background: rgba" in coloured.data["text/html"]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == sum("plt.show()" in cell.source for cell in cells)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_a_notebook_keeps_its_outputs(path: Path) -> None:
    assert path.stat().st_size <= LARGEST_BYTES
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in shown if output["output_type"] == "error" or output.get("name") == "stderr"]
    drawn = [output.get("data", {}) for output in shown]
    assert sum("<svg" in "".join(data.get("text/html", "")) or "image/png" in data for data in drawn) >= 3


def test_a_notebook_of_the_library_is_linked_to() -> None:
    root = Path(__file__).parents[1]
    for page in (root / "README.md", root / "docs" / "python.md"):
        assert [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in page.read_text("utf-8")] == []
