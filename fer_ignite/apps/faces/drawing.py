"""Boxes and labels drawn on pictures."""

# Dimensions: H W pixels, 3 channels (RGB).

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fer_ignite.apps.faces.face_reader import FaceReading

__all__ = ["draw_faces_on_image"]

_COLOUR, _TEXT = (255, 210, 0), (0, 0, 0)  # black on yellow: 14 to 1, and seen on any skin


def draw_faces_on_image(
    image_HW3: NDArray[np.uint8], readings: Sequence[FaceReading], *, tracks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """A copy with each face's box, its most probable expression and how probable; with its track's number, if given.

    Args:
        image_HW3: uint8.
    """
    if not readings:
        return image_HW3
    image = Image.fromarray(image_HW3)
    canvas = ImageDraw.Draw(image)
    unit = max(image.size) / 640
    font = ImageFont.load_default(max(12, round(14 * unit)))
    for place, reading in enumerate(readings):
        name, chance = reading.top
        number = f"{tracks[place]}: " if tracks else ""
        _draw_one(
            canvas,
            reading,
            text=f"{number}{name} {100 * chance:.0f} %",
            font=font,
            line_px=max(2, round(2 * unit)),
        )
    return np.asarray(image)


def _draw_one(
    canvas: ImageDraw.ImageDraw, reading: FaceReading, *, text: str, font: Any, line_px: int
) -> None:
    box = reading.box
    canvas.rectangle(
        (box.left, box.top, box.left + box.width, box.top + box.height),
        outline=_COLOUR,
        width=line_px,
    )
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * line_px, bottom - top + 2 * line_px
    # Above the box, or inside it where the picture ends; never over the picture's right border.
    x = min(max(0.0, box.left), max(0.0, canvas.im.size[0] - width))
    y = box.top - height if box.top >= height else max(0.0, box.top)
    canvas.rectangle((x, y, x + width, y + height), fill=_COLOUR)
    canvas.text((x + line_px - left, y + line_px - top), text, fill=_TEXT, font=font)
