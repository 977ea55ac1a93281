"""The whole augmentation: one answer for an image in any batch, however cut, and nothing done that was not requested."""

import numpy as np
import pytest
import torch

from fer_ignite.data.augment import pipeline as module
from fer_ignite.data.augment.pipeline import (
    AugmentSpec,
    augment,
    mix,
    mixup_partners,
    normalise,
    sample_params,
)
from fer_ignite.data.drawn_faces import draw_faces

# Dimensions: B images, C channels, H W pixels.

EVERYTHING = AugmentSpec(
    hflip=0.5,
    vflip=0.1,
    rotate_deg=15,
    scale=0.15,
    translate=0.15,
    shear_deg=5,
    brightness=0.3,
    contrast=0.3,
    reprob=0.5,
    mixup=0.4,
    cutmix=1.0,
)
NO_SAMPLING = AugmentSpec(hflip=0.5, brightness=0.3, contrast=0.3, reprob=0.5)


def batch(count, side, channels):
    gray_BHWC = torch.from_numpy(draw_faces(count, seed=2, size=side)[0])
    return (
        gray_BHWC
        if channels == 1
        else torch.cat([gray_BHWC, gray_BHWC.flip(1), 255 - gray_BHWC], dim=3)
    )


def finish(images_BHWC, drawn, spec, out_px, channels):
    images_BCHW = augment(images_BHWC, drawn, spec=spec, out_px=out_px)
    own = images_BHWC.shape[3]
    return normalise(images_BCHW, (0.5,) * own, std=(0.25,) * own, channels=channels)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", [EVERYTHING, NO_SAMPLING], ids=["sampled", "moved"])
@pytest.mark.parametrize(
    ("side", "out_px", "channels", "model_channels"),
    [(48, 48, 1, 1), (48, 48, 1, 3), (53, 47, 3, 3), (48, 224, 1, 3), (90, 90, 3, 3)],
)
def test_an_image_comes_out_the_same_in_any_slice_of_its_batch(
    spec, side, out_px, channels, model_channels, threads
):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        count = 13
        images_BHWC, drawn = (
            batch(count, side, channels),
            sample_params(spec, np.random.default_rng(0), count=count),
        )
        whole_BCHW = finish(images_BHWC, drawn, spec, out_px, model_channels)
        for start, stop in ((0, 1), (1, 3), (3, 10), (10, 13), (12, 13)):
            part = slice(start, stop)
            slice_BCHW = finish(images_BHWC[part], drawn.take(part), spec, out_px, model_channels)
            assert torch.equal(whole_BCHW[part], slice_BCHW)
    finally:
        torch.set_num_threads(before)


def test_mixing_gives_the_same_in_any_slice():
    count = 12
    images_BHWC, drawn = (
        batch(count, 48, 1),
        sample_params(EVERYTHING, np.random.default_rng(1), count=count),
    )
    images_BCHW = augment(images_BHWC, drawn, spec=EVERYTHING, out_px=48)
    targets_BK = torch.eye(7)[torch.arange(count) % 7]
    partner_B = torch.from_numpy(mixup_partners(drawn))
    whole_BCHW, whole_BK = mix(
        images_BCHW,
        images_BCHW[partner_B],
        targets_BK=targets_BK,
        partner_targets_BK=targets_BK[partner_B],
        draws=drawn,
    )
    mine, others = torch.arange(5, 8), partner_B[5:8]
    again_BCHW = augment(
        images_BHWC[others], drawn.take(others.numpy()), spec=EVERYTHING, out_px=48
    )
    part_BCHW, part_BK = mix(
        images_BCHW[mine],
        again_BCHW,
        targets_BK=targets_BK[mine],
        partner_targets_BK=targets_BK[others],
        draws=drawn.take(slice(5, 8)),
    )
    assert torch.equal(whole_BCHW[5:8], part_BCHW) and torch.equal(whole_BK[5:8], part_BK)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_settings_change_nothing(channels):
    images_BHWC = batch(5, 48, channels)
    drawn = sample_params(AugmentSpec(), np.random.default_rng(0), count=5)
    assert torch.equal(
        augment(images_BHWC, drawn, spec=AugmentSpec(), out_px=48),
        images_BHWC.permute(0, 3, 1, 2) / 255,
    )


@pytest.mark.parametrize("spec", [EVERYTHING, NO_SAMPLING, AugmentSpec()])
def test_the_raw_batch_is_left_alone_and_the_result_lies_in_range(spec):
    images_BHWC = batch(20, 48, 1)
    kept_BHWC = images_BHWC.clone()
    ours_BCHW = augment(
        images_BHWC, sample_params(spec, np.random.default_rng(0), count=20), spec=spec, out_px=48
    )
    assert torch.equal(images_BHWC, kept_BHWC)
    assert ours_BCHW.dtype == torch.float32 and ours_BCHW.min() >= 0 and ours_BCHW.max() <= 1


def test_an_empty_slice_gives_an_empty_batch():
    drawn = sample_params(EVERYTHING, np.random.default_rng(0), count=0)
    assert augment(
        torch.empty(0, 48, 48, 3, dtype=torch.uint8), drawn, spec=EVERYTHING, out_px=40
    ).shape == (0, 3, 40, 40)


def test_the_same_call_gives_the_same_bits():
    images_BHWC = batch(32, 48, 1)
    first, second = (
        augment(
            images_BHWC,
            sample_params(EVERYTHING, np.random.default_rng(9), count=32),
            spec=EVERYTHING,
            out_px=48,
        )
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_public_names_are_sorted():
    assert module.__all__ == sorted(module.__all__)
