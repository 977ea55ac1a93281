"""Test-time augmentation: mirrored and shifted views; `tta_logits` in training/trainer.py averages their probabilities."""

# Dimensions: V views, B images, C channels, H W pixels.

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fer_ignite.errors import ConfigError

__all__ = ["VIEW_KINDS", "count_views", "iter_tta_views", "views", "views_text"]

# Shifts (down, right) as shares of the side; every one is seen plain and mirrored.
_STILL = ((0.0, 0.0),)
_CORNERS = tuple((down, right) for down in (-1.0, 1.0) for right in (-1.0, 1.0))
_RING = (*_CORNERS, (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
REACH = 1 / 16

VIEW_KINDS = ("none", "flip", "shift10", "shift18")
_SHIFTS = {"none": _STILL, "flip": _STILL, "shift10": _STILL + _CORNERS, "shift18": _STILL + _RING}


def count_views(kind: str) -> int:
    """How many images the model sees for each one: none 1, flip 2, shift10 10, shift18 18."""
    if kind not in _SHIFTS:
        raise ConfigError(
            f"View averaging {kind!r} is unknown; allowed are {', '.join(VIEW_KINDS)}."
        )
    return len(_SHIFTS[kind]) * (1 if kind == "none" else 2)


def views_text(kind: str) -> str:
    """ "1 view" or "10 views"."""
    count = count_views(kind)
    return "1 view" if count == 1 else f"{count} views"


def views(images_BCHW: Tensor, kind: str) -> Tensor:
    """All views of a batch; the first is the batch itself.

    Args:
        kind: 'none', 'flip' (mirrored), 'shift10' (plain and four diagonal shifts by a sixteenth of the side, each mirrored
            too) or 'shift18' (eight shifts). What a shift leaves free repeats the border.
    Returns:
        [V, B, C, H, W], the input's type and layout.
    Raises:
        ConfigError: an unknown kind.
    """
    return torch.stack(list(iter_tta_views(images_BCHW, kind)))


def iter_tta_views(images_BCHW: Tensor, kind: str) -> Iterator[Tensor]:
    """The same views one after the other, of which only one at a time needs memory: each [B, C, H, W]."""
    height, width = images_BCHW.shape[-2:]
    down_px, right_px = max(1, round(REACH * height)), max(1, round(REACH * width))
    # A flip or a slice has neither layout; each view gets the one that the network is fastest with.
    layout = (
        torch.channels_last
        if images_BCHW.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    for mirrored in (False, True)[: 1 if count_views(kind) == 1 else 2]:
        for down, right in _SHIFTS[kind]:
            view_BCHW = _shift(images_BCHW, int(down * down_px), right=int(right * right_px))
            yield (view_BCHW.flip(-1) if mirrored else view_BCHW).contiguous(memory_format=layout)


def _shift(images_BCHW: Tensor, down: int, *, right: int) -> Tensor:
    """Move by whole pixels, repeating the border."""
    if not down and not right:
        return images_BCHW
    # a negative pad cuts off what moves out
    moved = F.pad(
        images_BCHW, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate"
    )
    height, width = images_BCHW.shape[-2:]
    top, left = max(-down, 0), max(-right, 0)
    return moved[..., top : top + height, left : left + width]
