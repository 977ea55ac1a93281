"""Faces out of pictures: whole photographs are distinguished from face crops, and their faces are cut out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fer_ignite.errors import ConfigError
from fer_ignite.imports import load_object

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FACES", "MOST_LOOKS", "FaceBox", "FacePicker", "built_in_detector"]

FACES = ("auto", "never", "always")

# Face crops of data sets have 48 to 224 pixels a side; the boxes of the detector on 2,000 upscaled FER2013 faces are at most
# 1.55 times as high as wide.
_LARGEST_CROP_PX, _LONGEST_CROP = 256, 1.6
# Share of the picture that its largest face covers. On 2,000 FER2013 faces of 100 to 400 px no face found covers less than 0.10;
# in photographs of whole people it covers 0.02 to 0.04.
_SMALLEST_SHARE = 0.10
# Of a large picture: a portrait with hair and shoulders is cut as well, a face that fills the picture is not.
_SMALLEST_SHARE_OF_LARGE = 0.45
_SMALLEST_LOOK_PX = 96  # in a smaller picture a face that covers a tenth is too small to be found
_LARGEST_LOOK_PX = (
    512  # larger pictures are shrunk for the first look, which then takes at most about 15 ms
)
MOST_LOOKS = 64
"""Pictures of a face crop's size in a row that are searched without finding a photograph; a folder of faces is not slowed down."""


class FaceBox(NamedTuple):
    """Where a face is in its picture, in px from the upper left corner."""

    left: float
    top: float
    width: float
    height: float


@functools.cache
def built_in_detector() -> Any:
    """The built-in detector, opened once per process; threads may share it.

    Raises:
        ConfigError: its library is not installed.
    """
    # By name: the core imports no application.
    open_detector = load_object("fer_ignite.apps.faces.detection:open_detector", setting="--faces")
    return open_detector()


class FacePicker:
    """The faces of a picture: itself where it is a face crop, those that are found in it where it is a whole photograph.

    Args:
        faces: "auto", "never" (a picture is one face; a photograph is warned about) or "always" (faces are searched in every
            picture).
        usual_px: side of the network's own images; crops up to this size are usual too.
        warn: called with one sentence for the first photograph whose faces are cut out, with one for the first that is taken as
            one face, and with one where the search in pictures of a face crop's size ends.
        detector: a name as :func:`fer_ignite.apps.faces.detection.open_detector` takes it, or an open detector; None: mtcnn.
        margin: as ``cut_face`` takes it; None: the detector's own margin.
        most_looks: pictures of a face crop's size in a row that are searched without finding a photograph, before later ones of
            that size are taken as faces; None: all are searched.
    Raises:
        ConfigError: "always", or a detector's name, without the detector's library; there is no such detector.
    """

    def __init__(
        self,
        faces: str,
        *,
        usual_px: int,
        warn: Callable[[str], Any],
        detector: str | Callable[..., Any] | None = None,
        margin: float | None = None,
        most_looks: int | None = MOST_LOOKS,
    ) -> None:
        if faces not in FACES:
            raise ConfigError(f"faces={faces!r} is unknown; allowed are {', '.join(FACES)}.")
        self.faces, self.usual_px, self.warn = faces, usual_px, warn
        self.most_looks, self.looks = most_looks, 0
        self._said: set[str] = set()
        self._name = detector if isinstance(detector, str) else None
        self._opened: Any = None if isinstance(detector, str) else detector
        self._margin = margin
        # Opened at once: a name that does not exist must fail before the first picture is read.
        if faces == "always" or (faces == "auto" and detector is not None):
            self._detector()

    def pick(self, name: str, image: Image) -> list[tuple[Image, FaceBox | None]]:
        """The faces in a picture, in reading order, each with its box; the picture itself has none.

        Args:
            name: of the picture, for the sentence.
        Returns:
            Empty where "always" finds no face.
        """
        boxes = self.find(name, image)
        return [(image, None)] if boxes is None else self._cut(image, boxes)

    def find(self, name: str, image: Image) -> Sequence[Any] | None:
        """The boxes of the faces in a picture, in reading order; None where the picture itself is the face.

        Args:
            name: of the picture, for the sentence.
        Returns:
            Empty where "always" finds no face.
        """
        if self.faces == "always":
            return self._boxes(image)
        if self.faces == "never" and self._said:
            return None
        reason, share = self._reason(image)
        if reason is None:
            return None
        if self.faces == "auto" and share is not None and (found := self._boxes(image)):
            self._say(
                "cut",
                f"{name} is a whole photograph ({image.width} x {image.height}, {reason}); the faces in it are cut out "
                "(--faces never takes pictures as they are).",
            )
            return found
        self._say(
            "whole",
            f"{name} seems to be a whole photograph ({image.width} x {image.height}, {reason}); the answer is about "
            "the whole picture as one face. Cut the face out"
            + (
                " (later ones like it are not named)"
                if self.faces == "auto"
                else ", or pass --faces auto or always to find it (later files are not checked)"
            )
            + ".",
        )
        return None

    def _say(self, kind: str, sentence: str) -> None:
        """Once per kind of sentence."""
        if kind not in self._said:
            self._said.add(kind)
            self.warn(sentence)

    def _reason(self, image: Image) -> tuple[str | None, float | None]:
        """Why a picture is no face crop, None where it is one; and the share of its area that its largest face covers."""
        long, short = max(image.size), min(image.size)
        large = long > max(_LARGEST_CROP_PX, self.usual_px) or long > _LONGEST_CROP * short
        share = None
        if short >= _SMALLEST_LOOK_PX and (large or self._looks_on()):
            share = self._face_area_share(image)
            if not large:
                # In a row: pictures among which photographs were found may hold more.
                found = share is not None and share < _SMALLEST_SHARE
                self.looks = 0 if found else self.looks + 1
        if share is None:
            return ("larger or longer than face crops are" if large else None), None
        if share < _SMALLEST_SHARE:
            return "its largest face covers less than a tenth of it", share
        if large and share < _SMALLEST_SHARE_OF_LARGE and self.faces == "auto":
            return "its largest face covers less than half of it", share
        return None, share

    def _looks_on(self) -> bool:
        """Whether the next picture of a face crop's size is searched; a sentence for the first that is not."""
        if self.most_looks is None or self.looks < self.most_looks:
            return True
        # Nothing was searched without the detector's library.
        if self.looks == self.most_looks and self.faces == "auto" and self._opened is not None:
            # One above the limit, so that the sentence comes once.
            self.looks += 1
            self.warn(
                f"{self.looks - 1} pictures of a face crop's size in a row are no photographs, so later ones up to "
                f"{max(_LARGEST_CROP_PX, self.usual_px)} px are taken as faces without a search (--faces always searches in all)."
            )
        return False

    def _face_area_share(self, image: Image) -> float | None:
        """Share of the area that the largest face covers; None where none is found, or there is no detector."""
        # convert always copies, so thumbnail, which works in place, leaves the picture as it is.
        small = image.convert("RGB")
        small.thumbnail((_LARGEST_LOOK_PX, _LARGEST_LOOK_PX))
        boxes = self._boxes(small)
        return (
            max((box.width * box.height for box in boxes), default=0.0)
            / (small.width * small.height)
            or None
        )

    def _cut(self, image: Image, boxes: Sequence[Any]) -> list[tuple[Image, FaceBox | None]]:
        from PIL import Image as pillow

        # By name, as the detector: the core imports no application.
        cut_face = load_object("fer_ignite.apps.faces.crops:cut_face", setting="--faces")
        image_HW3 = np.asarray(image.convert("RGB"))
        margin = getattr(self._opened, "margin", 0.0) if self._margin is None else self._margin
        return [
            (
                pillow.fromarray(cut_face(image_HW3, box, margin=margin)),
                FaceBox(box.left, box.top, box.width, box.height),
            )
            for box in boxes
        ]

    def _boxes(self, image: Image) -> Sequence[Any]:
        try:
            detector = self._detector()
        except ConfigError:  # the extra is not installed
            if self.faces == "always":
                raise
            return []
        in_reading_order = load_object(
            "fer_ignite.apps.faces.crops:in_reading_order", setting="--faces"
        )
        boxes: Sequence[Any] = in_reading_order(detector([np.asarray(image.convert("RGB"))])[0])
        return boxes

    def _detector(self) -> Any:
        if self._opened is None and self._name is None:
            self._opened = built_in_detector()
        elif self._opened is None:
            open_detector = load_object(
                "fer_ignite.apps.faces.detection:open_detector", setting="--faces"
            )
            self._opened = open_detector(self._name)
        return self._opened
