"""Augmentation of a batch: geometry in one resampling call, then light, blur, noise and erasing."""

# Dimensions: B images, C channels, H W pixels, P numbers per image that travel to the device together.

import numpy as np
import torch
from torch import Tensor

from fer_ignite.data.augment.blur_noise import BLUR_SIDE_PX, add_noise_, gaussian_blur
from fer_ignite.data.augment.color import (
    adjust_brightness_,
    adjust_contrast_,
    erase_,
    normalise,
    random_erasing_boxes,
)
from fer_ignite.data.augment.geometry import (
    affine_matrices,
    crop_and_flip,
    resize,
    resize_center_crop,
    resized_hw,
    to_device,
    warp,
)
from fer_ignite.data.augment.mixup import mix
from fer_ignite.data.augment.params import AugmentParams, AugmentSpec, mixup_partners, sample_params
from fer_ignite.data.augment.tta import views

__all__ = [
    "AugmentParams",
    "AugmentSpec",
    "affine_matrices",
    "augment",
    "mix",
    "mixup_partners",
    "normalise",
    "resize_center_crop",
    "sample_params",
    "views",
    "warp",
]

Size = tuple[int, int]


def augment(
    images_BHWC: Tensor,
    draws: AugmentParams,
    *,
    spec: AugmentSpec,
    out_px: int,
    resize_px: int | None = None,
    fill: float = 0.0,
) -> Tensor:
    """Apply what was drawn; everything but mixing.

    An image's result doesn't depend on the batch that it is processed in.

    Args:
        images_BHWC: uint8.
        draws: of these B images, made from `spec`.
        out_px: side of the result.
        resize_px: shorter side before the crop; None: see `resized_hw`.
        fill: gray of erased rectangles, 0..1.
    Returns:
        float32 [B, C, H, W] in 0..1; a tensor of its own.
    """
    in_hw, out_hw = (images_BHWC.shape[1], images_BHWC.shape[2]), (out_px, out_px)
    if not len(images_BHWC):
        return torch.empty((0, images_BHWC.shape[3], *out_hw), device=images_BHWC.device)
    resized = resized_hw(in_hw, out_hw, resize_px=resize_px)
    # shrinking needs antialiasing, which sampling has not
    if spec.resamples and resized[0] < in_hw[0]:
        images_BHWC, in_hw = resize(images_BHWC, resized), resized
    numbers_BP = _numbers(
        draws, spec, in_hw=in_hw, out_hw=out_hw, resized=resized, device=images_BHWC.device
    )
    if spec.resamples:
        # Sampling outside the outermost pixels mixes in zeros; an enlarged image would have a
        # dark rim.
        fades = spec.padding == "zeros" and resized[0] > in_hw[0]
        matrices_B23 = numbers_BP[:, :6].view(-1, 2, 3)
        images_BCHW = warp(
            images_BHWC, matrices_B23, out_hw=out_hw, padding=spec.padding, margin_px=int(fades)
        )
    else:
        images_BCHW = (
            _moved(images_BHWC, draws, spec=spec, resized=resized, out_hw=out_hw)
            .permute(0, 3, 1, 2)
            .float()
        )
    # In place is safe: .float() copies uint8, and every other way to this line has made a tensor.
    return _light(images_BCHW.div_(255.0), numbers_BP, spec=spec, fill=fill)


def _moved(
    images_BHWC: Tensor, draws: AugmentParams, *, spec: AugmentSpec, resized: Size, out_hw: Size
) -> Tensor:
    """Resized, cropped and flipped; where nothing is cropped the flip comes first, as it then moves fewer pixels."""
    if resized == out_hw:
        return resize(
            crop_and_flip(images_BHWC, draws, out_hw=(images_BHWC.shape[1], images_BHWC.shape[2])),
            out_hw,
        )
    return crop_and_flip(resize(images_BHWC, resized), draws, out_hw=out_hw, random_crop=spec.crop)


def _numbers(
    draws: AugmentParams,
    spec: AugmentSpec,
    *,
    in_hw: Size,
    out_hw: Size,
    resized: Size,
    device: torch.device,
) -> Tensor:
    """Matrix, rectangle, light, blur and noise of each image, float32 [B, 16], in one copy to the device."""
    # Columns: 0-5 matrix, 6-9 rectangle, 10 brightness, 11 contrast, 12 blur, 13 noise, 14-15 its
    # place. Those of what is switched off stay unset and are never read.
    numbers_BP = np.empty((len(draws), 16), np.float32)
    if spec.resamples:
        numbers_BP[:, :6] = affine_matrices(
            draws, in_hw, out_hw=out_hw, resize_px=min(resized), random_crop=spec.crop
        ).reshape(-1, 6)
    if spec.reprob:
        numbers_BP[:, 6:10] = random_erasing_boxes(draws, out_hw)
    numbers_BP[:, 10], numbers_BP[:, 11] = draws.brightness, draws.contrast
    columns = (draws.blur * out_hw[0] / BLUR_SIDE_PX, draws.noise, draws.noise_y, draws.noise_x)
    for place, values_B in enumerate(columns, 12):
        numbers_BP[:, place] = values_B
    return to_device(numbers_BP, device)


def _light(images_BCHW: Tensor, numbers_BP: Tensor, *, spec: AugmentSpec, fill: float) -> Tensor:
    # In this order the blur does not smooth the noise, and neither reaches an erased rectangle.
    if spec.brightness:
        adjust_brightness_(images_BCHW, numbers_BP[:, 10])
    if spec.contrast:
        adjust_contrast_(images_BCHW, numbers_BP[:, 11])
    if spec.blur:
        most_px = spec.blur * images_BCHW.shape[-2] / BLUR_SIDE_PX
        images_BCHW = gaussian_blur(images_BCHW, numbers_BP[:, 12], most_px=most_px)
    if spec.noise:
        add_noise_(images_BCHW, numbers_BP[:, 13], places_B2=numbers_BP[:, 14:16])
    if spec.reprob:
        erase_(images_BCHW, numbers_BP[:, 6:10], fill=fill)
    return images_BCHW
