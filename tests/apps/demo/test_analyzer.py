"""Real pictures, the network in the box, and a detector that knows where the faces are, since the test has put them there."""

import numpy as np
import pytest
from PIL import Image

from fer_ignite.apps.demo.analyzer import LONGER_SIDE_PX, ImageAnalyzer
from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.face_reader import FaceReader
from fer_ignite.inference.predictor import open_predictor, predict
from fer_ignite.weights import shipped_checkpoint


@pytest.fixture(scope="module")
def predictor():
    return open_predictor(shipped_checkpoint(), device="cpu", tta="none")


@pytest.fixture
def asked(predictor):
    """(boxes) -> an Answerer whose detector finds these, and that notes what it was shown."""

    def make(*boxes):
        def detector(images_HW3):
            answerer.shown = [image.shape for image in images_HW3]
            return [list(boxes) for _ in images_HW3]

        answerer = ImageAnalyzer(predictor, FaceReader(predictor, detector))
        return answerer

    return make


def test_a_tight_face_gets_what_predict_says_of_it(predictor, happy, tmp_path):
    file = tmp_path / "face.png"
    happy().save(file)
    [prediction] = predict(predictor, [file], topk=7)
    answer = ImageAnalyzer(predictor).answer(file.read_bytes(), name="face.png", one_face=False)
    [face] = answer.faces
    assert tuple(face.probabilities.items()) == prediction.top
    assert (
        answer.sentence
        == f"Happy, {100 * face.top[1]:.0f} %. The whole picture was taken as one face."
    )


def test_the_switch_alone_decides_whether_faces_are_looked_for(asked, happy, encoded):
    data = encoded(happy())
    whole = asked().answer(data, name="face.png", one_face=True)
    assert (
        len(whole.faces) == 1 and whole.faces[0].box is None and "switch that off" in whole.sentence
    )
    none = asked().answer(data, name="face.png", one_face=False)
    assert (
        none.faces == ()
        and none.sentence.startswith("No face was found.")
        and none.picture_HW3.shape == (120, 120, 3)
    )


def test_each_face_of_a_photograph_is_named(asked, happy, encoded):
    photograph = Image.new("RGB", (400, 200), "white")
    for left in (20, 250):
        photograph.paste(happy(120), (left, 40))
    boxes = Box(20, 40, 120, 120), Box(250, 40, 120, 120)
    answer = asked(*boxes).answer(encoded(photograph), name="two.png", one_face=False)
    assert [face.box for face in answer.faces] == list(boxes)
    shares = [f"{100 * face.top[1]:.0f}" for face in answer.faces]
    assert answer.sentence == f"2 faces were found: 1 happy, {shares[0]} %; 2 happy, {shares[1]} %."
    for face in answer.faces:
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert list(face.probabilities.values()) == sorted(
            face.probabilities.values(), reverse=True
        )


def test_large_photographs_are_scaled_down_before_faces_are_looked_for(asked, encoded):
    answerer = asked(Box(0, 0, 50, 50))
    answer = answerer.answer(
        encoded(Image.new("RGB", (4000, 3000)), "JPEG"), name="large.jpg", one_face=False
    )
    assert answerer.shown == [(LONGER_SIDE_PX * 3 // 4, LONGER_SIDE_PX, 3)]
    assert answer.picture_HW3.shape == answerer.shown[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (20_000, 2)])
def test_odd_shapes_are_pictures_too(asked, encoded, size):
    answer = asked().answer(encoded(Image.new("L", size)), name="odd.png", one_face=True)
    assert len(answer.faces) == 1 and min(answer.picture_HW3.shape[:2]) >= 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no image data"),
        (b"<svg onload='alert(1)'/>", "no image data"),
        (b"<html><script>", "no image data"),
        (np.random.default_rng(0).bytes(5000), "no image data"),
    ],
)
@pytest.mark.parametrize("one_face", [True, False])
def test_what_is_no_picture_is_answered_in_a_sentence(asked, data, said, one_face):
    answer = asked().answer(data, name="evil.png", one_face=one_face)
    assert (
        answer.sentence.startswith("evil.png: ")
        and said in answer.sentence
        and "\n" not in answer.sentence
    )
    assert answer.faces == () and answer.picture_HW3 is None


def test_half_a_picture_is_none(asked, happy, encoded):
    data = encoded(happy())
    assert (
        "truncated"
        in asked().answer(data[: len(data) // 2], name="cut.png", one_face=True).sentence
    )
