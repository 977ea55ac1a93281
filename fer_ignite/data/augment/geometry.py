"""Geometry of a batch: one affine matrix per image and one resampling call.

Matrices take an offset from the output's centre to an offset from the source's centre, both in pixels (x right, y
down), so they know nothing about padding or about a library's own coordinates.
"""

# Dimensions: B images, C channels, H W pixels of the output, 23 = a 2x3 matrix [A | t] per image.

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fer_ignite.data.augment.params import AugmentParams
from fer_ignite.errors import ConfigError

__all__ = [
    "affine_matrices",
    "crop_and_flip",
    "resize",
    "resize_center_crop",
    "resized_hw",
    "to_device",
    "warp",
]

Size = tuple[int, int]
Floats = npt.NDArray[np.float64]


def resized_hw(in_hw: Size, out_hw: Size, *, resize_px: int | None = None) -> Size:
    """Size to which an image is resized before the crop.

    Args:
        in_hw, out_hw: height and width of the source and of the crop.
        resize_px: the shorter side, the other keeps the proportions; None: the source's own size where the crop fits
            into it, else the smallest size that holds the crop.
    Raises:
        ConfigError: the crop doesn't fit.
    """
    (height, width), (out_height, out_width) = in_hw, out_hw
    if resize_px is None:
        factor = max(1.0, out_height / height, out_width / width)
        return max(out_height, round(height * factor)), max(out_width, round(width * factor))
    # Truncated below, as torchvision's resize does.
    short, long = min(in_hw), max(in_hw)
    scaled = int(resize_px * long / short)
    resized = (resize_px, scaled) if height <= width else (scaled, resize_px)
    if resized[0] < out_height or resized[1] < out_width:
        raise ConfigError(
            f"Images resized to {resized[0]}x{resized[1]} px are smaller than the crop of {out_height}x{out_width} px; "
            f"resize to {max(out_hw)} px or more, or crop less."
        )
    return resized


def affine_matrices(
    draws: AugmentParams,
    in_hw: Size,
    *,
    out_hw: Size,
    resize_px: int | None = None,
    random_crop: bool = True,
) -> npt.NDArray[np.float32]:
    """The geometry of a batch: resize, crop, flips, then rotation, scale, shift and shear about the centre.

    Returns:
        float32 [B, 2, 3], from offsets in the output to offsets in the source.
    Source: the affine part inverts torchvision's forward order, shift * rotation * shear * scale, derived here.
    """
    resized = resized_hw(in_hw, out_hw, resize_px=resize_px)
    turn_B, lean_B = np.radians(draws.angle_deg), _each(math.tan, np.radians(draws.shear_deg))
    cos_B, sin_B = _each(math.cos, turn_B), _each(math.sin, turn_B)
    mirror_x_B, mirror_y_B = (
        np.where(flip, -1.0, 1.0) / draws.scale for flip in (draws.hflip, draws.vflip)
    )
    inverse_22B = (  # of rotation * shear, the shear being [[1, -tan], [0, 1]]
        (mirror_x_B * (cos_B - lean_B * sin_B), mirror_x_B * (sin_B + lean_B * cos_B)),
        (mirror_y_B * -sin_B, mirror_y_B * cos_B),
    )
    corners_2B = _corners(draws, resized, out_hw=out_hw, random_crop=random_crop)
    # float32 is only stored: the matrices are computed in float64.
    whole_B23 = np.empty((len(draws), 2, 3), np.float32)
    for row, side in enumerate((1, 0)):  # x comes from the width
        (x_B, y_B), ratio = inverse_22B[row], in_hw[side] / resized[side]
        shift_B = x_B * draws.shift_x * out_hw[1] + y_B * draws.shift_y * out_hw[0]
        corner_B = corners_2B[side] + 0.5 * (out_hw[side] - resized[side])
        whole_B23[:, row] = np.stack([x_B, y_B, corner_B - shift_B], axis=1) * ratio
    return whole_B23


def warp(
    images_BHWC: Tensor,
    matrices_B23: Tensor,
    *,
    out_hw: Size,
    padding: str = "zeros",
    margin_px: int = 0,
) -> Tensor:
    """Sample every image through its matrix, bilinearly, in one call.

    Args:
        images_BHWC: uint8, or float of any range.
        matrices_B23: float32 on the images' device, from `affine_matrices`.
        padding: 'zeros', 'border' or 'reflection'.
        margin_px: pixels repeated around the source first, so that an enlarged image doesn't fade towards its border.
    Returns:
        float32 [B, C, H, W] in the input's range; the same for an image in any batch.
    """
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
    if margin_px:
        images_BCHW = F.pad(images_BCHW, [margin_px] * 4, mode="replicate")
    height, width = images_BCHW.shape[-2:]
    x_W, y_H = _axes(out_hw, images_BHWC.device)
    # One plane per coordinate: on CPU 6 times faster than one broadcast into [B, H, W, 2], 17 times than affine_grid.
    grid_B2HW = torch.empty(len(images_BHWC), 2, *out_hw, device=images_BHWC.device)
    for axis, side in enumerate((width, height)):
        row_B3 = matrices_B23[:, axis] * (2.0 / side)
        along_BW = row_B3[:, :1] * x_W
        down_BH = row_B3[:, 1:2] * y_H + row_B3[:, 2:]
        torch.add(along_BW[:, None, :], down_BH[:, :, None], out=grid_B2HW[:, axis])
    grid_BHW2 = grid_B2HW.permute(0, 2, 3, 1)
    return F.grid_sample(
        images_BCHW, grid_BHW2, mode="bilinear", padding_mode=padding, align_corners=False
    )


def crop_and_flip(
    images_BHWC: Tensor, draws: AugmentParams, *, out_hw: Size, random_crop: bool = True
) -> Tensor:
    """Crop and flip by moving pixels: exact, no resampling. The crop fits into the images.

    Returns:
        [B, H, W, C] of the input's type.
    """
    batch, height, width, channels = images_BHWC.shape
    if (height, width) == tuple(out_hw) and not (draws.hflip.any() or draws.vflip.any()):
        return images_BHWC
    tops_B, lefts_B = _corners(draws, (height, width), out_hw=out_hw, random_crop=random_crop)
    rows_BH = _walk(tops_B, draws.vflip, steps=out_hw[0]) + height * np.arange(batch)[:, None]
    cols_BW = _walk(lefts_B, draws.hflip, steps=out_hw[1])
    # int32 halves the copy to the device; places in a batch stay far below 2**31.
    places = to_device(
        np.concatenate([width * rows_BH, cols_BW], axis=1).astype(np.int32), images_BHWC.device
    )
    places_P = (places[:, : out_hw[0], None] + places[:, None, out_hw[0] :]).view(-1)
    # index_select over single values is twice as fast as over rows of one value
    pixels = images_BHWC.reshape(-1) if channels == 1 else images_BHWC.reshape(-1, channels)
    return pixels.index_select(0, places_P).view(batch, *out_hw, channels)


def resize(images_BHWC: Tensor, hw: Size) -> Tensor:
    """Resize bilinearly, antialiased where it shrinks; nothing is done where the size is right.

    Returns:
        float32 [B, H, W, C] in the input's range, or the input itself.
    """
    if tuple(images_BHWC.shape[1:3]) == tuple(hw):
        return images_BHWC
    # Floating point first: interpolation of uint8 would round to whole levels.
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
    return F.interpolate(images_BCHW, size=hw, mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def resize_center_crop(images_BHWC: Tensor, out_px: int, *, resize_px: int | None = None) -> Tensor:
    """What evaluation sees: resize if needed, then the centre crop.

    Args:
        images_BHWC: uint8.
        out_px: side of the result.
        resize_px: shorter side before the crop; None: see `resized_hw`.
    Returns:
        float32 [B, C, out_px, out_px] in 0..1.
    """
    resized = resized_hw(
        (images_BHWC.shape[1], images_BHWC.shape[2]), (out_px, out_px), resize_px=resize_px
    )
    images_BHWC = resize(images_BHWC, resized)
    top, left = (_centre(side - out_px) for side in resized)
    crop_BHWC = images_BHWC[:, top : top + out_px, left : left + out_px]
    return crop_BHWC.permute(0, 3, 1, 2).float() / 255.0


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy a small array to the device without making the host wait for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _corners(
    draws: AugmentParams, resized: Size, *, out_hw: Size, random_crop: bool
) -> tuple[Floats, Floats]:
    """The crop's top and left edges, whole pixels."""
    room = resized[0] - out_hw[0], resized[1] - out_hw[1]
    if random_crop:
        # + 1: the last place at which the crop fits counts too.
        return np.floor(draws.crop_y * (room[0] + 1)), np.floor(draws.crop_x * (room[1] + 1))
    return np.full(len(draws), float(_centre(room[0]))), np.full(
        len(draws), float(_centre(room[1]))
    )


def _centre(room: int) -> int:
    return round(room / 2)  # halves go to the even pixel, as in torchvision's center_crop


def _walk(
    start_B: Floats, backwards_B: npt.NDArray[np.bool_], *, steps: int
) -> npt.NDArray[np.int64]:
    """Pixel numbers from each start on, reversed where an image is flipped; [B, steps]."""
    forth = np.arange(steps)
    return start_B.astype(np.int64)[:, None] + np.where(backwards_B[:, None], forth[::-1], forth)


def _each(function: Callable[[float], float], values_B: Floats) -> Floats:
    """One at a time: numpy's vectorised sine may differ in the last bit between a batch and a slice of it."""
    return np.array([function(value) for value in values_B.tolist()])


@lru_cache(maxsize=16)
def _axes(hw: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres relative to the image's centre: x [W] and y [H]."""
    y_H, x_W = (torch.arange(side, device=device) + (0.5 - 0.5 * side) for side in hw)
    return x_W, y_H
