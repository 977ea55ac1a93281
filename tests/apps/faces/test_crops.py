"""Cutting faces out."""

import numpy as np

from fer_ignite.apps.faces.crops import cut_face
from fer_ignite.apps.faces.detection import Box


def ramp():
    """Each pixel says where it is: rows in red, columns in green."""
    rows_HW, columns_HW = np.mgrid[0:60, 0:80]
    return np.stack([rows_HW, columns_HW, np.zeros_like(rows_HW)], axis=2).astype(np.uint8)


def test_the_square_has_the_longer_side_and_the_box_s_middle():
    crop_SS3 = cut_face(ramp(), Box(30, 10, 10, 20), margin=0)
    assert crop_SS3.shape == (20, 20, 3)
    assert (crop_SS3[0, 0, 0], crop_SS3[-1, -1, 0]) == (10, 29)
    assert (crop_SS3[0, 0, 1], crop_SS3[-1, -1, 1]) == (25, 44)


def test_a_margin_is_added_on_each_side():
    assert cut_face(ramp(), Box(30, 20, 20, 20), margin=0.25).shape[0] == 30
    assert cut_face(ramp(), Box(30, 20, 20, 20), margin=-0.25).shape[0] == 10


def test_over_the_border_the_border_s_pixels_go_on():
    crop_SS3 = cut_face(ramp(), Box(-10, -10, 20, 20), margin=0)
    assert (crop_SS3[:11, 0, 0] == 0).all() and crop_SS3[-1, 0, 0] == 9


def test_boxes_far_outside_tiny_or_huge_give_a_square_too():
    for box, side in (
        (Box(1e9, -1e9, 5, 5), 5),
        (Box(0, 0, 1e12, 3), 160),
        (Box(5, 5, 0.01, 0.01), 1),
    ):
        assert cut_face(ramp(), box, margin=0).shape == (side, side, 3)
