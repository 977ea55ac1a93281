"""The streaming example trains from shards behind a real web server, in an order that 1 and N processes and a resume share."""

import functools
import http.server
import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from fer_ignite import Events, build_session, train
from fer_ignite.errors import FerError
from fer_ignite.imports import load_object

pytest.importorskip("webdataset", reason='pip install ".[stream]"')

FILE = Path(__file__).parents[2] / "examples" / "streaming_webdataset.py"
HANDLER = f"{FILE}:by_shards"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """140 drawn faces in shards of ten, served over HTTP; who requested what."""
    monkeypatch.setenv("FACES_PER_SHARD", "10")
    example = load_object(f"{FILE}:write", setting="the test")
    monkeypatch.setitem(example.__globals__, "PER_SHARD", 10)
    example("demo:140", str(tmp_path / "bucket"))
    handler = functools.partial(_Quiet, directory=str(tmp_path / "bucket"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FACES", f"http://127.0.0.1:{server.server_port}")
    yield tmp_path / "bucket"
    server.shutdown()
    server.server_close()


def streamed(tiny, **changed):
    return tiny(data=f"{FILE}:Shards", handlers=HANDLER, **changed)


@pytest.mark.slow
def test_an_epoch_has_every_face_once_and_stays_within_a_group_of_shards(tiny, bucket):
    session = build_session(streamed(tiny), handlers=[])
    session.close()
    plan = session.train_loader.plan
    order = plan.order(0)
    assert sorted(order.tolist()) == list(range(112))  # eleven shards of ten, and one of two
    assert order.tolist() != plan.order(1).tolist() and order.tolist() == plan.order(0).tolist()
    first = order[: 8 * 10 - 8]  # however many of its eight shards is the short one
    assert len(np.unique(first // 10)) <= 8


def interrupt_in_the_second_epoch(session):
    @session.trainer.on(Events.ITERATION_COMPLETED(once=5))
    def interrupt(engine):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_run_that_streams_is_continued_in_the_middle_of_an_epoch_to_the_same_weights(
    tiny, bucket, tmp_path
):
    whole = train(streamed(tiny, name="whole"))
    with pytest.raises(FerError):
        train(streamed(tiny, name="cut"), handlers=[interrupt_in_the_second_epoch])
    cut = json.loads((tmp_path / "cut" / "summary.json").read_text())
    # 112 faces in batches of 32: four an epoch
    assert whole["iterations"] == 8 and 5 <= cut["iterations"] < 8
    again = train(streamed(tiny, name="cut", resume="auto"))
    assert (again["iterations"], again["weights_sha256"]) == (8, whole["weights_sha256"])
