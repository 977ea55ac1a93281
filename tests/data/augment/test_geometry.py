"""Geometry against torchvision's own for fixed parameters, and what must be exact."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from fer_ignite.data.augment.geometry import (
    affine_matrices,
    crop_and_flip,
    resize,
    resize_center_crop,
    resized_hw,
    warp,
)
from fer_ignite.data.augment.pipeline import AugmentSpec, augment, sample_params
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.errors import ConfigError

# Dimensions: B images, C channels, H W pixels.

BILINEAR = InterpolationMode.BILINEAR
LEVEL = 1 / 255


def faces(count=4, size=48, channels=1):
    gray_BHWC = torch.from_numpy(draw_faces(count, seed=1, size=size)[0])
    return (
        gray_BHWC
        if channels == 1
        else torch.cat([gray_BHWC, gray_BHWC.flip(1), 255 - gray_BHWC], dim=3)
    )


def fixed(count, **values):
    """Draws that are all off, but for the values given."""
    drawn = sample_params(AugmentSpec(), np.random.default_rng(0), count=count)
    return drawn.__class__(
        **(vars(drawn) | {name: np.full(count, value) for name, value in values.items()})
    )


def planar(images_BHWC):
    return images_BHWC.permute(0, 3, 1, 2).float()


def warped(images_BHWC, drawn, padding="zeros"):
    hw = tuple(images_BHWC.shape[1:3])
    return (
        warp(
            images_BHWC,
            torch.from_numpy(affine_matrices(drawn, hw, out_hw=hw)),
            out_hw=hw,
            padding=padding,
        )
        / 255
    )


def largest_difference(ours_BCHW, theirs_BCHW, border=0):
    inner = (
        ...,
        slice(border, ours_BCHW.shape[-2] - border),
        slice(border, ours_BCHW.shape[-1] - border),
    )
    return (ours_BCHW[inner] - theirs_BCHW[inner]).abs().max().item()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("angle", "scale", "shift", "shear"),
    [
        (20.0, 1.0, (0, 0), 0.0),
        (0.0, 1.2, (0, 0), 0.0),
        (0.0, 0.8, (0, 0), 0.0),
        (0.0, 1.0, (6, -3), 0.0),
        (0.0, 1.0, (0, 0), 12.0),
        (-33.0, 0.9, (-5, 2), 8.0),
        (170.0, 1.3, (4, 9), -15.0),
    ],
)
def test_rotation_scale_shift_and_shear_are_torchvisions_affine(
    angle, scale, shift, shear, channels
):
    images_BHWC = faces(channels=channels)
    drawn = fixed(
        4,
        angle_deg=angle,
        scale=scale,
        shift_x=shift[0] / 48,
        shift_y=shift[1] / 48,
        shear_deg=shear,
    )
    theirs_BCHW = tv.affine(
        planar(images_BHWC) / 255,
        angle=angle,
        translate=shift,
        scale=scale,
        shear=[shear, 0.0],
        interpolation=BILINEAR,
    )
    assert largest_difference(warped(images_BHWC, drawn), theirs_BCHW) < LEVEL


@pytest.mark.parametrize("angle", [-90.0, -15.0, 7.5, 45.0])
def test_rotation_is_torchvisions_rotate_seen_from_the_other_side(angle):
    images_BHWC = faces()
    theirs_BCHW = tv.rotate(planar(images_BHWC) / 255, -angle, interpolation=BILINEAR)
    assert largest_difference(warped(images_BHWC, fixed(4, angle_deg=angle)), theirs_BCHW) < LEVEL


def test_a_rectangular_image_turns_about_its_centre():
    images_BHWC = faces()[:, 5:35].contiguous()
    theirs_BCHW = tv.affine(
        planar(images_BHWC) / 255,
        angle=25.0,
        translate=[6, 3],
        scale=1.1,
        shear=[5.0, 0.0],
        interpolation=BILINEAR,
    )
    drawn = fixed(4, angle_deg=25.0, scale=1.1, shear_deg=5.0, shift_x=6 / 48, shift_y=3 / 30)
    assert largest_difference(warped(images_BHWC, drawn), theirs_BCHW) < LEVEL


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_other_paddings_keep_the_inside_and_leave_no_black(padding):
    bright_BHWC = faces() // 2 + 128
    drawn = fixed(4, angle_deg=20.0)
    ours_BCHW = warped(bright_BHWC, drawn, padding)
    assert ours_BCHW.min() >= 128 / 255 - 1e-6
    assert largest_difference(ours_BCHW, warped(bright_BHWC, drawn), border=10) < LEVEL


@pytest.mark.parametrize("channels", [1, 3])
def test_flips_are_exact_and_torchvisions(channels):
    images_BHWC = faces(channels=channels)
    images_BCHW = images_BHWC.permute(0, 3, 1, 2)
    for name, theirs in (("hflip", tv.horizontal_flip), ("vflip", tv.vertical_flip)):
        flipped_BHWC = crop_and_flip(images_BHWC, fixed(4, **{name: True}), out_hw=(48, 48))
        assert flipped_BHWC.dtype == torch.uint8
        assert torch.equal(flipped_BHWC.permute(0, 3, 1, 2), theirs(images_BCHW))


def test_flip_before_rotation_as_torchvision_composes_them():
    images_BHWC = faces()
    theirs_BCHW = tv.affine(
        tv.horizontal_flip(planar(images_BHWC) / 255),
        angle=20.0,
        translate=[3, 1],
        scale=1.1,
        shear=[0.0, 0.0],
        interpolation=BILINEAR,
    )
    drawn = fixed(4, hflip=True, angle_deg=20.0, scale=1.1, shift_x=3 / 48, shift_y=1 / 48)
    assert largest_difference(warped(images_BHWC, drawn), theirs_BCHW) < LEVEL


def test_a_random_crop_is_an_exact_piece_of_the_image():
    images_BHWC = faces(count=64, size=56)
    spec = AugmentSpec(hflip=0.5)
    drawn = sample_params(spec, np.random.default_rng(4), count=64)
    ours_BCHW = augment(images_BHWC, drawn, spec=spec, out_px=48) * 255
    tops, lefts = np.floor(drawn.crop_y * 9).astype(int), np.floor(drawn.crop_x * 9).astype(int)
    assert set(tops) == set(lefts) == set(range(9))  # 56 - 48 + 1 places, each taken
    for b in range(64):
        theirs_CHW = tv.crop(planar(images_BHWC)[b], tops[b], lefts[b], 48, 48)
        theirs_CHW = tv.horizontal_flip(theirs_CHW) if drawn.hflip[b] else theirs_CHW
        assert torch.equal(ours_BCHW[b].round(), theirs_CHW)


def test_a_crop_inside_the_matrix_is_the_same_crop():
    images_BHWC = faces(size=56)
    drawn = fixed(4, crop_x=0.3, crop_y=0.9)  # floor(0.3 * 9) = 2, floor(0.9 * 9) = 8
    sampled_BCHW = warp(
        images_BHWC,
        torch.from_numpy(affine_matrices(drawn, (56, 56), out_hw=(48, 48))),
        out_hw=(48, 48),
    )
    assert largest_difference(sampled_BCHW, tv.crop(planar(images_BHWC), 8, 2, 48, 48)) < 1e-2


@pytest.mark.parametrize(("side", "out"), [(56, 48), (57, 48), (55, 48), (61, 48)])
def test_evaluation_takes_torchvisions_centre_crop_exactly(side, out):
    images_BHWC = faces(size=side)
    theirs_BCHW = tv.center_crop(images_BHWC.permute(0, 3, 1, 2), [out, out])
    assert torch.equal((resize_center_crop(images_BHWC, out) * 255).round().byte(), theirs_BCHW)


def test_evaluation_does_not_touch_images_of_the_right_size():
    images_BHWC = faces()
    assert torch.equal(resize_center_crop(images_BHWC, 48), images_BHWC.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "target"), [(96, 48), (70, 48), (48, 112), (48, 224)])
def test_resizing_is_torchvisions_antialiased_resize(side, target, channels):
    images_BHWC = faces(size=side, channels=channels)
    theirs_BCHW = tv.resize(planar(images_BHWC) / 255, [target, target], antialias=True)
    assert (
        largest_difference(resize_center_crop(images_BHWC, target, resize_px=target), theirs_BCHW)
        < LEVEL
    )
    assert torch.equal(
        resize(images_BHWC, (target, target)).permute(0, 3, 1, 2) / 255,
        resize_center_crop(images_BHWC, target, resize_px=target),
    )


@pytest.mark.parametrize("resize_px", [None, 112, 128])
def test_an_enlarged_image_in_one_matrix_is_the_resized_and_cropped_one_up_to_its_border(resize_px):
    images_BHWC = faces()
    spec = AugmentSpec(rotate_deg=1e-9, crop=False)
    ours_BCHW = augment(images_BHWC, fixed(4), spec=spec, out_px=112, resize_px=resize_px)
    assert (
        largest_difference(ours_BCHW, resize_center_crop(images_BHWC, 112, resize_px=resize_px))
        < LEVEL
    )


def test_a_shrunk_image_is_antialiased_before_it_is_turned():
    images_BHWC = faces(size=144)
    spec = AugmentSpec(rotate_deg=10)
    ours_BCHW = augment(images_BHWC, fixed(4, angle_deg=10.0), spec=spec, out_px=48, resize_px=48)
    small_BCHW = tv.resize(planar(images_BHWC) / 255, [48, 48], antialias=True)
    theirs_BCHW = tv.affine(
        small_BCHW,
        angle=10.0,
        translate=[0, 0],
        scale=1.0,
        shear=[0.0, 0.0],
        interpolation=BILINEAR,
    )
    assert largest_difference(ours_BCHW, theirs_BCHW) < LEVEL


@pytest.mark.parametrize(
    ("source", "out", "resize_px", "expected"),
    [
        ((48, 48), (48, 48), None, (48, 48)),
        ((64, 64), (48, 48), None, (64, 64)),
        ((48, 48), (224, 224), None, (224, 224)),
        ((30, 60), (48, 48), None, (48, 96)),
        ((100, 200), (48, 48), 50, (50, 100)),
        ((201, 100), (48, 48), 50, (100, 50)),
    ],
)
def test_the_size_before_the_crop(source, out, resize_px, expected):
    assert resized_hw(source, out, resize_px=resize_px) == expected


def test_a_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(ConfigError, match="40x40"):
        resized_hw((64, 64), (48, 48), resize_px=40)
