"""Detector interface: a function from pictures to boxes, built in or the user's."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.errors import ConfigError
from fer_ignite.imports import is_object_name, load_object

__all__ = ["DETECTORS", "Box", "Detector", "open_detector"]

DETECTORS = ("mtcnn",)
_LEAST_MARGIN, _MOST_MARGIN = -0.4, 2.0  # as of --margin


@dataclass(frozen=True)
class Box:
    """Where a face is.

    Attributes:
        left, top, width, height: pixels, from the picture's upper left corner; may reach over its borders.
        score: how sure the detector is, on its own scale; higher is surer.
        landmarks: x and y in px of left eye, right eye (as seen in the picture), nose and corners of the mouth, where the
            detector finds them.
    """

    left: float
    top: float
    width: float
    height: float
    score: float = 1.0
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height

    def intersection(self, other: Box) -> float:
        """The area that both boxes cover, in square pixels."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


Detector = Callable[[Sequence[NDArray[np.uint8]]], list[list[Box]]]


def open_detector(name: str = "mtcnn") -> Detector:
    """A detector that is ready to be called with uint8 [H, W, 3] RGB pictures; it answers one list of boxes for each.

    Args:
        name: a built-in's (see ``DETECTORS``), or ``package.module:function`` of the user's own, which answers with
            boxes or with (left, top, width, height[, score]), and with None or an empty list where a picture has no face. Where
            it has an attribute ``margin``, faces are cut with it.
    Raises:
        ConfigError: there is no such detector, or its library is not installed.
    """
    if is_object_name(name):
        found = load_object(name, setting="--detector")
        if not callable(found):
            raise ConfigError(
                f"--detector {name} is no function; name one that takes pictures and answers a list of boxes for each."
            )
        return _Checked(found, name)
    if name not in DETECTORS:
        raise ConfigError(
            f"there is no detector {name!r}; there are {', '.join(DETECTORS)} and your own as package.module:function."
        )
    from fer_ignite.apps.faces.mtcnn import Mtcnn

    return Mtcnn()


class _Checked:
    """A user's detector with its output checked."""

    def __init__(self, function: Callable[[Sequence[NDArray[np.uint8]]], Any], name: str) -> None:
        self.function, self.name = function, name
        self.margin = self._margin(getattr(function, "margin", 0.0))

    def __call__(self, images_HW3: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        try:
            answers = list(self.function(images_HW3))
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # inside the user's function, or in what it gave back while it was walked through
            raise ConfigError(
                f"--detector {self.name}: {error}; it should take pictures and answer a list of boxes for each."
            ) from None
        # Rows are matched by their order: a missing list would give every later picture another one's faces.
        if len(answers) != len(images_HW3):
            raise ConfigError(
                f"--detector {self.name} answered {len(answers)} lists for {len(images_HW3)} pictures; one for each is needed."
            )
        return [[self._box(box) for box in self._boxes(boxes)] for boxes in answers]

    def _margin(self, given: Any) -> float:
        try:
            margin = float(given)
        except (TypeError, ValueError):
            margin = math.nan
        if not _LEAST_MARGIN <= margin <= _MOST_MARGIN:
            raise ConfigError(
                f"--detector {self.name} has the margin {str(given)[:80]!r}; it is a number from {_LEAST_MARGIN} to {_MOST_MARGIN}, a share of a box's longer side."
            )
        return margin

    def _boxes(self, answer: Any) -> list[Any]:
        """The boxes of one picture."""
        if answer is None:
            return []
        try:
            return list(answer)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # inside a generator of the user's
            raise ConfigError(
                f"--detector {self.name} answered {str(answer)[:80]!r} for a picture; it is a list of boxes, empty or None without faces."
            ) from None

    def _box(self, answer: Any) -> Box:
        try:
            box = answer if isinstance(answer, Box) else _to_box(*answer)
            sound = all(
                math.isfinite(value)
                for value in (box.left, box.top, box.width, box.height, box.score)
            )
        except (TypeError, ValueError):
            sound = False
        if not sound or box.width <= 0 or box.height <= 0:
            raise ConfigError(
                f"--detector {self.name} answered {str(answer)[:80]!r} for a box; it is (left, top, width, height[, score]) "
                "in pixels, with a width and height above 0."
            )
        return box


def _to_box(left: Any, top: Any, width: Any, height: Any, score: Any = 1.0) -> Box:
    return Box(float(left), float(top), float(width), float(height), float(score))
