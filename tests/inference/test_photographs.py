import numpy as np
import pytest
from PIL import Image

from fer_ignite import load_model, predict
from fer_ignite.inference import photographs
from fer_ignite.weights import shipped_checkpoint


def warnings_of(tmp_path, *images):
    """The sentences that predict gives for these pictures."""
    files = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    warnings = []
    assert all(
        answer.error is None
        for answer in predict(
            shipped_checkpoint(), files, faces="never", tta="none", warn=warnings.append
        )
    )
    return warnings


def noise(width, height):
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)
    )


@pytest.mark.parametrize(
    "size", [(48, 48), (100, 100), (83, 109), (160, 160), (140, 217), (224, 224), (256, 256)]
)
def test_usual_sizes_of_face_crops_give_no_warning(tmp_path, size):
    assert warnings_of(tmp_path, noise(*size)) == []


@pytest.mark.parametrize("size", [(512, 512), (640, 480), (300, 200), (90, 200), (1200, 1600)])
def test_large_and_long_pictures_give_one_line_that_names_the_file_and_the_remedy(tmp_path, size):
    (warnings,) = warnings_of(tmp_path, noise(48, 48), noise(*size), noise(*size))
    assert (
        "1.png seems to be a whole photograph" in warnings
        and "--faces" in warnings
        and "\n" not in warnings
    )


def test_a_woman_in_a_photograph_is_reported_at_any_size_and_her_face_alone_is_not(tmp_path):
    pytest.importorskip("cv2")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    for side in (512, 320, 224, 128):
        (warnings,) = warnings_of(tmp_path, photo.resize((side, side)))
        assert "covers less than a tenth" in warnings
    face = photo.crop((170, 50, 280, 190))
    for size in ((110, 140), (224, 224), (400, 500)):
        assert warnings_of(tmp_path, face.resize(size)) == []


def test_her_face_is_cut_out_of_the_photograph_and_a_face_crop_is_taken_as_it_is(tmp_path):
    """The same by path, in memory, and with the exported network; the photograph as one face says something else."""
    pytest.importorskip("cv2")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    network = load_model()
    warnings = []
    (found,) = predict(network, photo, topk=7, warn=warnings.append)
    assert found.label == "happy" and found.probability > 0.8 and found.face == 1
    left, top, width, height = found.box
    assert 150 < left < 240 and 20 < top < 120 and 60 < width < 180 and 60 < height < 180
    assert len(warnings) == 1 and "512 x 512" in warnings[0] and "--faces never" in warnings[0]
    assert "face 1" in repr(found) and network.predict(photo)[0].box == found.box
    (whole,) = network.predict(photo, faces="never")
    assert whole.box is None and whole.probabilities != found.probabilities
    crop = photo.crop((170, 50, 280, 190))
    assert network.predict(crop)[0].box is None
    assert network.predict(crop, faces="always")[0].box is not None
    (none,) = network.predict(noise(200, 200), faces="always")
    assert none.label is None and "no face is found" in none.error


def test_several_faces_of_a_photograph_come_in_reading_order():
    pytest.importorskip("cv2")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop(
        (120, 0, 340, 260)
    )
    wide = Image.new("RGB", (3 * 220, 2 * 260), "gray")
    for column in range(3):
        for row in range(2):
            wide.paste(photo, (column * 220, row * 260 + 10 * (2 - column)))
    found = load_model().predict(wide)
    assert [face.face for face in found] == [1, 2, 3, 4, 5, 6]
    places = [(round(face.box.top // 260), round(face.box.left // 220)) for face in found]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_without_a_detector_size_and_shape_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs.FacePicker, "_boxes", lambda self, image: [])
    assert len(warnings_of(tmp_path, noise(512, 512))) == 1
    assert warnings_of(tmp_path, noise(224, 224)) == []


def test_a_photograph_that_is_taken_as_one_face_is_named_also_after_one_that_is_cut():
    box = photographs.FaceBox(0.0, 0.0, 40.0, 40.0)
    warnings = []
    picker = photographs.FacePicker(
        "auto",
        usual_px=48,
        warn=warnings.append,
        detector=lambda pictures: [[box] if pictures[0].max() else []],
    )
    for value in (9, 0, 9, 0):
        picker.pick(f"{value}.png", Image.new("RGB", (600, 600), (value,) * 3))
    assert len(warnings) == 2
    assert "9.png is a whole photograph" in warnings[0] and "0.png seems to be" in warnings[1]


def test_the_detector_is_opened_once_for_all_pickers(monkeypatch):
    opened = []
    monkeypatch.setattr(
        "fer_ignite.apps.faces.detection.open_detector",
        lambda: opened.append(1) or (lambda pictures: [[]]),
    )
    photographs.built_in_detector.cache_clear()
    for _ in range(2):
        photographs.FacePicker("always", usual_px=48, warn=print)
    photographs.built_in_detector.cache_clear()
    assert opened == [1]


def test_the_search_in_small_pictures_ends_only_after_many_without_a_photograph():
    """Pictures of value 9 are photographs, their face covers a twenty-fifth; the others are faces."""
    small, whole = (photographs.FaceBox(0.0, 0.0, side, side) for side in (40.0, 200.0))

    def detect(pictures):
        return [[small if pixels_HW3[0, 0, 0] == 9 else whole] for pixels_HW3 in pictures]

    def cut(values, **options):
        warnings = []
        picker = photographs.FacePicker("auto", usual_px=48, warn=warnings.append, **options)
        picker._opened = detect
        images = [Image.new("RGB", (200, 200), (value,) * 3) for value in values]
        boxes = [box for image in images for _, box in picker.pick("a.png", image)]
        return [box is not None for box in boxes], warnings

    found, warnings = cut([9] * 70)
    assert found == [True] * 70 and len(warnings) == 1
    found, _ = cut([5, 5, 9] * 40)
    assert found == [False, False, True] * 40
    found, warnings = cut([5] * 64 + [9, 9])
    assert found == [False] * 66
    assert len(warnings) == 1 and "64 pictures" in warnings[0] and "--faces always" in warnings[0]
    found, warnings = cut([5] * 64 + [9], most_looks=None)
    assert found[-1] and "whole photograph" in warnings[0]
    assert cut([5] * 64) == ([False] * 64, [])
