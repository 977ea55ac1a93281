"""Tracks and smoothing, without pictures."""

import math

import pytest

from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.face_reader import FaceReading
from fer_ignite.apps.faces.tracking import FaceTracker, overlap


def face(left, happy, top=0.0):
    return FaceReading(Box(left, top, 100, 100), {"happy": happy, "sad": 1 - happy})


def test_overlap_is_intersection_over_union():
    """Half over each other: 5000 shared of 15000."""
    assert overlap(Box(0, 0, 100, 100), Box(50, 0, 100, 100)) == pytest.approx(1 / 3)
    assert (
        overlap(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
        and overlap(Box(0, 0, 10, 10), Box(20, 0, 10, 10)) == 0
    )


def test_faces_keep_their_numbers_when_they_move_and_change_their_order():
    tracker = FaceTracker()
    first = tracker.update(0.0, [face(0, 1), face(200, 0)])
    second = tracker.update(0.04, [face(190, 0), face(20, 1), face(500, 1)])
    assert [seen.track for seen in first] == [1, 2] and [seen.track for seen in second] == [2, 1, 3]


def test_the_box_that_overlaps_most_continues_with_the_track():
    tracker = FaceTracker()
    tracker.update(0.0, [face(0, 1)])
    assert [seen.track for seen in tracker.update(0.1, [face(40, 1), face(5, 1)])] == [2, 1]


def test_probabilities_are_smoothed_by_the_documented_formula():
    """p = a p' + (1 - a) x with a = exp(-dt / s): 1, then a, then a * a at x = 0 each dt = 0.1, s = 0.5."""
    tracker, kept = FaceTracker(smooth_seconds=0.5), math.exp(-0.2)
    seen = [
        tracker.update(0.1 * n, [face(0, float(n == 0))])[0].reading.probabilities for n in range(3)
    ]
    assert [probabilities["happy"] for probabilities in seen] == pytest.approx([1, kept, kept**2])
    assert all(sum(probabilities.values()) == pytest.approx(1) for probabilities in seen)


def test_fewer_looks_smooth_the_same_over_time():
    often, seldom = FaceTracker(smooth_seconds=0.5), FaceTracker(smooth_seconds=0.5)
    for n in range(11):
        last = often.update(0.1 * n, [face(0, float(n == 0))])
    seldom.update(0.0, [face(0, 1)])
    other = seldom.update(1.0, [face(0, 0)])
    assert last[0].reading.probabilities == pytest.approx(other[0].reading.probabilities)


def test_without_smoothing_each_look_stands_alone():
    tracker = FaceTracker(smooth_seconds=0)
    tracker.update(0.0, [face(0, 1)])
    assert tracker.update(0.0, [face(0, 0.25)])[0].reading.probabilities["happy"] == 0.25


def test_a_face_that_was_away_too_long_is_a_new_one():
    tracker = FaceTracker(patience_s=1)
    tracker.update(0.0, [face(0, 1)])
    assert tracker.update(0.5, []) == []
    assert tracker.update(1.0, [face(0, 0)])[0].track == 1
    assert tracker.update(1.5, []) == tracker.update(2.0, []) == []
    seen = tracker.update(2.1, [face(0, 0)])[0]
    assert seen.track == 2 and seen.reading.probabilities["happy"] == 0


def test_looks_that_are_seconds_apart_continue_a_track_and_may_miss_it_once():
    """--frame-stride 30 at 29.97 frames a second looks every 1.001 s, longer than the patience."""
    tracker, looks = FaceTracker(patience_s=1), [1, 1, 0, 1, 0, 0, 1]
    seen = [tracker.update(1.001 * n, [face(0, 1)] * found) for n, found in enumerate(looks)]
    assert [[one.track for one in faces] for faces in seen] == [[1], [1], [], [1], [], [], [2]]
