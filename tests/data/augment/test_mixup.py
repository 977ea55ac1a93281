"""Mix-up and cut-mix: pixels and targets are mixed in the same proportion."""

import numpy as np
import pytest
import torch

from fer_ignite.data.augment.mixup import cut_boxes, mix, shares
from fer_ignite.data.augment.params import AugmentSpec, sample_params

# Dimensions: B images, C channels, H W pixels, K classes.


def mixed(spec, count=200, channels=1):
    drawn = sample_params(spec, np.random.default_rng(0), count=count)
    zeros_BCHW, ones_BCHW = (
        torch.zeros(count, channels, 20, 20),
        torch.ones(count, channels, 20, 20),
    )
    targets_BK, partner_targets_BK = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    images_BCHW, mixed_BK = mix(
        zeros_BCHW,
        ones_BCHW,
        targets_BK=targets_BK.repeat(count, 1),
        partner_targets_BK=partner_targets_BK.repeat(count, 1),
        draws=drawn,
    )
    return drawn, images_BCHW, mixed_BK


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "spec", [AugmentSpec(mixup=0.4), AugmentSpec(cutmix=1.0), AugmentSpec(mixup=0.4, cutmix=1.0)]
)
def test_the_targets_share_is_the_images_share(spec, channels):
    _, images_BCHW, targets_BK = mixed(spec, channels=channels)
    # the partner is all ones, the image all zeros: the mean is the partner's share
    assert torch.allclose(images_BCHW.mean(dim=(1, 2, 3)), targets_BK[:, 1], atol=1e-5)
    assert torch.allclose(targets_BK.sum(1), torch.ones(len(targets_BK)), atol=1e-6)


def test_mixup_blends_evenly_and_cutmix_only_replaces():
    drawn, images_BCHW, _ = mixed(AugmentSpec(mixup=0.4, cutmix=1.0))
    cut_B = torch.from_numpy(drawn.cut)
    assert ((images_BCHW[cut_B] == 0) | (images_BCHW[cut_B] == 1)).all()
    flat_BP = images_BCHW[~cut_B].flatten(1)
    assert torch.equal(flat_BP.min(1).values, flat_BP.max(1).values)
    assert torch.allclose(flat_BP[:, 0], torch.from_numpy(drawn.share[~drawn.cut]).float())


def test_a_cut_rectangle_away_from_the_border_has_the_drawn_share():
    drawn = sample_params(AugmentSpec(cutmix=1.0), np.random.default_rng(0), count=2000)
    boxes_B4 = cut_boxes(drawn, (100, 100))
    free_B = (boxes_B4[:, ::2] > 0).all(1) & (boxes_B4[:, 1::2] < 100).all(1)
    side_B = 100 * np.sqrt(drawn.share)
    # each side is rounded by a pixel at most
    assert (
        np.abs(shares(drawn, (100, 100)) - drawn.share)[free_B] <= (2 * side_B + 1)[free_B] / 100**2
    ).all()
    assert free_B.sum() > 100


def test_without_mixing_everything_stays_bit_for_bit():
    count = 6
    drawn = sample_params(AugmentSpec(), np.random.default_rng(0), count=count)
    images_BCHW, targets_BK = torch.rand(count, 1, 20, 20), torch.rand(count, 7)
    mixed_BCHW, mixed_BK = mix(
        images_BCHW,
        images_BCHW.flip(0),
        targets_BK=targets_BK,
        partner_targets_BK=targets_BK.flip(0),
        draws=drawn,
    )
    assert torch.equal(mixed_BCHW, images_BCHW) and torch.equal(mixed_BK, targets_BK)
