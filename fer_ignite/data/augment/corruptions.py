"""Fixed corruptions of face images, with severities, for measuring robustness."""

# Dimensions: B images, H W pixels, C channels.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CORRUPTIONS", "Corruption", "corruptions_for"]

Indices = NDArray[np.int64]

_REFERENCE_PX = 48  # blur is given for faces of this side and grows with them
_NOISE_FIELDS = 64
_NOISE_NUMBERS = 2**24  # at most, in memory
_DIRECTIONS = tuple(
    (down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)
)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        severities: by what they are called in tables.
        apply: (uint8 [B, C, H, W], indices [B], severity) -> uint8 of that shape. Where a direction or a side is to be chosen,
            the face's index chooses it, so that a face's result depends neither on chance nor on its batch.
    """

    meaning: str
    severities: Mapping[str, float]
    apply: Callable[[Tensor, Indices, float], Tensor]
    needs_color: bool = False

    def __call__(self, images_BHWC: Tensor, indices_B: Indices, severity: str) -> Tensor:
        """uint8 [B, H, W, C], corrupted."""
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).contiguous()
        changed_BCHW = self.apply(images_BCHW, indices_B, self.severities[severity])
        return changed_BCHW.permute(0, 2, 3, 1).contiguous()


def _in_groups(
    images_BCHW: Tensor, indices_B: Indices, count: int, change: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """``change(part, group)`` for the images of each group; index modulo ``count`` is a face's group."""
    result = torch.empty_like(images_BCHW)
    # torchvision's functions take one angle or shift per call, so the images that get the same one
    # are changed together.
    groups_B = torch.from_numpy(indices_B % count).to(images_BCHW.device)
    for group in range(count):
        chosen_B = groups_B == group
        if chosen_B.any():
            result[chosen_B] = change(images_BCHW[chosen_B], group)
    return result


def _affine(
    images_BCHW: Tensor,
    *,
    degrees: float = 0.0,
    scale: float = 1.0,
    shift_px: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Rotated, zoomed, shifted (down, right); what comes in from outside repeats the border."""
    height, width = images_BCHW.shape[-2:]
    # torchvision's affine can't repeat the border; a margin of half a side covers every severity.
    margin = max(height, width) // 2
    wide = F.pad(images_BCHW, [margin] * 4, padding_mode="edge")
    moved = F.affine(
        wide,
        angle=degrees,
        translate=[shift_px[1], shift_px[0]],
        scale=scale,
        shear=[0.0, 0.0],
        interpolation=F.InterpolationMode.BILINEAR,
    )
    return F.center_crop(moved, [height, width])


def _offset(images_BCHW: Tensor, indices_B: Indices, share: float) -> Tensor:
    step = share * images_BCHW.shape[-1]

    def change(part: Tensor, group: int) -> Tensor:
        down, right = _DIRECTIONS[group]
        return _affine(part, shift_px=(down * step, right * step))

    return _in_groups(images_BCHW, indices_B, len(_DIRECTIONS), change)


def _rotation(images_BCHW: Tensor, indices_B: Indices, degrees: float) -> Tensor:
    return _in_groups(
        images_BCHW,
        indices_B,
        2,
        lambda part, group: _affine(part, degrees=(degrees, -degrees)[group]),
    )


def _blur(images_BCHW: Tensor, _: Indices, sigma_px: float) -> Tensor:
    sigma = sigma_px * images_BCHW.shape[-1] / _REFERENCE_PX
    size = 2 * int(np.ceil(3 * sigma)) + 1
    return F.gaussian_blur(images_BCHW, kernel_size=[size, size], sigma=[sigma, sigma])


@cache
def _noise_fields(shape: tuple[int, ...]) -> Tensor:
    count = max(1, min(_NOISE_FIELDS, _NOISE_NUMBERS // int(np.prod(shape))))
    draw = np.random.default_rng(20231).standard_normal((count, *shape), dtype=np.float32)
    return torch.from_numpy(draw)


def _noise(images_BCHW: Tensor, indices_B: Indices, sigma: float) -> Tensor:
    fields = _noise_fields(tuple(images_BCHW.shape[1:]))
    chosen = fields[torch.from_numpy(indices_B % len(fields))].to(images_BCHW.device)
    # Rounded first: the conversion to uint8 cuts off, which would darken the image by half a level.
    return (images_BCHW + sigma * chosen).round_().clamp_(0, 255).to(torch.uint8)


def _jpeg(images_BCHW: Tensor, _: Indices, quality: float) -> Tensor:
    # On the CPU: torchvision codes CUDA tensors by another library, and the table is to be the same
    # on every device.
    coded = [F.jpeg(image, quality=int(quality)) for image in images_BCHW.cpu()]
    return torch.stack(coded).to(images_BCHW.device)


def _downscaled(images_BCHW: Tensor, _: Indices, side_px: float) -> Tensor:
    small = F.resize(images_BCHW, [int(side_px), int(side_px)], antialias=True)
    return F.resize(small, list(images_BCHW.shape[-2:]), antialias=True)


def _occlusion(images_BCHW: Tensor, indices_B: Indices, share: float) -> Tensor:
    """A gray square in one of the four corners, of this share of the area."""
    height, width = images_BCHW.shape[-2:]
    tall, broad = round(height * share**0.5), round(width * share**0.5)

    def change(part: Tensor, group: int) -> Tensor:
        top, left = (height - tall) * (group // 2), (width - broad) * (group % 2)
        # In place on a copy: _in_groups selects by a mask.
        part[:, :, top : top + tall, left : left + broad] = 128
        return part

    return _in_groups(images_BCHW, indices_B, 4, change)


def _plain(change: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, Indices, float], Tensor]:
    """A change that is the same for every face."""
    return lambda images_BCHW, _, severity: change(images_BCHW, severity)


def _named(*severities: float, text: str = "{:g}") -> dict[str, float]:
    return {text.format(severity): severity for severity in severities}


# Severities: what differs between face detectors and cameras at the lower end, and what people still recognise at the upper end.
CORRUPTIONS: Mapping[str, Corruption] = {
    "crop offset": Corruption(
        "the crop is off by this share of its side, in one of eight directions",
        {"5 %": 0.05, "10 %": 0.1, "15 %": 0.15},
        _offset,
    ),
    "face scale": Corruption(
        "the face is smaller or larger in its crop",
        _named(0.8, 0.9, 1.1, 1.25),
        _plain(lambda images, scale: _affine(images, scale=scale)),
    ),
    "rotation": Corruption("degrees, to either side", _named(5.0, 10.0, 20.0), _rotation),
    "brightness": Corruption(
        "pixel values are multiplied", _named(0.5, 0.75, 1.25, 1.5), _plain(F.adjust_brightness)
    ),
    "contrast": Corruption(
        "differences from the mean are multiplied", _named(0.4, 0.7, 1.5), _plain(F.adjust_contrast)
    ),
    "gamma": Corruption(
        "exponent of the pixel values", _named(0.5, 0.7, 1.5, 2.0), _plain(F.adjust_gamma)
    ),
    "blur": Corruption(
        "Gaussian; standard deviation in px of a 48 px face", _named(0.5, 1.0, 1.5), _blur
    ),
    "noise": Corruption("Gaussian; standard deviation of 255", _named(5.0, 10.0, 20.0), _noise),
    "jpeg": Corruption("quality", _named(50, 30, 10), _jpeg),
    "downscaling": Corruption(
        "made this small and enlarged again", _named(32, 24, text="{:g} px"), _downscaled
    ),
    "occlusion": Corruption(
        "a gray square over this share of the face, in one of its corners",
        {"1/8": 0.125, "1/4": 0.25},
        _occlusion,
    ),
    "gray": Corruption(
        "colour is taken out",
        {"gray": 1.0},
        _plain(lambda images, _: F.rgb_to_grayscale(images, num_output_channels=3)),
        needs_color=True,
    ),
}


def corruptions_for(channels: int) -> dict[str, Corruption]:
    """Those that mean something for gray (1) or colour (3) faces."""
    return {
        name: kind for name, kind in CORRUPTIONS.items() if channels == 3 or not kind.needs_color
    }
