"""Predictions and examples as HTML; names are escaped."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fer_ignite.apps.demo.analyzer import Analysis, Face
from fer_ignite.apps.demo.examples import Example
from fer_ignite.data.images import as_data_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fer_ignite.apps.faces.detection import Box

__all__ = ["MAX_FACES", "analysis_html", "examples_html"]

MAX_FACES = 50  # of a crowd, the first so many get bars; all get their box
_SHOWN_PX = 960
_FACE_PX = 96


def analysis_html(analysis: Analysis) -> str:
    """The details of an analysis; its sentence is in an element of its own, where screen readers announce changes.

    All pictures are data URIs: what people show the page is kept in no file for it.
    """
    if analysis.picture_HW3 is None:
        return ""
    cards = [
        _card(analysis.picture_HW3, face, number=number)
        for number, face in enumerate(analysis.faces[:MAX_FACES], 1)
    ]
    left_out = len(analysis.faces) - len(cards)
    note = (
        f"<p>{left_out} more faces are boxed in the picture, but not listed.</p>"
        if left_out
        else ""
    )
    return f'{_boxed(analysis)}<div class="fer-faces">{"".join(cards)}</div>{note}'


def examples_html(examples: Sequence[Example]) -> str:
    """A button per example, numbered in ``data-index``."""
    buttons = "".join(_button(example, index) for index, example in enumerate(examples))
    return f'<h2 id="fer-drawn">Examples, drawn</h2><div role="group" aria-labelledby="fer-drawn">{buttons}</div>'


def _button(example: Example, index: int) -> str:
    source = _data_uri(np.asarray(example.image()), _FACE_PX)
    return f'<button type="button" data-index="{index}"><img src="{source}" alt="">{escape(example.expression)}</button>'


def _boxed(analysis: Analysis) -> str:
    """The picture with its boxes; nothing where the whole picture is the face, which the card shows."""
    picture_HW3 = analysis.picture_HW3
    assert picture_HW3 is not None
    if any(face.box is None for face in analysis.faces):
        return ""
    height, width = picture_HW3.shape[:2]
    marks = "".join(
        _mark(face.box, number, side_px=max(width, height))
        for number, face in enumerate(analysis.faces, 1)
        if face.box
    )
    what = "Your picture" + (
        f" with {len(analysis.faces)} numbered face boxes" if analysis.faces else ""
    )
    return (
        f'<svg class="fer-picture" role="img" aria-label="{what}" viewBox="0 0 {width} {height}">'
        f'<image href="{_data_uri(picture_HW3, _SHOWN_PX)}" width="{width}" height="{height}"/>{marks}</svg>'
    )


def _mark(box: Box, number: int, *, side_px: int) -> str:
    line, text = side_px / 220, side_px / 26
    # A number above its box, or inside where there is no room above it.
    x, y = max(box.left, 0.0), box.top - line if box.top > text else box.top + text
    return (
        f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" stroke-width="{line:.1f}"/>'
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{text:.1f}" stroke-width="{text / 5:.1f}">{number}</text>'
    )


def _card(picture_HW3: NDArray[np.uint8], face: Face, *, number: int) -> str:
    name, share = face.top
    title = f"{'' if face.box is None else f'Face {number}: '}{escape(name)}, {100 * share:.0f}\N{NO-BREAK SPACE}%"
    bars = "".join(_bar(*entry) for entry in face.probabilities.items())
    return (
        f'<section class="fer-face" aria-label="{title}"><h2>'
        f'<img src="{_data_uri(_cut(picture_HW3, face.box), _FACE_PX)}" alt="">{title}</h2><ol>{bars}</ol></section>'
    )


def _bar(name: str, share: float) -> str:
    percent = 100 * share
    return (
        f'<li><span class="fer-name">{escape(name)}</span><span class="fer-bar" aria-hidden="true">'
        f'<span style="width:{percent:.1f}%"></span></span><span class="fer-share">{percent:.1f} %</span></li>'
    )


def _cut(picture_HW3: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    if box is None:
        return picture_HW3
    height, width = picture_HW3.shape[:2]
    # Boxes may reach over the borders; one that lies outside altogether still needs a pixel to show.
    left, top = min(max(0, int(box.left)), width - 1), min(max(0, int(box.top)), height - 1)
    right, bottom = int(box.left + box.width), int(box.top + box.height)
    return picture_HW3[top : max(top + 1, bottom), left : max(left + 1, right)]


def _data_uri(picture_HW3: NDArray[np.uint8], longer_px: int) -> str:
    image = Image.fromarray(picture_HW3)
    image.thumbnail((longer_px, longer_px))
    return as_data_uri(image, quality=88)
