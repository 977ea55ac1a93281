"""The HTTP service of examples/, asked by a real client."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from fer_ignite.data.drawn_faces import draw_faces

EXAMPLES = Path(__file__).parents[2] / "examples"


def post(address, data):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + data
        + b"\r\n--x--\r\n"
    )
    request = urllib.request.Request(
        f"{address}/predict", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def address():
    for name in ("fastapi", "uvicorn", "multipart"):
        pytest.importorskip(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(EXAMPLES),
        "--port",
        str(port),
        "http_service:app",
    ]
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
    ) as server:
        until = time.monotonic() + 90
        while time.monotonic() < until and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.communicate(timeout=30)


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_a_face_a_photograph_and_nonsense_are_answered(address):
    (face,) = post(address, encoded(Image.fromarray(draw_faces(1, seed=1)[0][0, :, :, 0])))
    assert face["box"] is None and sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, b"no picture")
    assert refused.value.code == 422 and b"no image data" in refused.value.read()
    refused.value.close()
    pytest.importorskip("cv2")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    (found,) = post(address, encoded(photo))
    assert found["label"] == "happy" and set(found["box"]) == {"left", "top", "width", "height"}
