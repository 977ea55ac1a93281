"""The HTTP interface with a network that is known by heart, and what hostile clients send."""

import asyncio
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='pip install ".[serve]"')
pytest.importorskip("python_multipart")
from fastapi import HTTPException, Request
from starlette.testclient import TestClient

from fer_ignite.apps.serve.application import ServiceLimits, build_application
from fer_ignite.apps.serve.batcher import Batcher, Busy
from fer_ignite.apps.serve.limits import RateLimit, read_body
from fer_ignite.apps.serve.run import run_service
from fer_ignite.errors import ConfigError
from fer_ignite.inference.photographs import FaceBox, FacePicker, built_in_detector


class Brightness:
    """Calls bright pictures happy and dark ones sad."""

    classes, channels, side_px, resize_mode = ("happy", "sad"), 1, 48, "squash"

    def __init__(self):
        self.batches, self.entered, self.free = [], threading.Event(), threading.Event()
        self.free.set()

    def probabilities(self, faces_BHWC):
        self.entered.set()
        self.free.wait(30)
        self.batches.append(len(faces_BHWC))
        bright_B = faces_BHWC.reshape(len(faces_BHWC), -1).mean(axis=1) / 255
        return np.stack([bright_B, 1 - bright_B], axis=1).astype(np.float32)


def picture(value, form="PNG", size=(48, 48)):
    file = io.BytesIO()
    Image.new("L", size, value).save(file, form)
    return file.getvalue()


@pytest.fixture
def network():
    return Brightness()


@pytest.fixture
def client(network):
    made = []

    def make(**limits):
        batcher = Batcher(network, faces="never")
        made.append(batcher)
        hosts = frozenset({"localhost"})
        application = build_application(
            batcher, network="a.pt", limits=ServiceLimits(**limits), hosts=hosts
        )
        return TestClient(application, base_url="http://localhost")

    yield make
    for batcher in made:
        batcher.close()


def files(*values):
    return [("files", (f"{value}.png", picture(value), "image/png")) for value in values]


def test_one_and_several_pictures_are_answered_in_their_order(client):
    http = client()
    results = http.post("/predict", files=files(250, 5, 200)).json()["results"]
    assert [result["file"] for result in results] == ["250.png", "5.png", "200.png"]
    assert [result["faces"][0]["label"] for result in results] == ["happy", "sad", "happy"]
    (face,) = results[0]["faces"]
    assert face["box"] is None and face["probability"] == pytest.approx(250 / 255, abs=1e-3)
    assert face["probabilities"] == pytest.approx({"happy": 250 / 255, "sad": 5 / 255}, abs=1e-3)


def test_a_picture_may_be_the_body(client):
    ended = client().post(
        "/predict", content=picture(250, "JPEG"), headers={"content-type": "image/jpeg"}
    )
    assert ended.json()["results"][0]["faces"][0]["label"] == "happy"


def test_health_and_metrics(client):
    http = client()
    assert http.get("/health").json() == {
        "status": "ok",
        "network": "a.pt",
        "classes": ["happy", "sad"],
    }
    http.post("/predict", files=files(1, 2))
    http.post("/predict", content=b"x", headers={"content-type": "text/plain"})
    text = http.get("/metrics").text
    assert 'fer_ignite_requests_total{status="200"} 1' in text
    assert 'fer_ignite_requests_total{status="415"} 1' in text
    assert "fer_ignite_pictures_total 2\n" in text and "fer_ignite_faces_total 2\n" in text


def test_a_bad_picture_does_not_spoil_the_others(client):
    mixed = [*files(250), ("files", ("bad.png", b"no picture", "image/png"))]
    good, bad = client().post("/predict", files=mixed).json()["results"]
    assert good["faces"][0]["label"] == "happy" and good["error"] is None
    assert bad["faces"] == [] and "bad.png" in bad["error"]


def bomb():
    """30000 x 30000 pixels in some hundred bytes of header."""
    header = picture(0)
    return header[:16] + (30_000).to_bytes(4, "big") * 2 + header[24:]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"no picture", "image/png", 422),
        (picture(9)[:60], "image/png", 422),
        (bomb(), "image/png", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422),
        (b"%PDF-1.7", "application/octet-stream", 422),
        (picture(9), "text/html", 415),
        (picture(9), "", 415),
        (b"--x\r\n\r\n--x--", "multipart/form-data", 422),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        (b"garbage", "multipart/form-data; boundary=x", 422),
        (json.dumps({"path": "/etc/passwd"}).encode(), "application/json", 415),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else str(len(value)) if isinstance(value, bytes) else None
    ),
)
def test_hostile_requests_get_a_sentence_and_the_next_good_one_an_answer(
    client, content, kind, status
):
    http = client()
    ended = http.post("/predict", content=content, headers={"content-type": kind})
    assert ended.status_code == status and isinstance(ended.json()["detail"], str)
    assert "Traceback" not in ended.text and "passwd" not in ended.text
    assert http.post("/predict", files=files(250)).status_code == 200


def test_names_with_line_breaks_and_escapes_come_back_printable(client):
    upload = [("files", ("a\x1b[2J.png", picture(250), "image/png"))]
    (result,) = client().post("/predict", files=upload).json()["results"]
    assert result["file"].isprintable()


def test_large_requests_and_many_pictures_are_refused(client):
    http = client(max_bytes=2000, max_images=3)
    large = http.post("/predict", content=b"x" * 2001, headers={"content-type": "image/png"})
    assert large.status_code == 413 and "2000 bytes" in large.json()["detail"]

    def endless():
        for _ in range(100):
            yield b"x" * 100

    chunked = http.post("/predict", content=endless(), headers={"content-type": "image/png"})
    assert chunked.status_code == 413
    many = http.post("/predict", files=files(1, 2, 3, 4))
    assert many.status_code == 422 and "at most 3 pictures" in many.json()["detail"]


def test_another_host_name_is_refused(client):
    """DNS rebinding: a page elsewhere lets its own name point to this machine."""
    ended = client().get("/health", headers={"host": "evil.example"})
    assert ended.status_code == 400


def test_a_service_on_an_ipv6_address_answers_under_it(network):
    batcher = Batcher(network, faces="never")
    application = build_application(
        batcher, network="a.pt", limits=ServiceLimits(), hosts=frozenset({"::1"})
    )
    http = TestClient(application, base_url="http://[::1]:8000")
    assert http.get("/health").status_code == 200
    assert http.get("/health", headers={"host": "[::2]:8000"}).status_code == 400
    batcher.close()


def test_an_error_names_the_file_that_the_client_sent(network, monkeypatch):
    monkeypatch.setattr(FacePicker, "_detector", lambda self: lambda pictures: [[]])
    batcher = Batcher(network, faces="always")
    application = build_application(
        batcher, network="a.pt", limits=ServiceLimits(), hosts=frozenset()
    )
    results = TestClient(application).post("/predict", files=files(1, 2)).json()["results"]
    assert [result["error"] for result in results] == [
        f"{number}.png: no face is found in it." for number in (1, 2)
    ]
    batcher.close()


def test_a_fault_is_counted_and_logged(network, caplog):
    network.probabilities = lambda faces: 1 / 0
    batcher = Batcher(network, faces="never")
    application = build_application(
        batcher, network="a.pt", limits=ServiceLimits(), hosts=frozenset()
    )
    http = TestClient(application, raise_server_exceptions=False)
    assert http.post("/predict", files=files(1)).status_code == 500
    assert 'fer_ignite_requests_total{status="500"} 1' in http.get("/metrics").text
    assert "ZeroDivisionError" in caplog.text
    batcher.close()


def test_a_client_that_goes_away_is_no_fault_of_the_service():
    messages = iter(
        [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive():
        return next(messages)

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(HTTPException) as ended:
        asyncio.run(read_body(request, 100))
    assert ended.value.status_code == 499


def test_pixels_of_a_request_are_limited_together(client):
    """Flat pictures have a thousand pixels per byte."""
    http = client(max_pixels=3 * 48 * 48)
    assert http.post("/predict", files=files(1, 2, 3)).status_code == 200
    large = http.post("/predict", files=files(1, 2, 3, 4))
    assert large.status_code == 413 and "6912 pixels" in large.json()["detail"]


def test_waiting_pixels_are_limited(network):
    batcher = Batcher(network, faces="never", most_pixels=5000)
    network.free.clear()
    first = batcher.submit([Image.new("L", (100, 100))])  # alone it may be larger
    with pytest.raises(Busy):
        batcher.submit([np.zeros((48, 48), np.uint8)])
    network.free.set()
    first.result(30)
    batcher.close()


def test_a_service_that_always_searches_does_not_start_without_a_detector(monkeypatch):
    def none_installed():
        raise ConfigError("the extra is not installed.")

    monkeypatch.setattr("fer_ignite.apps.faces.detection.open_detector", none_installed)
    built_in_detector.cache_clear()
    with pytest.raises(ConfigError, match="not installed"):
        run_service("a.pt", faces="always", port=0)


def test_a_picture_s_answer_does_not_depend_on_the_others_in_its_batch(network, monkeypatch):
    """After any number of face crops a small photograph is still searched."""
    box = FaceBox(70.0, 70.0, 40.0, 40.0)
    monkeypatch.setattr(
        FacePicker, "_boxes", lambda self, image: [box] if np.asarray(image).max() == 9 else []
    )
    batcher = Batcher(network)
    crop, photograph = (np.full((200, 200), value, np.uint8) for value in (5, 9))
    *_, (last,) = batcher.submit([crop] * 70 + [photograph]).result(60)
    assert last.box == box
    batcher.close()


def test_the_rate_of_a_client_is_limited(client):
    http = client(per_minute=2)
    codes = [http.post("/predict", files=files(1)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert int(http.post("/predict", files=files(1)).headers["retry-after"]) >= 1
    assert http.get("/health").status_code == 200  # probes are not limited


def test_a_share_fills_up_again_with_time():
    rate = RateLimit(60)
    waits = [rate.wait_s("a", now_s=0.0) for _ in range(61)]
    assert waits[:60] == [0.0] * 60 and waits[60] == pytest.approx(1.0)
    assert rate.wait_s("b", now_s=0.0) == 0.0
    assert rate.wait_s("a", now_s=1.1) == 0.0 and rate.wait_s("a", now_s=1.1) > 0
    assert RateLimit(0).wait_s("a") == 0.0


def test_waiting_requests_share_a_batch_and_get_their_own_answers(network):
    batcher = Batcher(network, faces="never", batch_size=8)
    network.free.clear()
    dark, bright = np.full((48, 48), 5, np.uint8), np.full((48, 48), 250, np.uint8)
    waiting = [batcher.submit([dark])]
    assert network.entered.wait(30)
    waiting += [batcher.submit([bright, dark]), batcher.submit([bright])]
    network.free.set()
    labels = [[face.label for (face,) in future.result(30)] for future in waiting]
    assert labels == [["sad"], ["happy", "sad"], ["happy"]]
    assert network.batches == [1, 3]
    batcher.close()


def test_too_many_waiting_pictures_are_refused(network):
    batcher = Batcher(network, faces="never", most_waiting=3)
    network.free.clear()
    picture_HW = np.zeros((48, 48), np.uint8)
    first = batcher.submit([picture_HW] * 3)
    with pytest.raises(Busy):
        batcher.submit([picture_HW])
    network.free.set()
    first.result(30)
    batcher.close()


def test_a_fault_of_the_network_ends_the_request_not_the_service(network):
    batcher = Batcher(network, faces="never")
    network.probabilities = lambda faces: 1 / 0
    with pytest.raises(ZeroDivisionError):
        batcher.submit([np.zeros((48, 48), np.uint8)]).result(30)
    network.probabilities = Brightness().probabilities
    assert batcher.submit([np.zeros((48, 48), np.uint8)]).result(30)[0][0].label == "sad"
    batcher.close()


def test_a_cancelled_request_ends_neither_the_service_nor_its_batch(network):
    """A client that goes away cancels its request, while it waits or while the network works on it."""
    batcher = Batcher(network, faces="never")
    network.free.clear()
    picture_HW = np.zeros((48, 48), np.uint8)
    working = batcher.submit([picture_HW])
    assert network.entered.wait(30)
    waiting, other = batcher.submit([picture_HW] * 2), batcher.submit([picture_HW])
    assert waiting.cancel() and not working.cancel()
    network.free.set()
    assert other.result(30)[0][0].label == "sad"
    assert network.batches == [1, 1]
    only = batcher.submit([picture_HW])
    only.cancel()  # too late or not: the thread lives either way
    assert batcher.submit([picture_HW]).result(30)[0][0].label == "sad"
    batcher.close()
