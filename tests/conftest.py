"""Shared by all tests: one thread, a pack cache of the session's own, and honesty about skipped real-data tests."""

import os
from types import SimpleNamespace

import pytest

pytest_plugins = ["tests.step_fixtures", "tests.store_fixtures"]

# One thread at exit too: an import that starts threads later must not change a result.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait leave the core to the tests beside them: without it two threads of each of three tests on two cores
# spin, which took 230 s of processor time for the pages' blocks in place of 132 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
_REAL = {"ran": 0, "skipped": 0}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    if "FER_IGNITE_TEST_CACHE" in os.environ:
        os.environ["FER_IGNITE_CACHE"] = os.environ["FER_IGNITE_TEST_CACHE"]
    else:
        os.environ["FER_IGNITE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not os.environ.get("FER2013_CSV"):
        skip = pytest.mark.skip(
            reason="needs the real FER2013: set FER2013_CSV to the path of fer2013.csv"
        )
        for item in items:
            if "real" in item.keywords:
                item.add_marker(skip)


def pytest_runtest_logreport(report):
    if "real" not in report.keywords:
        return
    if report.skipped:
        _REAL["skipped"] += 1
    elif report.when == "call":
        _REAL["ran"] += 1


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"real-data tests: {_REAL['ran']} ran, {_REAL['skipped']} skipped")


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("FER_IGNITE_REAL_REQUIRED") and _REAL["skipped"]:
        session.exitstatus = 1


TINY = {
    "data": "demo:140",
    "epochs": 2,
    "batch_size": 32,
    "model_args": {"widths": [8, 8], "blocks": [0, 0]},
    "precision": "fp32",
    "threads": 1,
    "device": "cpu",
    "plots": False,
    "tensorboard": False,
    "quiet": True,
    "name": "run",
}


@pytest.fixture
def tiny(tmp_path):
    """(**settings) -> Config of a run on 112 drawn faces that takes a fraction of a second; it writes to tmp_path/run."""
    from fer_ignite.config import check

    return lambda **settings: check({**TINY, "out": str(tmp_path), **settings})


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished tiny run that has learned something; tests read it, or copy what they change."""
    from fer_ignite import train
    from fer_ignite.config import check

    out = tmp_path_factory.mktemp("finished")
    train(
        check(
            {**TINY, "out": str(out), "data": "demo:700", "epochs": 8, "lr": 0.003, "plots": True}
        )
    )
    return out / "run"


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """(*arguments) -> code, out, err of the program, run in this process with tmp_path/work as its folder."""
    from fer_ignite.cli.main import main

    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([os.fspath(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err, folder=folder)

    return run


@pytest.fixture
def tiny_flags():
    """Flags of a run that takes a fraction of a second."""
    return (
        "--data",
        "demo:140",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--model-args",
        "{widths: [8, 8], blocks: [0, 0]}",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--no-plots",
        "--no-tensorboard",
        "--name",
        "run",
    )
