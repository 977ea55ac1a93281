import threading
import time

import pytest

from fer_ignite.apps.trackers import attach
from fer_ignite.apps.trackers.upload_queue import Point, UploadQueue
from fer_ignite.checkpoint.run_dir import RunDir


@pytest.fixture
def warned(caplog):
    import logging

    logging.getLogger("fer_ignite").propagate = True
    return caplog


def test_points_arrive_in_order_and_those_that_wait_go_together():
    items, gate = [], threading.Event()

    def deliver(points):
        gate.wait()
        items.append([point.step for point in points])

    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: None)
    for step in range(5):
        uploads.put(Point({"a": 1.0}, step))
    gate.set()
    assert uploads.close(within_s=5)
    assert [step for item in items for step in item] == [0, 1, 2, 3, 4] and len(items) <= 3


def test_a_file_goes_behind_the_points_that_came_before_it():
    sent = []
    uploads = UploadQueue(
        "T",
        lambda points: sent.extend(point.step for point in points),
        unreachable_reason=lambda: None,
    )
    uploads.put(Point({"a": 1.0}, 1))
    uploads.put(lambda: sent.append("file"))
    uploads.put(Point({"a": 1.0}, 2))
    assert uploads.close(within_s=5) and sent == [1, "file", 2]
    begun = time.monotonic()
    # closed already: nothing to wait for
    assert uploads.drain(within_s=60) and uploads.close(within_s=60)
    assert time.monotonic() - begun < 25


def test_what_a_server_refuses_is_left_out_and_said_once(warned):
    sent = []

    def deliver(points):
        if points[0].step < 2:
            raise ValueError("no such name")
        sent.append(points[0].step)

    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: None)
    for step in range(3):
        uploads.put(Point({"a": 1.0}, step))
        assert uploads.drain(within_s=5)
    assert sent == [2]
    assert warned.messages == [
        "T refused a part of the record (no such name); the training continues"
    ]


def test_a_server_that_is_away_never_delays_the_run(warned):
    def deliver(points):
        raise ConnectionError

    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: "T is away")
    begun = time.monotonic()
    for step in range(1000):
        uploads.put(Point({"a": 1.0}, step))
    assert time.monotonic() - begun < 25
    assert not uploads.close(within_s=60)
    assert time.monotonic() - begun < 25
    assert len([message for message in warned.messages if "T is away" in message]) == 1
    assert len([message for message in warned.messages if "did not get all" in message]) == 1


def test_a_server_that_comes_back_gets_everything(monkeypatch):
    monkeypatch.setattr("fer_ignite.apps.trackers.upload_queue._RETRY_S", 0.05)
    up, sent = threading.Event(), []

    def deliver(points):
        if not up.is_set():
            raise ConnectionError
        sent.extend(point.step for point in points)

    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: None if up.is_set() else "away")
    for step in range(10):
        uploads.put(Point({"a": 1.0}, step))
    time.sleep(0.2)
    up.set()
    assert uploads.close(within_s=5) and sent == list(range(10))


def test_the_end_does_not_wait_for_the_next_trial_but_makes_it(monkeypatch):
    monkeypatch.setattr("fer_ignite.apps.trackers.upload_queue._RETRY_S", 60)
    up, tried, sent = threading.Event(), threading.Event(), []

    def deliver(points):
        if not up.is_set():
            tried.set()
            raise ConnectionError
        sent.extend(point.step for point in points)

    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: None if up.is_set() else "away")
    uploads.put(Point({"a": 1.0}, 1))
    assert tried.wait(5)
    assert not uploads.drain(within_s=60)  # away still
    up.set()
    assert uploads.close(within_s=5) and sent == [1]


def test_what_failed_while_a_server_came_back_is_not_taken_for_refused():
    trials, sent = [], []

    def deliver(points):
        trials.append(len(points))
        if len(trials) == 1:
            raise ConnectionError
        sent.extend(point.step for point in points)

    # it answers again before the next request
    uploads = UploadQueue("T", deliver, unreachable_reason=lambda: None)
    uploads.put(Point({"a": 1.0}, 1))
    assert uploads.close(within_s=5) and sent == [1]


def test_a_delivery_that_hangs_ends_with_the_time_it_is_given():
    uploads = UploadQueue("T", lambda points: time.sleep(60), unreachable_reason=lambda: None)
    uploads.put(Point({"a": 1.0}, 1))
    begun = time.monotonic()
    assert not uploads.close(within_s=0.2)
    assert time.monotonic() - begun < 25


def test_a_closed_queue_leaves_no_thread_behind():
    sent = []
    uploads = UploadQueue("T", sent.extend, unreachable_reason=lambda: None)
    uploads.put(Point({"a": 1.0}, 1))
    assert uploads.close(within_s=25) and len(sent) == 1
    uploads._thread.join(25)
    assert not uploads._thread.is_alive()


def test_all_trackers_together_wait_for_one_time_at_the_end(monkeypatch, tmp_path):
    """Three queues that hang: 0.5 s in all, and a moment for each, where it was 0.5 s for each wait."""
    monkeypatch.setattr(attach, "_FAREWELL_S", 0.5)
    monkeypatch.setattr(attach, "_LEAST_S", 0.0)
    given = []

    class Hanging:
        title = "T"

        def settle(self, *, within_s):
            given.append(within_s)
            time.sleep(within_s)

        def end(self, status, *, within_s):
            self.settle(within_s=within_s)

    trackers = attach.Trackers([Hanging()] * 3, RunDir(tmp_path), settings=dict, checkpoint=False)
    trackers._opened = list(trackers.each)
    trackers.settle()
    trackers.close()
    assert given[0] == 0.5 and given[1:] == [0.0] * 5
