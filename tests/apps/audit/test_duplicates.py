import numpy as np
import pytest
from PIL import Image

from fer_ignite.apps.audit.duplicates import find_copies, small_versions


def group_names(cache, numbers_N):
    """Sets of the ids that share a number, without the singles."""
    names = [cache.sample_id(i).rsplit("/", 1)[1].removesuffix(".png") for i in range(len(cache))]
    found = {}
    for name, number in zip(names, numbers_N.tolist(), strict=True):
        found.setdefault(number, set()).add(name)
    return sorted((group for group in found.values() if len(group) > 1), key=sorted)


def test_copies_are_found_pixel_for_pixel_cut_scaled_and_mirrored(cache_from_images, blob):
    big = blob(1, 96)
    cache = cache_from_images(
        {
            "train/happy/same": blob(0),
            "val/happy/again": blob(0),
            "train/sad/whole": np.asarray(Image.fromarray(big).resize((48, 48))),
            "train/happy/cut": np.asarray(Image.fromarray(big[2:94, 2:94]).resize((48, 48))),
            "train/sad/pale": (np.asarray(Image.fromarray(big).resize((48, 48))) // 2 + 90).astype(
                np.uint8
            ),
            "train/sad/left": blob(2),
            "val/sad/right": blob(2)[:, ::-1].copy(),
            **{f"train/happy/other{i}": blob(10 + i) for i in range(20)},
        }
    )
    copies = find_copies(cache)
    assert group_names(cache, copies.exact_N) == [{"same", "again"}]
    assert group_names(cache, copies.near_N) == [
        {"again", "same"},
        {"cut", "pale", "whole"},
        {"left", "right"},
    ]
    mirrored = {
        cache.sample_id(int(i)).rsplit("/", 1)[1] for i in np.flatnonzero(copies.mirrored_N)
    }
    assert mirrored == {"left.png", "right.png"}


def test_flat_images_are_reported_and_compared_with_nothing(cache_from_images, blob):
    gray = np.full((48, 48), 90, np.uint8)
    nearly = gray.copy()
    nearly[0, 0] = 120  # standard deviation 30 / 48 = 0.6
    cache = cache_from_images(
        {"train/a/x": gray, "train/b/y": nearly, "val/a/z": blob(3), "val/b/w": blob(4)}
    )
    copies = find_copies(cache)
    assert [cache.sample_id(int(i)).rsplit("/", 1)[1] for i in np.flatnonzero(copies.flat_N)] == [
        "x.png",
        "y.png",
    ]
    assert group_names(cache, copies.near_N) == []


@pytest.mark.parametrize("side", [48, 40, 10])
def test_a_small_version_keeps_the_mean_whatever_the_side(side):
    image = np.random.default_rng(0).random((3, side, side)).astype(np.float32)
    assert small_versions(image, 16).mean(axis=(1, 2)) == pytest.approx(
        image.mean(axis=(1, 2)), rel=1e-5
    )
    assert small_versions(np.ones((1, side, side), np.float32), 8) == pytest.approx(1)


def test_a_dataset_of_one_image_has_no_copies(cache_from_images, blob):
    cache = cache_from_images({"train/a/x": blob(0), "train/b/y": blob(1)})
    copies = find_copies(cache)
    assert copies.near_N.tolist() == [0, 1] and not copies.mirrored_N.any()
