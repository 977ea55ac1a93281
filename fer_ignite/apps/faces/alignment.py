"""Alignment of the largest face of a photograph by the detector's landmarks."""

# Dimensions: H W pixels of the picture, S side of the square, 3 channels (RGB).

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_ignite.apps.faces.crops import cut_face
from fer_ignite.apps.faces.detection import Box, open_detector

__all__ = ["FaceCropper", "align_face"]

_LARGEST_PX = 1600  # larger photographs are shrunk: faces are stored with at most 224 px
_STEEPEST_DEG = 45.0  # eyes of detected faces, which are upright, lie less steeply


class FaceCropper:
    """Finds, turns upright and cuts out the largest face of a photograph.

    Args:
        detector: see :func:`fer_ignite.apps.faces.detection.open_detector`.
    Raises:
        ConfigError: the detector's library is not installed.
    """

    def __init__(self, detector: str = "mtcnn") -> None:
        self._detector = open_detector(detector)
        self._margin: float = getattr(self._detector, "margin", 0.0)

    def __call__(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """uint8 [S, S, 3], the face; None where none is found."""
        image = Image.fromarray(image_HW3)
        image.thumbnail((_LARGEST_PX, _LARGEST_PX))
        small_HW3 = np.asarray(image)
        boxes = self._detector([small_HW3])[0]
        if not boxes:
            return None
        largest = max(boxes, key=lambda box: box.width * box.height)
        return align_face(small_HW3, largest, margin=self._margin)


def align_face(image_HW3: NDArray[np.uint8], box: Box, *, margin: float) -> NDArray[np.uint8]:
    """The square around a face, turned so that the eyes lie on one level where the box has landmarks.

    Args:
        image_HW3: uint8.
        margin: see :func:`cut_face`.
    Returns:
        uint8 [S, S, 3].
    """
    if box.landmarks is None:
        return cut_face(image_HW3, box, margin=margin)
    (left_x, left_y), (right_x, right_y) = box.landmarks[:2]
    # y points down: a positive angle is a clockwise tilt, which rotate() undoes, as it turns counter-clockwise.
    angle = math.degrees(math.atan2(right_y - left_y, right_x - left_x))
    if abs(angle) > _STEEPEST_DEG:
        return cut_face(image_HW3, box, margin=margin)
    middle = (box.left + box.width / 2, box.top + box.height / 2)
    # Around the box's middle, so that the box is still around the face afterwards.
    turned = Image.fromarray(image_HW3).rotate(
        angle, resample=Image.Resampling.BILINEAR, center=middle
    )
    return cut_face(np.asarray(turned), box, margin=margin)
