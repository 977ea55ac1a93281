"""Faces read in pictures, and drawn into them."""

import subprocess
import sys

import numpy as np
import pytest

from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.drawing import draw_faces_on_image
from fer_ignite.apps.faces.face_reader import FaceReader, FaceReading


class Recorder:
    """A network that keeps the shapes of its input, and returns how bright each face is."""

    classes, channels, side_px, resize_mode = ("dark", "light"), 1, 48, "squash"

    def __init__(self):
        self.shapes = []

    def probabilities(self, faces_BHWC):
        self.shapes.append(faces_BHWC.shape)
        light_B = faces_BHWC.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return np.stack([1 - light_B, light_B], axis=1)


def halves(images):
    return [[Box(50, 0, 50, 50), Box(0, 0, 50, 50)][: len(image) // 50] for image in images]


def test_the_faces_of_all_pictures_go_through_the_network_at_once_and_come_back_in_order():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:, 50:] = 255
    reader = FaceReader(Recorder(), halves)
    first, second, third = reader.read([picture, picture[:20], 255 - picture])
    assert reader.predictor.shapes == [(4, 48, 48, 1)]
    assert [reading.top for reading in first] == [("dark", 1), ("light", 1)] and second == []
    assert [reading.top[0] for reading in third] == ["light", "dark"] and list(
        third[0].probabilities
    ) == ["dark", "light"]


def test_a_picture_that_is_a_face_is_read_as_a_whole():
    picture = np.zeros((100, 60, 3), np.uint8)
    picture[:50] = 255
    reader = FaceReader(Recorder(), halves, margin=-0.4)
    (whole,), none = reader.read_boxes([picture, picture], [None, []])
    assert whole.box == Box(0, 0, 60, 100) and none == []
    assert whole.probabilities == pytest.approx({"dark": 0.5, "light": 0.5}, abs=0.02)


def test_many_faces_are_classified_in_batches():
    reader = FaceReader(Recorder(), halves, batch_size=3)
    assert len(reader.read([np.zeros((100, 100, 3), np.uint8)] * 4)) == 4
    assert [shape[0] for shape in reader.predictor.shapes] == [3, 3, 2]


def test_the_detector_s_margin_is_taken_unless_another_is_given():
    def wide(images):
        return []

    wide.margin = 0.3
    assert (
        FaceReader(Recorder(), wide).margin == 0.3
        and FaceReader(Recorder(), wide, margin=0.1).margin == 0.1
    )
    assert FaceReader(Recorder(), halves).margin == 0


def test_the_astronaut_is_happy(reader, astronaut, coffee):
    (face,), none = reader.read([astronaut, coffee])
    name, chance = face.top
    assert name == "happy" and chance > 0.7 and none == []
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_boxes_are_drawn_without_touching_the_original(astronaut):
    before = astronaut.copy()
    readings = [
        FaceReading(Box(left, top, 80, 80), {"happy": 1.0})
        for left, top in ((100, 100), (-20, -20), (480, 490), (2000, 2000))
    ]
    drawn = draw_faces_on_image(astronaut, readings, tracks=[1, 2, 3, 4])
    assert drawn.shape == astronaut.shape and (astronaut == before).all()
    changed_HW = (drawn != astronaut).any(axis=2)
    assert changed_HW[100, 100:180].all() and not changed_HW[120:160, 120:160].any()
    assert draw_faces_on_image(astronaut, []) is astronaut


def test_faces_are_found_without_torch():
    code = (
        "import sys, numpy, fer_ignite.apps.faces.analyze, fer_ignite.apps.faces.mtcnn as m\n"
        "m.Mtcnn()([numpy.zeros((60, 60, 3), numpy.uint8)])\nprint('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )
