"""The notebook runs from its first cell to its last, in a kernel of its own."""

import json

import pytest
from blocks import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_run.ipynb"


def execute(cells, folder, monkeypatch):
    """The cells' outputs after a run in a kernel of its own; a cell's error ends up in its outputs."""
    nbformat = pytest.importorskip("nbformat", reason='pip install ".[docs]"')
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # ipykernel would not show what processes write
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(
        notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # zmq, tornado and jupyter have warnings of their own
def test_a_notebook_gets_lines_bars_and_sentences(tmp_path, monkeypatch):
    """Lines in stdout, the notebook's own bars, nothing in stderr's red block, also of started processes."""
    several, typed_in, after = execute(
        [
            "from fer_ignite import Config, train\n"
            "config = dict(data='demo:70', epochs=1, tta='none', plots=False, exist_ok=True)\n"
            "summary = train(Config(**config), nproc=2)",
            "def watch(session):\n    pass\n\ntrain(Config(**config), nproc=2, handlers=[watch])",
            "train(Config(**config), handlers=[watch])['status']",
        ],
        tmp_path,
        monkeypatch,
    )
    streams = {}
    for output in [*several, *after]:
        if output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
    assert set(streams) == {"stdout"}, streams.get("stderr")
    assert "completed after 1 epochs" in streams["stdout"]
    widgets = [
        output
        for output in after
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert widgets  # tqdm's bars for notebooks
    (error,) = [output for output in typed_in if output.output_type == "error"]
    assert error.ename == "ConfigError"
    assert "watch was defined in a notebook" in error.evalue and "nproc=1" in error.evalue
    assert "completed" in after[-1]["data"]["text/plain"]


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
    assert norms.count(",") == 1  # 140 faces in batches of 128: two steps


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells
    )
