import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.pack import open_pack
from fer_ignite.data.packing import open_or_build
from fer_ignite.data.spec import PackSpec


@pytest.fixture(scope="session")
def blob():
    """(number, side) -> a smooth gray picture that is like no other number's; uint8 [side, side]."""

    def draw(number, side=48):
        small = np.random.default_rng(number).integers(0, 256, (6, 6)).astype(np.uint8)
        return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))

    return draw


@pytest.fixture
def pack_of_faces(tmp_path):
    """({"train/happy/a": pixels}) -> the pack of class folders with these images."""

    def make(images, **spec):
        for name, pixels in images.items():
            path = tmp_path / "faces" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(pixels, bytes):
                path.write_bytes(pixels)
            else:
                Image.fromarray(pixels).save(path)
        return open_pack(open_or_build(PackSpec(data=str(tmp_path / "faces"), channels="gray", **spec)))

    return make


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
