"""Mix-up and cut-mix of images and targets."""

# Dimensions: B images, C channels, H W pixels, K classes, 4 = rectangle (top, bottom, left, right).

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fer_ignite.data.augment.color import box_mask
from fer_ignite.data.augment.geometry import to_device
from fer_ignite.data.augment.params import AugmentParams

__all__ = ["cut_boxes", "mix", "shares"]

Size = tuple[int, int]


def cut_boxes(draws: AugmentParams, hw: Size) -> npt.NDArray[np.float32]:
    """The rectangle that cut-mix takes from the partner, cut at the image's border; whole pixels, float32 [B, 4].

    Source: Yun et al., CutMix (2019): sides in proportion to the square root of the share, centre uniform.
    """
    sides = []
    for side, centre in zip(hw, (draws.cut_y, draws.cut_x), strict=True):
        half_B = 0.5 * side * np.sqrt(draws.share * draws.cut)
        middle_B = np.floor(centre * side)
        sides += [
            np.clip(np.rint(middle_B - half_B), 0, side),
            np.clip(np.rint(middle_B + half_B), 0, side),
        ]
    return np.stack(sides, axis=1).astype(np.float32)


def shares(draws: AugmentParams, hw: Size) -> npt.NDArray[np.float32]:
    """The partner's part in each target, float32 [B]: what was drawn, and for cut-mix the rectangle's area."""
    boxes_B4 = cut_boxes(draws, hw)
    area_B = (boxes_B4[:, 1] - boxes_B4[:, 0]) * (boxes_B4[:, 3] - boxes_B4[:, 2]) / (hw[0] * hw[1])
    return np.where(draws.cut, area_B, draws.share).astype(np.float32)


def mix(
    images_BCHW: Tensor,
    partner_images_BCHW: Tensor,
    *,
    targets_BK: Tensor,
    partner_targets_BK: Tensor,
    draws: AugmentParams,
) -> tuple[Tensor, Tensor]:
    """Mix each image and target with its partner's.

    Args:
        images_BCHW, partner_images_BCHW: float, augmented, of one shape.
        targets_BK, partner_targets_BK: float distributions over the classes.
        draws: of these B images; the partners are those at `mixup_partners(draws)`.
    Returns:
        Mixed images and mixed targets, new tensors.
    """
    device, hw = images_BCHW.device, (images_BCHW.shape[2], images_BCHW.shape[3])
    # Two numbers for each image: the target's share is the rectangle's true area, which the border
    # may have cut; the blend is 0 for cut-mix, whose pixels come from one image each.
    share_B, blend_B = shares(draws, hw), np.where(draws.cut, 0.0, draws.share).astype(np.float32)
    numbers_BP = to_device(
        np.concatenate([share_B[:, None], blend_B[:, None], cut_boxes(draws, hw)], axis=1), device
    )
    weight_B1HW = numbers_BP[:, 1, None, None, None]
    if draws.cut.any():
        weight_B1HW = torch.where(box_mask(numbers_BP[:, 2:], hw), 1.0, weight_B1HW)
    # lerp gives the partner itself at weight 1
    mixed_BCHW = torch.lerp(images_BCHW, partner_images_BCHW, weight_B1HW)
    return mixed_BCHW, torch.lerp(targets_BK, partner_targets_BK, numbers_BP[:, :1])
