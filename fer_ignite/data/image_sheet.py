"""A grid of images as one PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["draw_sheet"]

# Dimensions: B images, C channels, H W pixels, R rows and S columns of the sheet.

GAP_PX = 2
LEAST_TILE_PX = 96


def draw_sheet(images: npt.NDArray[Any] | Tensor, path: str | Path, *, columns: int = 8) -> Path:
    """Write images side by side, small ones enlarged by a whole factor to 96 px at least.

    Args:
        images: uint8 [B, H, W, C], or a float tensor [B, C, H, W] in 0..1; C is 1 or 3.
        path: of the PNG file; its folder is made.
    Returns:
        The path.
    Raises:
        StorageError: the file can't be written.
    """
    tiles_BHWC = _bytes(images)
    count, height, width, channels = tiles_BHWC.shape
    rows = max(1, math.ceil(count / columns))
    zoom = max(1, math.ceil(LEAST_TILE_PX / max(1, height)))
    cell_h, cell_w = height + GAP_PX, width + GAP_PX
    sheet = np.full((rows * cell_h, columns * cell_w, channels), 255, np.uint8)
    for place in range(count):
        top, left = place // columns * cell_h, place % columns * cell_w
        sheet[top : top + height, left : left + width] = tiles_BHWC[place]
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    # Nearest: the sheet is there to show pixels, which smoothing would blend.
    picture = picture.resize(
        (picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST
    )
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"The preview {path} can't be written ({reason}); choose another place."
        ) from error
    return Path(path)


def _bytes(images: npt.NDArray[Any] | Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [B, H, W, C] from either form; values outside of 0..1 are cut."""
    if isinstance(images, np.ndarray):
        return images
    pixels: npt.NDArray[Any] = images.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    tiles_BHWC: npt.NDArray[np.uint8] = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    return tiles_BHWC
