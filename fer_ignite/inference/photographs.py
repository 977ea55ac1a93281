"""Warning for whole photographs given where a face crop is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_ignite.data.images import printable
from fer_ignite.errors import ConfigError
from fer_ignite.imports import load_object

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PhotographCheck"]

# Face crops of data sets have 48 to 224 pixels a side; the boxes of the detector on 2,000 upscaled FER2013 faces are at most
# 1.55 times as high as wide.
_LARGEST_CROP_PX, _LONGEST_CROP = 256, 1.6
# Share of the picture that its largest face covers. On 2,000 FER2013 faces of 100 to 400 px no face found covers less than 0.10;
# in photographs of whole people it covers 0.02 to 0.04.
_SMALLEST_SHARE = 0.10
_SMALLEST_LOOK_PX = 96  # in a smaller picture a face that covers a tenth is too small to be found
_LARGEST_LOOK_PX = (
    512  # larger pictures are shrunk for the look, which then takes at most about 15 ms
)
_MOST_LOOKS = 64  # among files of the usual size; a folder of faces is not slowed down


class PhotographCheck:
    """Warns once, of the first file that seems to be a whole photograph.

    Args:
        warn: called with the sentence.
    """

    def __init__(self, warn: Callable[[str], Any]) -> None:
        self.warn, self.warned, self.looks = warn, False, 0
        self._detector: Any = None

    def look(self, file: str | Path, image: Image, *, usual_px: int) -> None:
        """Checks one image.

        Args:
            usual_px: side of the network's own images; crops up to this size are usual too.
        """
        if not self.warned and (reason := self._reason(image, usual_px)):
            self.warned = True
            self.warn(
                f"{printable(file)} seems to be a whole photograph ({image.width} x {image.height}, {reason}); the answer is about "
                "the whole picture as one face. Cut the face out, or pass --faces to find it (later files are not checked)."
            )

    def _reason(self, image: Image, usual_px: int) -> str | None:
        long, short = max(image.size), min(image.size)
        large = long > max(_LARGEST_CROP_PX, usual_px) or long > _LONGEST_CROP * short
        share = None
        if short >= _SMALLEST_LOOK_PX and (large or self.looks < _MOST_LOOKS):
            self.looks += not large
            share = self._share_of_face(image)
        if share is not None:
            return (
                "its largest face covers less than a tenth of it"
                if share < _SMALLEST_SHARE
                else None
            )
        return "larger or longer than face crops are" if large else None

    def _share_of_face(self, image: Image) -> float | None:
        """Share of the area that the largest face covers; None where none is found, or there is no detector."""
        if self._detector is None:
            self._detector = _detector()
        small = image.convert("RGB")
        small.thumbnail((_LARGEST_LOOK_PX, _LARGEST_LOOK_PX))
        boxes = self._detector([np.asarray(small)])[0]
        return (
            max((box.width * box.height for box in boxes), default=0.0)
            / (small.width * small.height)
            or None
        )


def _detector() -> Any:
    try:
        # By name: the core imports no application.
        return load_object("fer_ignite.apps.faces.mtcnn:Mtcnn", setting="--faces")()
    except ConfigError:  # the extra is not installed
        return lambda images: [[] for _ in images]
