"""Brightness, contrast, random erasing and normalisation, in place on a batch."""

# Dimensions: B images, C channels, H W pixels, 4 = rectangle (top, bottom, left, right).

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fer_ignite.data.augment.params import AugmentParams
from fer_ignite.errors import ConfigError

__all__ = [
    "adjust_brightness_",
    "adjust_contrast_",
    "box_mask",
    "erase_",
    "normalise",
    "random_erasing_boxes",
]

Size = tuple[int, int]

# Luma of ITU-R BT.601, as in torchvision's rgb_to_grayscale.
LUMA = (0.2989, 0.587, 0.114)


def adjust_brightness_(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Scale the light of images in 0..1, each by its own factor, in place.

    Source: torchvision.transforms.v2.functional.adjust_brightness.
    """
    return images_BCHW.mul_(factor_B[:, None, None, None]).clamp_(0.0, 1.0)


def adjust_contrast_(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Stretch images in 0..1 about their mean luma, each by its own factor, in place.

    Source: torchvision.transforms.v2.functional.adjust_contrast on float images.
    """
    if images_BCHW.shape[1] == 3:
        red, green, blue = images_BCHW.unbind(1)
        luma_BHW = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    else:
        luma_BHW = images_BCHW.mean(1) if images_BCHW.shape[1] > 1 else images_BCHW[:, 0]
    # In two steps: a single sum over all pixels of a single large image is split over threads, and rounds differently.
    mean_B = luma_BHW.mean(2).mean(1)
    rest_B = (1.0 - factor_B) * mean_B
    return (
        images_BCHW.mul_(factor_B[:, None, None, None])
        .add_(rest_B[:, None, None, None])
        .clamp_(0.0, 1.0)
    )


def random_erasing_boxes(draws: AugmentParams, hw: Size) -> npt.NDArray[np.float32]:
    """The rectangle erased from each image, whole pixels, empty where nothing is erased; float32 [B, 4].

    Source: torchvision's RandomErasing.get_params, with a fitting cut instead of another try.
    """
    height, width = hw
    area_B = draws.erase_area * (height * width)
    tall_B = np.minimum(np.rint(np.sqrt(area_B * draws.erase_ratio)), height)
    wide_B = np.minimum(np.rint(np.sqrt(area_B / draws.erase_ratio)), width)
    tall_B, wide_B = tall_B * draws.erase, wide_B * draws.erase
    # + 1: the last place at which the rectangle fits counts too.
    top_B = np.floor(draws.erase_y * (height - tall_B + 1))
    left_B = np.floor(draws.erase_x * (width - wide_B + 1))
    return np.stack([top_B, top_B + tall_B, left_B, left_B + wide_B], axis=1).astype(np.float32)


def box_mask(boxes_B4: Tensor, hw: Size) -> Tensor:
    """Which pixels lie in each image's rectangle; bool [B, 1, H, W]."""
    down_H, across_W = _counts(hw, boxes_B4.device)
    top, bottom, left, right = (boxes_B4[:, side, None] for side in range(4))
    rows_BH = (down_H >= top) & (down_H < bottom)
    cols_BW = (across_W >= left) & (across_W < right)
    return (rows_BH[:, :, None] & cols_BW[:, None, :])[:, None]


def erase_(images_BCHW: Tensor, boxes_B4: Tensor, *, fill: float = 0.0) -> Tensor:
    """Set the rectangles to `fill`, in place.

    Args:
        boxes_B4: from `random_erasing_boxes`, on the images' device.
    """
    return images_BCHW.masked_fill_(
        box_mask(boxes_B4, (images_BCHW.shape[2], images_BCHW.shape[3])), fill
    )


def normalise(
    images_BCHW: Tensor, mean: Sequence[float], *, std: Sequence[float], channels: int
) -> Tensor:
    """Subtract the mean, divide by the deviation, and bring gray to as many channels as the model takes.

    Args:
        images_BCHW: float, in the range of `mean` and `std`.
        mean, std: one number, or one per channel.
        channels: of the model: the images' own number, or any for gray images.
    Returns:
        float32 [B, channels, H, W], channels_last where channels > 1; a new tensor.
    Raises:
        ConfigError: colour images for a model of another number of channels, or a std of 0.
    """
    batch, own, height, width = images_BCHW.shape
    if own not in (1, channels) or len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise ConfigError(
            f"Images of {own} channels with {len(mean)} means and {len(std)} deviations don't fit a model of "
            f"{channels} channels; pack the data with {channels}, or give one mean and one deviation per channel."
        )
    if not all(value > 0 for value in std):
        raise ConfigError(
            f"The deviation to normalise by is {tuple(std)}; it must be above 0: are all images one gray?"
        )
    if channels == 1:  # plain numbers keep the vectorised loop, which broadcast tensors don't
        return images_BCHW.mul(1.0 / std[0]).add_(-mean[0] / std[0])
    scale_C11, offset_C11 = _affine(
        tuple(mean), tuple(std), channels=channels, device=images_BCHW.device
    )
    # Written straight into place: expanding gray first and then asking for channels_last takes five times as long.
    normalised_BCHW = torch.empty(
        (batch, channels, height, width),
        device=images_BCHW.device,
        dtype=torch.float32,
        memory_format=torch.channels_last,
    )
    return torch.addcmul(offset_C11, images_BCHW, scale_C11, out=normalised_BCHW)


@lru_cache(maxsize=16)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], *, channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 / std and -mean / std as [C, 1, 1] on the device; kept there, as a copy per step would make the host wait."""
    mean_C11, std_C11 = (
        torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std)
    )
    scale_C11, offset_C11 = (
        (1.0 / std_C11).expand(channels, 1, 1),
        (-mean_C11 / std_C11).expand(channels, 1, 1),
    )
    return scale_C11.float().contiguous().to(device), offset_C11.float().contiguous().to(device)


@lru_cache(maxsize=16)
def _counts(hw: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """0, 1, 2 ... down and across, float32 on the device."""
    return torch.arange(float(hw[0]), device=device), torch.arange(float(hw[1]), device=device)
