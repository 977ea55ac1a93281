"""Detection, cropping and classification of the faces in pictures, in batches."""

# Dimensions: B faces of a batch, K expressions, H W pixels, 3 channels (RGB).

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_ignite.apps.faces.crops import cut_face, in_reading_order
from fer_ignite.apps.faces.detection import Box, Detector
from fer_ignite.data.images import fit_image
from fer_ignite.inference.predictor import Predictor

__all__ = ["FaceReader", "FaceReading"]


@dataclass(frozen=True)
class FaceReading:
    """A face and its predicted probabilities.

    Attributes:
        probabilities: of each expression, in the network's order of classes.
    """

    box: Box
    probabilities: dict[str, float]

    @property
    def top(self) -> tuple[str, float]:
        """The most probable expression and its probability."""
        name = max(self.probabilities, key=self.probabilities.__getitem__)
        return name, self.probabilities[name]


class FaceReader:
    """Finds and reads faces.

    Args:
        margin: what is added to the detector's box on each side, as a share of its longer side; None = the detector's
            own ``margin``, 0 where it has none.
        batch_size: faces that go through the network at once.
    """

    def __init__(
        self,
        predictor: Predictor,
        detector: Detector,
        *,
        margin: float | None = None,
        batch_size: int = 256,
    ) -> None:
        self.predictor, self.detector, self.batch_size = predictor, detector, batch_size
        self.margin: float = getattr(detector, "margin", 0.0) if margin is None else margin

    def read(self, images_HW3: Sequence[NDArray[np.uint8]]) -> list[list[FaceReading]]:
        """The faces of each picture, in reading order; none where none was found.

        Args:
            images_HW3: uint8 RGB pictures of any sizes.
        """
        return self.read_boxes(
            images_HW3, [in_reading_order(boxes) for boxes in self.detector(images_HW3)]
        )

    def read_boxes(
        self, images_HW3: Sequence[NDArray[np.uint8]], found: Sequence[Sequence[Box] | None]
    ) -> list[list[FaceReading]]:
        """The faces in the boxes of each picture.

        Args:
            images_HW3: uint8 RGB pictures of any sizes.
            found: each picture's boxes; None where the picture itself is the face, whose box is then the whole picture.
        """
        # All crops first, so that the faces of all pictures share the network's batches.
        crops = [
            self._whole(image) if box is None else self._crop(image, box)
            for image, boxes in zip(images_HW3, found, strict=True)
            for box in ([None] if boxes is None else boxes)
        ]
        probabilities = iter(self._chances(crops))
        classes = self.predictor.classes
        return [
            [
                FaceReading(box, dict(zip(classes, next(probabilities), strict=True)))
                for box in ([_box_of_whole(image)] if boxes is None else boxes)
            ]
            for image, boxes in zip(images_HW3, found, strict=True)
        ]

    def _crop(self, image_HW3: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        # The crop is a square already, so that nothing is squashed.
        return self._fitted(cut_face(image_HW3, box, margin=self.margin), mode="squash")

    def _whole(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._fitted(image_HW3, mode=self.predictor.resize_mode)

    def _fitted(self, face_HW3: NDArray[np.uint8], *, mode: str) -> NDArray[np.uint8]:
        return fit_image(
            Image.fromarray(face_HW3),
            self.predictor.side_px,
            mode=mode,
            channels="gray" if self.predictor.channels == 1 else "rgb",
        )

    def _chances(self, crops: Sequence[NDArray[np.uint8]]) -> list[list[float]]:
        probabilities: list[list[float]] = []
        for start in range(0, len(crops), self.batch_size):
            faces_BHWC = np.stack(crops[start : start + self.batch_size])
            probabilities += self.predictor.probabilities(faces_BHWC).tolist()
        return probabilities


def _box_of_whole(image_HW3: NDArray[np.uint8]) -> Box:
    height, width = image_HW3.shape[:2]
    return Box(0, 0, width, height)
