"""`fer-ignite serve` as a process: a photograph, an exported file, its end."""

import io
import os
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

from fer_ignite.data.drawn_faces import draw_faces

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason='pip install ".[serve]"')
pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path):
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "fer_ignite", "serve", "--port", "0", *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"at (http://\S+)predict", line):
                return process, found[1]
        raise AssertionError("".join(lines))

    yield start
    for process in started:
        process.kill()
        process.communicate()


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_face_and_a_photograph_are_answered_and_a_signal_ends_it(served, tmp_path):
    process, address = served()
    face = encoded(Image.fromarray(draw_faces(1, seed=1)[0][0, :, :, 0]))
    pictures = [face]
    if skimage := pytest.importorskip("skimage.data"):
        pictures.append(encoded(Image.fromarray(skimage.astronaut())))
    uploads = [("files", (f"{place}.png", data)) for place, data in enumerate(pictures)]
    results = httpx.post(f"{address}predict", files=uploads, timeout=120).json()["results"]
    assert results[0]["faces"][0]["box"] is None
    assert sum(results[0]["faces"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    (found,) = results[1]["faces"]
    assert found["label"] == "happy" and set(found["box"]) == {"left", "top", "width", "height"}
    assert httpx.get(f"{address}health").json()["network"] == "robust.pt"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not any(tmp_path.rglob("*.png"))  # no picture stays


def test_an_exported_file_is_served_without_torch(served, tmp_path):
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "fer_ignite", "export"]
    checkpoint = subprocess.run(
        [sys.executable, "-c", "from fer_ignite.weights import *; print(shipped_checkpoint())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run(
        [*command, checkpoint, "--out", "m.onnx", "--data", "demo:70", "--quiet"],
        cwd=tmp_path,
        check=True,
    )
    process, address = served("m.onnx", "--faces", "never")
    face = encoded(Image.fromarray(draw_faces(1, seed=1)[0][0, :, :, 0]))
    ended = httpx.post(f"{address}predict", files=[("files", ("a.png", face))], timeout=60)
    assert ended.status_code == 200 and ended.json()["results"][0]["faces"]
    with open(f"/proc/{process.pid}/maps") as maps:
        assert "libtorch" not in maps.read()
