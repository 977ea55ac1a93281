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
def make_analyzer(predictor):
    """(boxes) -> an Answerer whose detector finds these, and that notes what it was shown."""

    def make(*boxes):
        def detector(images_HW3):
            analyzer.shown = [image.shape for image in images_HW3]
            return [list(boxes) for _ in images_HW3]

        analyzer = ImageAnalyzer(predictor, FaceReader(predictor, detector))
        return analyzer

    return make


def test_a_tight_face_gets_what_predict_says_of_it(predictor, happy, tmp_path):
    file = tmp_path / "face.png"
    happy().save(file)
    [prediction] = predict(predictor, [file], topk=7)
    analysis = ImageAnalyzer(predictor).analyze(file.read_bytes(), name="face.png", one_face=False)
    [face] = analysis.faces
    assert tuple(face.probabilities.items()) == prediction.top
    assert (
        analysis.sentence
        == f"Happy, {100 * face.top[1]:.0f} %. The whole picture was taken as one face."
    )


def test_the_switch_alone_decides_whether_faces_are_looked_for(make_analyzer, happy, encoded):
    data = encoded(happy())
    whole = make_analyzer().analyze(data, name="face.png", one_face=True)
    assert (
        len(whole.faces) == 1 and whole.faces[0].box is None and "switch that off" in whole.sentence
    )
    none = make_analyzer().analyze(data, name="face.png", one_face=False)
    assert (
        none.faces == ()
        and none.sentence.startswith("No face was found.")
        and none.picture_HW3.shape == (120, 120, 3)
    )


def test_each_face_of_a_photograph_is_named(make_analyzer, happy, encoded):
    photograph = Image.new("RGB", (400, 200), "white")
    for left in (20, 250):
        photograph.paste(happy(120), (left, 40))
    boxes = Box(20, 40, 120, 120), Box(250, 40, 120, 120)
    analysis = make_analyzer(*boxes).analyze(encoded(photograph), name="two.png", one_face=False)
    assert [face.box for face in analysis.faces] == list(boxes)
    shares = [f"{100 * face.top[1]:.0f}" for face in analysis.faces]
    assert (
        analysis.sentence == f"2 faces were found: 1 happy, {shares[0]} %; 2 happy, {shares[1]} %."
    )
    for face in analysis.faces:
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert list(face.probabilities.values()) == sorted(
            face.probabilities.values(), reverse=True
        )


def test_large_photographs_are_scaled_down_before_faces_are_looked_for(make_analyzer, encoded):
    analyzer = make_analyzer(Box(0, 0, 50, 50))
    analysis = analyzer.analyze(
        encoded(Image.new("RGB", (4000, 3000)), "JPEG"), name="large.jpg", one_face=False
    )
    assert analyzer.shown == [(LONGER_SIDE_PX * 3 // 4, LONGER_SIDE_PX, 3)]
    assert analysis.picture_HW3.shape == analyzer.shown[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (20_000, 2)])
def test_odd_shapes_are_pictures_too(make_analyzer, encoded, size):
    analysis = make_analyzer().analyze(encoded(Image.new("L", size)), name="odd.png", one_face=True)
    assert len(analysis.faces) == 1 and min(analysis.picture_HW3.shape[:2]) >= 1


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
def test_what_is_no_picture_is_answered_in_a_sentence(make_analyzer, data, said, one_face):
    analysis = make_analyzer().analyze(data, name="evil.png", one_face=one_face)
    assert (
        analysis.sentence.startswith("evil.png: ")
        and said in analysis.sentence
        and "\n" not in analysis.sentence
    )
    assert analysis.faces == () and analysis.picture_HW3 is None


def test_half_a_picture_is_none(make_analyzer, happy, encoded):
    data = encoded(happy())
    assert (
        "truncated"
        in make_analyzer().analyze(data[: len(data) // 2], name="cut.png", one_face=True).sentence
    )
