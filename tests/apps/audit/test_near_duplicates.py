import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from fer_ignite.apps.audit.near_duplicates import near_pairs


@pytest.fixture(scope="module")
def textures():
    """uint8 [60, 48, 48]: smooth random pictures, each unlike the others."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (60, 9, 9)).astype(np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC))
            for image in small
        ]
    )


def jpeg(image):
    room = io.BytesIO()
    image.save(room, "JPEG", quality=50)
    return Image.open(room).convert("L")


CHANGES = {
    "mirror": ImageOps.mirror,
    "rotate 5": lambda image: image.rotate(5, resample=Image.Resampling.BILINEAR),
    "rotate -10": lambda image: image.rotate(-10, resample=Image.Resampling.BILINEAR),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "crop": lambda image: image.crop((1, 4, 44, 47)).resize((48, 48), Image.Resampling.BILINEAR),
    "jpeg": jpeg,
}


PLANS = [
    *((name,) for name in CHANGES),
    *itertools.combinations(CHANGES, 2),
    ("mirror", "bright", "rotate 5"),
]


@pytest.mark.slow
@pytest.mark.parametrize("names", PLANS, ids="+".join)
def test_changed_copies_are_found_and_nothing_else(textures, names):
    image = Image.fromarray(textures[7])
    for name in names:
        image = CHANGES[name](image)
    found = near_pairs(np.concatenate([textures, np.asarray(image)[None]]))
    assert found.pairs_P2.tolist() == [[7, 60]]
    assert found.mirrored_P.tolist() == ["mirror" in names]
    assert 0.8 <= found.similarity_P[0] <= 1 + 1e-5


def test_the_order_of_the_images_does_not_change_the_pairs(textures):
    copy = np.asarray(
        ImageOps.mirror(Image.fromarray(textures[3])).rotate(6, resample=Image.Resampling.BILINEAR)
    )
    forward = near_pairs(np.concatenate([textures, copy[None]])).pairs_P2.tolist()
    backward = near_pairs(np.concatenate([copy[None], textures])).pairs_P2.tolist()
    assert forward == [[3, 60]] and backward == [[0, 4]]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_images_are_compared_as_well(textures, count):
    assert len(near_pairs(textures[:count]).pairs_P2) == 0
    if count:
        bright = np.asarray(ImageEnhance.Brightness(Image.fromarray(textures[0])).enhance(1.2))
        assert near_pairs(np.concatenate([textures[:count], bright[None]])).pairs_P2.tolist() == [
            [0, count]
        ]
