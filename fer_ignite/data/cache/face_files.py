"""Faces as they lie in their files: read, cut out by a box or a face detector."""

# Dimensions: H W pixels, C channels (1 gray, 3 RGB).

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.data.cache.plain_files import decode_plain
from fer_ignite.data.images import (
    MISNAMED,
    as_image,
    decode_image,
    expected_format,
    is_colourless,
    printable,
    read_file_bytes,
)
from fer_ignite.errors import DataError
from fer_ignite.imports import load_object

__all__ = ["Face", "FaceFile", "read_face"]

Images = npt.NDArray[np.uint8]


class FaceFile(NamedTuple):
    """An image file, and where in it the face is: left, top, right, bottom in px; None: everywhere."""

    path: str
    box: tuple[int, int, int, int] | None = None


class Face(NamedTuple):
    """A face as it lies in its file, the file's bytes, and whether the file's suffix names another format."""

    pixels: Images | Image.Image
    data: bytes
    misnamed: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.size
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def image(self) -> Image.Image:
        """The face as an image of mode "L" or "RGB"."""
        return self.pixels if isinstance(self.pixels, Image.Image) else as_image(self.pixels)

    def is_colourless(self) -> bool:
        """Whether all channels of every pixel agree."""
        if isinstance(self.pixels, Image.Image):
            return is_colourless(self.pixels)
        channels = np.moveaxis(self.pixels, 2, 0)
        return all(np.array_equal(channels[0], other_HW) for other_HW in channels[1:])


def read_face(file: FaceFile, *, crop_faces: bool, out: Images | None = None) -> Face:
    """A face as it lies in its file: cut out of the picture where a box or `crop_faces` says so.

    Args:
        out: uint8 [H, W, C] that takes the pixels where that costs nothing; they are then this very array.
    Raises:
        DataError: the file can't be read, the box lies outside of the picture, or no face is found.
    """
    expected = expected_format(file.path)
    data = read_file_bytes(file.path)
    plain_HWC = decode_plain(data, expected=expected, out=out)
    if plain_HWC is not None and file.box is None and not crop_faces:
        return Face(plain_HWC, data, misnamed=False)
    if plain_HWC is None:
        image = decode_image(data, file.path, expected=expected)
    else:
        image = as_image(plain_HWC)
    misnamed = bool(image.info.get(MISNAMED))
    if file.box is not None:
        image = _cut(image, file)
    if crop_faces:
        image = _largest_face(image, file.path)
    return Face(image, data, misnamed)


def _cut(image: Image.Image, file: FaceFile) -> Image.Image:
    assert file.box is not None
    left, top, right, bottom = file.box
    # Published boxes may reach over the border; only one wholly outside is refused.
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise DataError(
            f"{printable(file.path)}: the face's box {file.box} lies outside of the picture ({image.width} x {image.height})."
        )
    return image.crop(inside)


def _largest_face(image: Image.Image, path: str) -> Image.Image:
    found = _face_cropper()(np.asarray(image.convert("RGB")))
    if found is None:
        raise DataError(f"{printable(path)}: no face is found in it.")
    return Image.fromarray(found).convert(image.mode)


@functools.cache
def _face_cropper() -> Callable[[Images], Images | None]:
    # By name: the data layer imports no application.
    make = load_object("fer_ignite.apps.faces.alignment:FaceCropper", setting="--crop-faces")
    cropper: Callable[[Images], Images | None] = make()
    return cropper
