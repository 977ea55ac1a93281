"""Boxes and labels drawn on pictures."""

# Dimensions: H W pixels, 3 channels (RGB).

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fer_ignite.apps.faces.face_reader import FaceReading
from fer_ignite.data.expressions import find_expression

__all__ = ["draw_faces_on_image"]

# RGB by expression: the colours of Okabe and Ito (2008), which people with colour blindness can tell apart, and two more.
_COLOURS = {
    "neutral": (187, 187, 187),
    "happy": (240, 228, 66),
    "sad": (86, 180, 233),
    "surprise": (230, 159, 0),
    "fear": (204, 121, 167),
    "disgust": (0, 190, 130),
    "angry": (255, 110, 64),
    "contempt": (178, 160, 255),
}
_OTHER_COLOUR = (255, 210, 0)  # a class that is no basic expression
_TEXT_COLOUR = (0, 0, 0)  # at least 6.9 to 1 on each of the colours above


def draw_faces_on_image(
    image_HW3: NDArray[np.uint8], readings: Sequence[FaceReading], *, tracks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """A copy with each face's box, its most probable expression and how probable, in the expression's colour.

    All boxes are drawn before the first label, so that no box covers a label.

    Args:
        image_HW3: uint8.
        readings: in reading order; where there are several, labels begin with the place in it, from 1.
        tracks: of videos: the tracks' numbers, which the labels show instead.
    """
    if not readings:
        return image_HW3
    image = Image.fromarray(image_HW3)
    canvas = ImageDraw.Draw(image)
    unit = max(image.size) / 640
    font = ImageFont.load_default(max(12, round(14 * unit)))
    line_px = max(2, round(2 * unit))
    numbers = list(tracks) or list(range(1, len(readings) + 1))
    numbered = bool(tracks) or len(readings) > 1
    for reading in readings:
        box = reading.box
        canvas.rectangle(
            (box.left, box.top, box.left + box.width, box.top + box.height),
            outline=_colour(reading),
            width=line_px,
        )
    for number, reading in zip(numbers, readings, strict=True):
        name, probability = reading.top
        text = f"{f'{number}: ' if numbered else ''}{name} {100 * probability:.0f} %"
        _draw_label(canvas, reading, text=text, font=font, line_px=line_px)
    return np.asarray(image)


def _colour(reading: FaceReading) -> tuple[int, int, int]:
    return _COLOURS.get(find_expression(reading.top[0]) or "", _OTHER_COLOUR)


def _draw_label(
    canvas: ImageDraw.ImageDraw, reading: FaceReading, *, text: str, font: Any, line_px: int
) -> None:
    box = reading.box
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * line_px, bottom - top + 2 * line_px
    # Above the box, or inside it where the picture ends; never over the picture's right border.
    x = min(max(0.0, box.left), max(0.0, canvas.im.size[0] - width))
    y = box.top - height if box.top >= height else max(0.0, box.top)
    canvas.rectangle((x, y, x + width, y + height), fill=_colour(reading))
    canvas.text((x + line_px - left, y + line_px - top), text, fill=_TEXT_COLOUR, font=font)
