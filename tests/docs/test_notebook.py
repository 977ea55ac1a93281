"""The notebook runs from its first cell to its last, in a kernel of its own."""

import json

import pytest
from blocks import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_run.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # zmq, tornado and jupyter have warnings of their own
def test_the_notebook_runs_and_its_last_cell_has_a_norm_for_each_step(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason='pip install ".[docs]"')
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for (
        cell
    ) in notebook.cells:  # what follows the training needs no network that has learned something
        cell.source = cell.source.replace("epochs=8", "epochs=1")
    client.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    norms = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
    assert norms.count(",") == 1  # 256 faces in batches of 128: two steps


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells
    )
