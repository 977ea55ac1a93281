"""What is measured on stored pixels, against the plain formulas."""

import hashlib

import numpy as np
import pytest

from fer_ignite.data.cache.pixel_facts import measure
from fer_ignite.data.cache.slots import PixelSlots


@pytest.mark.parametrize("shape", [(5, 48, 48, 1), (3, 300, 300, 3), (700, 12, 9, 3), (0, 8, 8, 1)])
def test_sums_digests_and_blanks_are_those_of_the_pixels(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for place, value in ((0, 0), (1, 255), (2, 7)):
        if len(images):
            images[place] = value
    digests, sums, blank = measure(images)
    wide = images.astype(np.int64)
    assert np.array_equal(sums[:, 0], wide.sum(axis=(1, 2)))
    assert np.array_equal(sums[:, 1], (wide**2).sum(axis=(1, 2)))
    assert blank.tolist() == [
        len(np.unique(image.reshape(-1, shape[3]), axis=0)) == 1 for image in images
    ]
    assert [digest.tobytes() for digest in digests] == [
        hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images
    ]


def test_one_pixel_that_differs_by_one_in_the_largest_image_is_not_blank():
    images = np.full((2, 4096, 4096, 1), 255, dtype=np.uint8)
    images[1, 4000, 17] = 254
    assert measure(images)[2].tolist() == [True, False]


def test_slots_are_filled_in_any_order_and_gaps_are_closed(tmp_path):
    file = tmp_path / "pixels"
    file.write_bytes(b"head")
    slots = PixelSlots(str(file), 4, 6)
    images = np.arange(8 * 6, dtype=np.uint8).reshape(8, 1, 2, 3)
    for at, count in ((6, 2), (3, 1), (0, 2)):
        slots.write(images[at : at + count], at=at)
    slots.close_gaps([(0, 2), (2, 0), (3, 1), (6, 2)])
    assert file.read_bytes() == b"head" + images[[0, 1, 3, 6, 7]].tobytes()
