"""Light and gaps against torchvision's own for fixed parameters."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from fer_ignite.data.augment.color import (
    adjust_brightness_,
    adjust_contrast_,
    box_mask,
    erase_,
    normalise,
    random_erasing_boxes,
)
from fer_ignite.data.augment.params import AugmentSpec, sample_params
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.errors import ConfigError

# Dimensions: B images, C channels, H W pixels, 4 = rectangle (top, bottom, left, right).


def faces(channels=1):
    gray_BCHW = torch.from_numpy(draw_faces(5, seed=1)[0]).permute(0, 3, 1, 2) / 255
    return (
        gray_BCHW
        if channels == 1
        else torch.cat([gray_BCHW, gray_BCHW.flip(2), 1 - gray_BCHW], dim=1)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(adjust_brightness_, tv.adjust_brightness), (adjust_contrast_, tv.adjust_contrast)],
)
def test_light_is_torchvisions_with_a_factor_per_image(ours, theirs, channels):
    images_BCHW, factor_B = faces(channels), torch.tensor([0.0, 0.4, 1.0, 1.3, 2.5])
    ours_BCHW = ours(images_BCHW.clone(), factor_B)
    for b in range(5):
        assert (ours_BCHW[b] - theirs(images_BCHW[b], factor_B[b].item())).abs().max() < 1 / 255


def test_an_erased_rectangle_is_torchvisions_erase():
    images_BCHW = faces()
    boxes_B4 = torch.tensor(
        [[0, 10, 0, 48], [5, 20, 30, 48], [0, 0, 0, 0], [47, 48, 47, 48], [0, 48, 0, 48]]
    ).float()
    ours_BCHW = erase_(images_BCHW.clone(), boxes_B4, fill=0.3)
    for b, (top, bottom, left, right) in enumerate(boxes_B4.int().tolist()):
        theirs_CHW = tv.erase(
            images_BCHW[b], top, left, bottom - top, right - left, torch.tensor(0.3)
        )
        assert torch.equal(ours_BCHW[b], theirs_CHW)


def test_erased_rectangles_have_the_drawn_area_and_lie_in_the_image():
    drawn = sample_params(AugmentSpec(reprob=0.5), np.random.default_rng(0), count=3000)
    boxes_B4 = random_erasing_boxes(drawn, (48, 48))
    tall_B, wide_B = boxes_B4[:, 1] - boxes_B4[:, 0], boxes_B4[:, 3] - boxes_B4[:, 2]
    assert boxes_B4.min() >= 0 and boxes_B4.max() <= 48
    assert ((tall_B * wide_B > 0) == drawn.erase).all()
    fits_B = drawn.erase & (tall_B < 48) & (wide_B < 48)
    share_B = tall_B * wide_B / 48**2
    # both sides are rounded, each by half a pixel at most
    allowed_B = (0.5 * (tall_B + wide_B) + 0.25) / 48**2
    assert (np.abs(share_B - drawn.erase_area)[fits_B] <= allowed_B[fits_B]).all()
    assert fits_B.sum() > 0.97 * drawn.erase.sum()


def test_inside_counts_the_rectangles_pixels():
    mask_B1HW = box_mask(torch.tensor([[1.0, 3.0, 2.0, 5.0], [0.0, 0.0, 0.0, 4.0]]), (4, 6))
    assert mask_B1HW.shape == (2, 1, 4, 6) and mask_B1HW.sum(dim=(1, 2, 3)).tolist() == [2 * 3, 0]
    assert mask_B1HW[0, 0, 1:3, 2:5].all()


@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(1, (0.4,), (0.2,)), (3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))]
)
def test_normalisation_is_torchvisions(channels, mean, std):
    images_BCHW = faces(channels)
    ours_BCHW = normalise(images_BCHW, mean, std=std, channels=channels)
    assert (ours_BCHW - tv.normalize(images_BCHW, list(mean), list(std))).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.25,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_gray_becomes_colour_for_a_model_of_three_channels(mean, std):
    images_BCHW = faces()
    ours_BCHW = normalise(images_BCHW, mean, std=std, channels=3)
    expected_BCHW = tv.normalize(
        images_BCHW.repeat(1, 3, 1, 1), list(mean) * (3 // len(mean)), list(std) * (3 // len(std))
    )
    assert (ours_BCHW - expected_BCHW).abs().max() < 1e-5
    assert ours_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_leaves_its_input_alone():
    images_BCHW = faces()
    kept_BCHW = images_BCHW.clone()
    normalise(images_BCHW, (0.5,), std=(0.5,), channels=1)
    assert torch.equal(images_BCHW, kept_BCHW)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="3 channels"):
        normalise(faces(3), (0.5,), std=(0.5,), channels=1)
    with pytest.raises(ConfigError, match="above 0"):
        normalise(faces(), (0.5,), std=(0.0,), channels=1)
