"""From the bytes of an uploaded picture to faces, probabilities and one sentence."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fer_ignite.data.images import fit_image, read_image_bytes
from fer_ignite.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fer_ignite.apps.faces.detection import Box
    from fer_ignite.apps.faces.face_reader import FaceReader
    from fer_ignite.inference.predictor import Predictor

__all__ = ["LONGER_SIDE_PX", "Analysis", "Face", "ImageAnalyzer"]

# Photographs are scaled down to this before faces are detected: a phone's 12 MP cost seconds and show no more faces.
LONGER_SIDE_PX = 1600
_NAMED_IN_SENTENCE = 4


@dataclass(frozen=True)
class Face:
    """A face and the probability of each expression, most probable first.

    Attributes:
        box: where it is in the answer's picture; None where the whole picture was taken as the face.
    """

    probabilities: dict[str, float]
    box: Box | None = None

    @property
    def top(self) -> tuple[str, float]:
        """The most probable expression and its probability."""
        return next(iter(self.probabilities.items()))


@dataclass(frozen=True)
class Analysis:
    """The analysis of one picture.

    Attributes:
        sentence: the result in words, also where there is nothing else.
        picture_HW3: uint8 RGB, the analysed picture; None for a file that is no picture.
    """

    sentence: str
    picture_HW3: NDArray[np.uint8] | None = None
    faces: tuple[Face, ...] = ()


class ImageAnalyzer:
    """Analyses pictures.

    Args:
        reader: finds and reads the faces in a photograph; None where no detector is installed.
    """

    def __init__(self, predictor: Predictor, reader: FaceReader | None = None) -> None:
        self.predictor, self.reader = predictor, reader

    def analyze(self, data: bytes, *, name: str, one_face: bool) -> Analysis:
        """The faces and expressions in a picture; a sentence also for a file that is none.

        Args:
            data: the file as it came.
            name: of the file, for the sentence.
            one_face: take the whole picture as one tightly cut face; without a detector that is always done.
        """
        try:
            image = read_image_bytes(data, name=name)
        except DataError as error:
            return Analysis(str(error))
        if one_face or self.reader is None:
            return self._whole(image)
        return self._photograph(self.reader, image)

    def _whole(self, image: Image.Image) -> Analysis:
        predictor = self.predictor
        channels = "gray" if predictor.channels == 1 else "rgb"
        face_HWC = fit_image(
            image, predictor.side_px, mode=predictor.resize_mode, channels=channels
        )
        probabilities_K = predictor.probabilities(np.stack([face_HWC]))[0]
        face = Face(_sorted(dict(zip(predictor.classes, probabilities_K.tolist(), strict=True))))
        advice = "." if self.reader is None else "; switch that off to detect faces."
        sentence = f"{_said(*face.top)}. The whole picture was taken as one face{advice}"
        return Analysis(sentence[0].upper() + sentence[1:], _bounded(image), (face,))

    def _photograph(self, reader: FaceReader, image: Image.Image) -> Analysis:
        picture_HW3 = _bounded(image)
        faces = tuple(
            Face(_sorted(found.probabilities), found.box) for found in reader.read([picture_HW3])[0]
        )
        if not faces:
            return Analysis(
                "No face was found. If the picture is one tightly cut face, set the switch.",
                picture_HW3,
            )
        return Analysis(_counted(faces), picture_HW3, faces)


def _bounded(image: Image.Image) -> NDArray[np.uint8]:
    image = image.convert("RGB")
    if max(image.size) > LONGER_SIDE_PX:
        factor = LONGER_SIDE_PX / max(image.size)
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _sorted(probabilities: dict[str, float]) -> dict[str, float]:
    return dict(sorted(probabilities.items(), key=lambda entry: -entry[1]))


def _counted(faces: tuple[Face, ...]) -> str:
    if len(faces) == 1:
        return f"One face was found: {_said(*faces[0].top)}."
    named = [
        f"{number} {_said(*face.top)}" for number, face in enumerate(faces[:_NAMED_IN_SENTENCE], 1)
    ]
    more = "; and so on" if len(faces) > _NAMED_IN_SENTENCE else ""
    return f"{len(faces)} faces were found: {'; '.join(named)}{more}."


def _said(name: str, share: float) -> str:
    return f"{name}, {100 * share:.0f} %"
