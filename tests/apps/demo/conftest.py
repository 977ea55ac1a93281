"""The program `fer-ignite demo` as a process, and pictures to show it."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import fer_ignite
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

PATIENCE_S = 240


class Program:
    """A started `fer-ignite demo`; its temporary files lie in ``folder/tmp``."""

    def __init__(self, folder, *arguments):
        (folder / "tmp").mkdir()
        self.temporary = folder / "tmp"
        self.log = folder / "log.txt"
        path = f"{Path(fer_ignite.__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.temporary)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "fer_ignite",
                    "demo",
                    "--port",
                    "0",
                    "--no-browser",
                    "--device",
                    "cpu",
                    *arguments,
                ],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def address(self):
        """Waits until the page is there."""
        end = time.monotonic() + PATIENCE_S
        while "The page is at " not in (said := self.log.read_text()):
            assert self.process.poll() is None and time.monotonic() < end, said
            time.sleep(0.1)
        return said.split("The page is at ")[1].split()[0].rstrip("/")

    def end(self, number):
        """The exit code after a signal, and the seconds it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=60), time.monotonic() - start


@pytest.fixture
def start(tmp_path):
    """(*arguments) -> a Program that is ended after the test."""
    started = []

    def start_program(*arguments):
        started.append(Program(tmp_path, *arguments))
        return started[-1]

    yield start_program
    for program in started:
        program.process.kill()
        program.process.wait()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A Program whose detector finds two faces in wide pictures and none in others."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "halves.py").write_text(
        "def find(images):\n"
        "    return [[(20, 40, 120, 120), (250, 40, 120, 120)] if i.shape[1] >= 2 * i.shape[0] else [] for i in images]\n"
    )
    program = Program(folder, "--detector", "./halves.py:find")
    yield program
    code, _ = program.end(signal.SIGTERM)
    assert code == 143 and list(program.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def served(program):
    """Its address."""
    return program.address()


@pytest.fixture(scope="session")
def happy():
    """(side) -> a drawn happy face that the shipped network knows."""

    def draw(side=120):
        faces_NHW1, _ = draw_faces(1, seed=22, size=side, start=DEMO_CLASSES.index("happy"))
        return Image.fromarray(faces_NHW1[0, :, :, 0])

    return draw


@pytest.fixture(scope="session")
def encoded():
    """(image, format) -> the bytes of a file."""

    def encode(image, form="PNG"):
        file = io.BytesIO()
        image.save(file, form)
        return file.getvalue()

    return encode
