"""Photographs whose largest face is found, aligned and cut out when they are packed."""

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.errors import DataError


@pytest.fixture(scope="module")
def photo():
    pytest.importorskip("cv2")
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


@pytest.fixture
def photographs(tmp_path, photo):
    """A photograph per turn of the head, in two class folders."""
    for number, turn in enumerate((-20, -10, 0, 10, 20, 15)):
        folder = tmp_path / ("happy" if number % 2 else "sad")
        folder.mkdir(exist_ok=True)
        turned = photo.rotate(turn, center=(224, 110), resample=Image.Resampling.BILINEAR)
        turned.save(folder / f"{number}.jpg", quality=95)
    return tmp_path


def packed(data, **options):
    return open_cache(open_or_build(CacheSpec(data=str(data), split=(1.0, 0.0, 0.0), **options)))


@pytest.mark.parametrize("limit", [8 << 30, 0], ids=["pixels", "encoded"])
def test_every_face_is_cut_out_upright(photographs, photo, limit):
    dataset_cache = packed(photographs, crop_faces=True, side_px=64, raw_limit_bytes=limit)
    assert dataset_cache.is_memmap == bool(limit) and (
        dataset_cache.height,
        len(dataset_cache),
    ) == (64, 6)
    faces = dataset_cache.read(np.arange(6)).astype(np.float64).mean(axis=3)
    straight = faces[[dataset_cache.sample_id(i) for i in range(6)].index("sad/2.jpg")]
    for face in faces:
        assert np.corrcoef(face.ravel(), straight.ravel())[0, 1] > 0.65
    whole = packed(photographs, side_px=64)
    pictures = whole.read(np.arange(6)).astype(np.float64).mean(axis=3)
    assert np.corrcoef(pictures[2].ravel(), straight.ravel())[0, 1] < 0.5


def test_a_photograph_without_a_face_is_listed_and_left_out_on_request(photographs):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    Image.fromarray(noise).save(photographs / "sad" / "none.png")
    with pytest.raises(DataError, match=r"none\.png: no face is found in it.*--bad-images skip"):
        packed(photographs, crop_faces=True)
    dataset_cache = packed(photographs, crop_faces=True, bad_images="skip")
    assert len(dataset_cache) == 6 and dataset_cache.manifest["skipped"] == [
        "sad/none.png: no face is found in it."
    ]


def test_faces_that_are_pixels_already_are_refused():
    with pytest.raises(
        DataError, match=r"--crop-faces: demo:70 holds faces that are cut out already"
    ):
        packed("demo:70", crop_faces=True)
