"""Square face crops in the proportions of the training data."""

# Dimensions: H W pixels of the picture, S side of the square, 3 channels (RGB).

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.faces.detection import Box

__all__ = ["cut_face", "in_reading_order"]


def cut_face(image_HW3: NDArray[np.uint8], box: Box, *, margin: float) -> NDArray[np.uint8]:
    """The square around a box's middle; where it reaches over the picture's border, the border's pixels continue.

    Args:
        image_HW3: uint8.
        margin: added on each side, as a share of the box's longer side; below 0 it is cut closer.
    Returns:
        uint8 [S, S, 3], S at least 1 and at most twice the picture's longer side.
    """
    height, width = image_HW3.shape[:2]
    side = round(max(box.width, box.height) * (1 + 2 * margin))
    # Bounded: a user's detector may return a box of any size, and the square is made in memory.
    side = max(1, min(side, 2 * max(height, width)))
    rows = _places(box.top + box.height / 2, side, length=height)
    columns = _places(box.left + box.width / 2, side, length=width)
    return image_HW3[rows[:, None], columns[None, :]]


def _places(middle: float, side: int, *, length: int) -> NDArray[np.int64]:
    start = round(min(max(middle, 0.0), float(length)) - side / 2)
    return np.clip(np.arange(start, start + side), 0, length - 1)


def in_reading_order(boxes: Sequence[Box]) -> list[Box]:
    """From the top row to the bottom one, from left to right within a row.

    Faces are in one row where the middle of the lower one lies above the lower border of the first of the row.
    """
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box.top + box.height / 2):
        first = rows[-1][0] if rows else None
        if first is not None and box.top + box.height / 2 < first.top + first.height:
            rows[-1].append(box)
        else:
            rows.append([box])
    return [box for row in rows for box in sorted(row, key=lambda box: box.left)]
