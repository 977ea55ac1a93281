"""Gaussian blur and noise with a strength of each image's own."""

# Dimensions: B images, C channels, H W pixels, T taps of the kernel.

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLUR_SIDE_PX", "add_noise_", "gaussian_blur"]

BLUR_SIDE_PX = 48  # a blur is given in px of an image of this side
_CANVAS_PX = 256  # places at which an image's noise can begin, along each side
_SHARPEST_PX = 1e-3  # a kernel of this width has one tap that counts


def gaussian_blur(images_BCHW: Tensor, sigma_B: Tensor, *, most_px: float) -> Tensor:
    """Blurred images; what lies outside repeats the border.

    Sums of shifted images, not a convolution: an image's result must not depend on the batch that it is in.

    Args:
        sigma_B: standard deviations in px; 0 leaves an image as it is.
        most_px: the largest one that can occur, which sets the kernel's size.
    """
    # Sized by the setting, not by the batch's largest sigma: that would have to be read from the
    # device, and would make an image's result depend on its batch.
    reach = max(1, math.ceil(3 * most_px))
    offsets_T = torch.arange(-reach, reach + 1, device=images_BCHW.device)
    weights_BT = torch.exp(-0.5 * (offsets_T / sigma_B.clamp_min(_SHARPEST_PX)[:, None]) ** 2)
    weights_BT /= weights_BT.sum(dim=1, keepdim=True)
    for dim in (2, 3):
        size = images_BCHW.shape[dim]
        sides = [0, 0, reach, reach] if dim == 2 else [reach, reach, 0, 0]
        wide = F.pad(images_BCHW, sides, mode="replicate")
        images_BCHW = torch.zeros_like(images_BCHW)
        for tap in range(len(offsets_T)):
            part = wide.narrow(dim, tap, size)
            images_BCHW.addcmul_(part, weights_BT[:, tap].view(-1, 1, 1, 1))
    return images_BCHW


def add_noise_(images_BCHW: Tensor, sigma_B: Tensor, *, places_B2: Tensor) -> Tensor:
    """Adds noise in place, and keeps values within 0 and 1.

    Args:
        images_BCHW: values in 0..1.
        sigma_B: standard deviations, of the same range.
        places_B2: (down, right) in [0, 1): where an image's noise is cut out of one fixed canvas.
    """
    _, channels, height, width = images_BCHW.shape
    canvas = _canvas(channels, height, width, images_BCHW.device)
    top_B, left_B = (places_B2 * _CANVAS_PX).long().clamp_max(_CANVAS_PX - 1).unbind(dim=1)
    rows = top_B.view(-1, 1, 1, 1) + torch.arange(height, device=top_B.device).view(1, 1, -1, 1)
    columns = left_B.view(-1, 1, 1, 1) + torch.arange(width, device=top_B.device)
    layers = torch.arange(channels, device=top_B.device).view(1, -1, 1, 1)
    noise_BCHW = canvas[layers, rows, columns]
    return images_BCHW.addcmul_(noise_BCHW, sigma_B.view(-1, 1, 1, 1)).clamp_(0, 1)


@lru_cache(maxsize=4)
def _canvas(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    shape = (channels, height + _CANVAS_PX, width + _CANVAS_PX)
    # By numpy: a device's own generator would give other noise on a GPU than on a CPU.
    drawn = np.random.default_rng(47).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn).to(device)
