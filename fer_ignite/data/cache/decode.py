"""Parallel image decoding, and the stored size that fits all images."""

# Dimensions: N images in all, B images of one piece of work, H W pixels, C channels.

import contextlib
import functools
import hashlib
import io
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.data.images import (
    MISNAMED,
    fit_image,
    is_colourless,
    printable,
    read_file_bytes,
    read_image,
)
from fer_ignite.errors import DataError
from fer_ignite.imports import load_object

__all__ = ["Decoded", "FaceFile", "Fit", "Misfit", "choose_fit", "decode_all", "measure", "refit"]

_SAMPLE = 256
_SAMPLE_OF_PHOTOGRAPHS = 16  # the search for faces takes up to half a second each
_SERIAL_S = 1.5  # starting processes takes about half a second: less work than this is done at once
_LARGEST_UNASKED_PX = 224

Images = npt.NDArray[np.uint8]


class FaceFile(NamedTuple):
    """An image file, and where in it the face is: left, top, right, bottom in px; None: everywhere."""

    path: str
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How each image becomes a square.

    Args:
        native: a promise that all images have that very size.
        crop_faces: the largest face is searched, aligned and cut out first.
    """

    side_px: int
    mode: str
    channels: str
    native: bool
    crop_faces: bool = False

    @property
    def depth(self) -> int:
        return 1 if self.channels == "gray" else 3


@dataclass(frozen=True)
class Decoded:
    """One piece of work: the good images, in order, and the facts about them.

    Args:
        good_B: bool over all files of the piece; the other fields hold the good ones only.
        images_BHWC: uint8; `blobs` has the files' bytes instead where the pack keeps those.
        digests_B16: uint8, hashes of the pixels.
        sums_B2C: int64, sums and sums of squares per channel.
        blank_B: bool, all pixels equal.
        bad: reasons, for the files that aren't good.
        misnamed: good files whose suffix names another format.
    """

    good_B: npt.NDArray[np.bool_]
    images_BHWC: Images
    blobs: list[bytes]
    digests_B16: Images
    sums_B2C: npt.NDArray[np.int64]
    blank_B: npt.NDArray[np.bool_]
    bad: list[str]
    misnamed: list[str] = field(default_factory=list)


class Misfit(Exception):
    """The sample promised one size or no colour for all, and an image broke the promise."""


def choose_fit(
    files: Sequence[FaceFile],
    *,
    side_px: int | None,
    mode: str,
    channels: str,
    crop_faces: bool = False,
    every: bool = False,
) -> tuple[Fit, float]:
    """The stored size and channels, from a sample of the files, and the seconds that one file takes.

    Args:
        side_px: the largest side that is allowed; None: the images' own, 224 at most where they differ.
        every: look at every file, because the sample was wrong.
    """
    start = time.perf_counter()
    sample = files[:: max(1, len(files) // (_SAMPLE_OF_PHOTOGRAPHS if crop_faces else _SAMPLE))]
    found = [_look_piece((sample, crop_faces))]
    seconds = (time.perf_counter() - start) / max(len(sample), 1)
    if every:
        pieces = [(files[at : at + _SAMPLE], crop_faces) for at in range(0, len(files), _SAMPLE)]
        found = list(_in_order(_look_piece, pieces, workers=_workers(seconds * len(files))))
    sizes = [size for piece in found for size in piece[0]]
    gray = all(piece[1] for piece in found)
    if channels == "auto":
        channels = "gray" if gray else "rgb"
    side, native = _side(sizes, side_px, mode=mode)
    fit = Fit(side_px=side, mode=mode, channels=channels, native=native, crop_faces=crop_faces)
    return fit, seconds


def _side(sizes: list[tuple[int, int]], side_px: int | None, *, mode: str) -> tuple[int, bool]:
    """The stored side, and whether it is every image's own; images are never enlarged for the sake of `side_px`."""
    if not sizes:
        return side_px or 1, False
    if (
        len(set(sizes)) == 1
        and sizes[0][0] == sizes[0][1]
        and (side_px is None or sizes[0][0] <= side_px)
    ):
        return sizes[0][0], True
    own = [max(size) if mode == "letterbox" else min(size) for size in sizes]
    if side_px is None:
        return max(1, min(int(np.median(own)), _LARGEST_UNASKED_PX)), False
    return min(side_px, max(own)), False


def decode_all(
    files: Sequence[FaceFile],
    fit: Fit,
    *,
    any_colour: bool,
    keep_bytes: bool,
    seconds_each: float,
    done: Callable[[int], object],
) -> Iterator[Decoded]:
    """Decodes the files in order, on all cores where it pays.

    Args:
        any_colour: gray is wanted even from coloured images, so colour breaks no promise.
        keep_bytes: give the files' bytes with the facts, not the pixels; those of a face that was cut out as a PNG file.
        done: called with the number of files of each finished piece.
    Raises:
        Misfit: the promise that `fit` rests on is broken.
    """
    size = int(min(max(0.05 / max(seconds_each, 1e-6), 1), 512))
    pieces = [
        (files[at : at + size], fit, any_colour, keep_bytes) for at in range(0, len(files), size)
    ]
    results = _in_order(_decode_piece, pieces, workers=_workers(seconds_each * len(files)))
    for piece, decoded in zip(pieces, results, strict=True):
        done(len(piece[0]))
        yield decoded


def measure(images_BHWC: Images) -> tuple[Images, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Hashes uint8 [B, 16], sums and sums of squares int64 [B, 2, C], and whether all pixels are equal, bool [B]."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images_BHWC]
    batch, height, width, channels = images_BHWC.shape
    # adding rows to rows is what a processor does fast
    rows_BHR = images_BHWC.reshape(batch, height, width * channels)
    squares_BHR = np.square(rows_BHR, dtype=np.uint16)  # 255 squared fits
    sums_B2C = np.stack(
        [
            np.add.reduce(values_BHR, axis=1, dtype=np.uint32)
            .reshape(batch, width, channels)
            .sum(axis=1, dtype=np.int64)
            for values_BHR in (rows_BHR, squares_BHR)
        ],
        axis=1,
    )
    blank_B = (images_BHWC == images_BHWC[:, :1, :1, :1]).all(axis=(1, 2, 3))
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16), sums_B2C, blank_B


def refit(images_NHWC: Images, fit: Fit) -> Images:
    """Images that are decoded already, in the stored size and channels."""
    if images_NHWC.shape[1:] == (fit.side_px, fit.side_px, fit.depth):
        return images_NHWC
    flat = images_NHWC[..., 0] if images_NHWC.shape[-1] == 1 else images_NHWC
    return np.stack(
        [
            fit_image(Image.fromarray(image), fit.side_px, mode=fit.mode, channels=fit.channels)
            for image in flat
        ]
    )


def _look_piece(piece: tuple[Sequence[FaceFile], bool]) -> tuple[list[tuple[int, int]], bool]:
    """Sizes of the faces that can be read, and whether none of them has colour."""
    files, crop_faces = piece
    sizes, gray = [], True
    for file in files:
        with contextlib.suppress(DataError):
            image = _read_face(file, crop_faces=crop_faces)
            sizes.append(image.size)
            gray = gray and is_colourless(image)
    return sizes, gray


def _read_face(file: FaceFile, *, crop_faces: bool) -> Image.Image:
    """A face as it lies in its file: cut out of the picture where a box or `crop_faces` says so.

    Raises:
        DataError: the file can't be read, the box lies outside of the picture, or no face is found.
    """
    image = read_image(file.path)
    misnamed = image.info.get(MISNAMED)
    if file.box is not None:
        image = _cut(image, file)
    if crop_faces:
        image = _largest_face(image, file.path)
    image.info[MISNAMED] = misnamed
    return image


def _cut(image: Image.Image, file: FaceFile) -> Image.Image:
    assert file.box is not None
    left, top, right, bottom = file.box
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


_Piece = tuple[Sequence[FaceFile], Fit, bool, bool]


def _decode_piece(piece: _Piece) -> Decoded:
    files, fit, any_colour, keep_bytes = piece
    blobs: list[bytes] = []
    bad: list[str] = []
    misnamed: list[str] = []
    good_B = np.zeros(len(files), dtype=np.bool_)
    room_BHWC = np.empty((len(files), fit.side_px, fit.side_px, fit.depth), dtype=np.uint8)
    for place, file in enumerate(files):
        try:
            image = _read_face(file, crop_faces=fit.crop_faces)
            whole = file.box is None and not fit.crop_faces
            blob = read_file_bytes(file.path) if keep_bytes and whole else b""
        except DataError as error:
            bad.append(str(error))
            continue
        if fit.native and image.size != (fit.side_px, fit.side_px):
            raise Misfit
        if fit.channels == "gray" and not any_colour and not is_colourless(image):
            raise Misfit
        face_HWC = fit_image(image, fit.side_px, mode=fit.mode, channels=fit.channels)
        room_BHWC[len(blobs)] = face_HWC
        blobs.append(blob if whole or not keep_bytes else _png_bytes(face_HWC))
        if image.info.get(MISNAMED):
            misnamed.append(file.path)
        good_B[place] = True
    images_BHWC = room_BHWC[: len(blobs)]
    facts = measure(images_BHWC)
    return Decoded(
        good_B,
        images_BHWC[:0] if keep_bytes else images_BHWC,
        blobs if keep_bytes else [],
        *facts,
        bad,
        misnamed,
    )


def _png_bytes(face_HWC: Images) -> bytes:
    file = io.BytesIO()
    flat = face_HWC[..., 0] if face_HWC.shape[2] == 1 else face_HWC
    Image.fromarray(flat).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _workers(seconds: float) -> int:
    if seconds < _SERIAL_S:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _in_order(
    function: Callable[[_In], _Out], work: Iterable[_In], *, workers: int
) -> Iterator[_Out]:
    """`map` over processes (Pillow holds the interpreter's lock on small files, threads were slower than one).

    Only a few results wait at a time. Where no processes can be started, such as in a script that lacks its
    `if __name__ == "__main__":`, the work is done in this one.
    """
    if workers < 2:
        yield from map(function, work)
        return
    waiting: deque[tuple[_In, Future[_Out]]] = deque()
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_ignore_interrupt
    )
    try:
        for item in work:
            waiting.append((item, _submit(pool, function, item=item)))
            if len(waiting) >= 3 * workers:
                yield _result(*waiting.popleft(), function=function)
        while waiting:
            yield _result(*waiting.popleft(), function=function)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, function: Callable[[_In], _Out], *, item: _In
) -> "Future[_Out]":
    try:
        return pool.submit(function, item)
    except BrokenProcessPool as error:
        failed: Future[_Out] = Future()
        failed.set_exception(error)
        return failed


def _ignore_interrupt() -> None:
    # Ctrl-C goes to the whole group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _result(item: Any, future: "Future[_Out]", *, function: Callable[[Any], _Out]) -> _Out:
    try:
        return future.result()
    except BrokenProcessPool:
        return function(item)
