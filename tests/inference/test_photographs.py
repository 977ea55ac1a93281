import numpy as np
import pytest
from PIL import Image

from fer_ignite import predict
from fer_ignite.inference import photographs
from fer_ignite.weights import shipped_checkpoint


def warnings_of(tmp_path, *images):
    """The sentences that predict gives for these pictures."""
    files = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    told = []
    assert all(
        answer.error is None
        for answer in predict(shipped_checkpoint(), files, tta="none", warn=told.append)
    )
    return told


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
    (told,) = warnings_of(tmp_path, noise(48, 48), noise(*size), noise(*size))
    assert "1.png seems to be a whole photograph" in told and "--faces" in told and "\n" not in told


def test_a_woman_in_a_photograph_is_told_at_any_size_and_her_face_alone_is_not(tmp_path):
    pytest.importorskip("cv2")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    for side in (512, 320, 224, 128):
        (told,) = warnings_of(tmp_path, photo.resize((side, side)))
        assert "covers less than a tenth" in told
    face = photo.crop((170, 50, 280, 190))
    for size in ((110, 140), (224, 224), (400, 500)):
        assert warnings_of(tmp_path, face.resize(size)) == []


def test_without_a_detector_size_and_shape_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "_detector", lambda: lambda images: [[] for _ in images])
    assert len(warnings_of(tmp_path, noise(512, 512))) == 1
    assert warnings_of(tmp_path, noise(224, 224)) == []
