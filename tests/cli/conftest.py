import os
from types import SimpleNamespace

import pytest


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """(*arguments) -> code, out, err of the program, run in this process with tmp_path/work as its folder."""
    from fer_ignite.cli.main import main

    folder = tmp_path / "work"
    folder.mkdir()
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
    return ("--data", "demo:140", "--epochs", "1", "--batch-size", "32", "--model-args", "{widths: [8, 8], blocks: [0, 0]}",
            "--precision", "fp32", "--threads", "1", "--device", "cpu", "--no-plots", "--no-tensorboard", "--name", "run")  # fmt: skip
