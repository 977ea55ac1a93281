"""Parallel image decoding, and the stored size that fits all images."""

# Dimensions: N images in all, B images of one piece of work, H W pixels, C channels.

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.data.cache.face_files import Face, FaceFile, read_face
from fer_ignite.data.cache.pixel_facts import measure
from fer_ignite.data.cache.plain_files import warm_decoders
from fer_ignite.data.cache.pool import WorkerPool, usable_cores
from fer_ignite.data.cache.slots import PixelSlots
from fer_ignite.data.images import fit_image, png_bytes
from fer_ignite.errors import DataError

__all__ = [
    "Decoded",
    "Fit",
    "Misfit",
    "choose_fit",
    "choose_side",
    "decode_all",
    "refit",
    "seconds_per_file",
    "start_pool",
]

# Files that decide the stored side and colour, and are decoded once more for it.
_SAMPLE = 256
_SAMPLE_OF_PHOTOGRAPHS = 16  # the search for faces takes up to half a second each
_TIMED = 16
_TIMED_PHOTOGRAPHS = 2
_SERIAL_S = 0.5  # processes need a quarter of a second to start: less work than this is done in one
# Time of one piece of work: short, so that all processes end at about the same time.
_PIECE_S = 0.05
# Half a megabyte stays in the processor's cache while it is hashed, added up and written.
_CACHED_BYTES = 1 << 19
_LARGEST_UNASKED_PX = 224

Images = npt.NDArray[np.uint8]


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
        images_BHWC: uint8; empty where they are written already, or `blobs` has the files' bytes instead.
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


def seconds_per_file(files: Sequence[FaceFile], *, crop_faces: bool = False) -> float:
    """The time that reading one file takes, from a few of them."""
    few = files[:: max(1, len(files) // (_TIMED_PHOTOGRAPHS if crop_faces else _TIMED))]
    _look_piece((few[:1], crop_faces))  # the first image of a process loads the decoders
    start = time.perf_counter()
    _look_piece((few, crop_faces))
    return (time.perf_counter() - start) / max(len(few), 1)


def start_pool(seconds: float) -> WorkerPool:
    """Processes for so much work in seconds of one core; only this one where more don't pay."""
    return WorkerPool(1 if seconds < _SERIAL_S else usable_cores(), warm=warm_decoders)


def choose_fit(
    files: Sequence[FaceFile],
    *,
    side_px: int | None,
    mode: str,
    channels: str,
    pool: WorkerPool,
    crop_faces: bool = False,
    every: bool = False,
) -> Fit:
    """The stored size and channels, from a sample of the files.

    Args:
        side_px: the largest side that is allowed; None: the images' own, 224 at most where they differ.
        every: look at every file, because the sample was wrong.
    """
    # Spread over the whole list: the first files lie in one class folder and may be alike.
    sample = files[:: max(1, len(files) // (_SAMPLE_OF_PHOTOGRAPHS if crop_faces else _SAMPLE))]
    if every:
        pieces = [(files[at : at + _SAMPLE], crop_faces) for at in range(0, len(files), _SAMPLE)]
        found = list(pool.map(_look_piece, pieces))
    else:
        found = [_look_piece((sample, crop_faces))]
    sizes = [size for piece in found for size in piece[0]]
    gray = all(piece[1] for piece in found)
    if channels == "auto":
        channels = "gray" if gray else "rgb"
    side, native = choose_side(sizes, side_px, mode=mode)
    return Fit(side_px=side, mode=mode, channels=channels, native=native, crop_faces=crop_faces)


def choose_side(
    sizes: Sequence[tuple[int, int]], side_px: int | None, *, mode: str
) -> tuple[int, bool]:
    """The stored side, and whether it is every image's own; images are never enlarged for the sake of `side_px`."""
    if not sizes:
        return side_px or 1, False
    if (
        len(set(sizes)) == 1
        and sizes[0][0] == sizes[0][1]
        and (side_px is None or sizes[0][0] <= side_px)
    ):
        return sizes[0][0], True
    # Then no picture is enlarged: letterbox scales the longer side to it, crop the shorter one.
    own = [max(size) if mode == "letterbox" else min(size) for size in sizes]
    if side_px is None:
        return max(1, min(int(np.median(own)), _LARGEST_UNASKED_PX)), False
    return min(side_px, max(own)), False


def decode_all(
    files: Sequence[FaceFile],
    fit: Fit,
    *,
    any_colour: bool,
    slots: PixelSlots | None,
    seconds_each: float,
    pool: WorkerPool,
    done: Callable[[int], object],
) -> Iterator[Decoded]:
    """Decodes the files in order, on all cores where it pays.

    Args:
        any_colour: gray is wanted even from coloured images, so colour breaks no promise.
        slots: where the pixels are written; None: the files' bytes come with the facts in place of pixels, those of a
            face that was cut out as a PNG file.
        done: called with the number of files of each finished piece.
    Raises:
        Misfit: the promise that `fit` rests on is broken.
        OSError: the pixels can't be written.
    """
    size = int(min(max(_PIECE_S / max(seconds_each, 1e-6), 1), 512))
    pieces = [
        _Piece(files[at : at + size], at, fit, any_colour, slots)
        for at in range(0, len(files), size)
    ]
    for piece, decoded in zip(pieces, pool.map(_decode_piece, pieces), strict=True):
        done(len(piece.files))
        yield decoded


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
    """Sizes (width, height) of the faces that can be read, and whether none of them has colour."""
    files, crop_faces = piece
    sizes, gray = [], True
    for file in files:
        # A bad file is reported when it is decoded for the cache, beside all others.
        with contextlib.suppress(DataError):
            face = read_face(file, crop_faces=crop_faces)
            sizes.append(face.size)
            gray = gray and face.is_colourless()
    return sizes, gray


class _Piece(NamedTuple):
    """A piece of work: files from number `at` on, and what becomes of them."""

    files: Sequence[FaceFile]
    at: int
    fit: Fit
    any_colour: bool
    slots: PixelSlots | None


def _decode_piece(piece: _Piece) -> Decoded:
    files, fit = piece.files, piece.fit
    batches = _Batches(piece)
    bad: list[str] = []
    misnamed: list[str] = []
    good_B = np.zeros(len(files), dtype=np.bool_)
    for place, file in enumerate(files):
        out_HWC = batches.next_slot()
        try:
            face = read_face(file, crop_faces=fit.crop_faces, out=out_HWC)
        # A JPEG that failed half-way may have left pixels in the slot; the next image overwrites
        # them.
        except DataError as error:
            bad.append(str(error))
            continue
        # At each image: one colour picture, stored as gray, would lose its colour without a word.
        _check_promise(face, fit, any_colour=piece.any_colour)
        # Identity, not equality: a JPEG of the stored size was decoded into the slot itself.
        if face.pixels is not out_HWC:
            out_HWC[:] = _fitted(face, fit)
        whole = file.box is None and not fit.crop_faces
        batches.add(b"" if piece.slots else face.data if whole else png_bytes(out_HWC))
        if face.misnamed:
            misnamed.append(file.path)
        good_B[place] = True
    return batches.finish(good_B, bad=bad, misnamed=misnamed)


class _Batches:
    """The images of a piece in batches that stay in the processor's cache until they are measured and written."""

    def __init__(self, piece: _Piece) -> None:
        self._piece, fit = piece, piece.fit
        count = _CACHED_BYTES // (fit.side_px**2 * fit.depth)
        count = max(1, min(count, len(piece.files)))
        self._room_BHWC = np.empty((count, fit.side_px, fit.side_px, fit.depth), dtype=np.uint8)
        self._filled = self._written = 0
        self._blobs: list[bytes] = []
        # Facts of no images give the result its dtypes and shapes where no image is good.
        self._facts = [measure(self._room_BHWC[:0])]

    def next_slot(self) -> Images:
        """Where the next image belongs; it counts once it is added."""
        if self._filled == len(self._room_BHWC):
            self._flush()
        slot_HWC: Images = self._room_BHWC[self._filled]
        return slot_HWC

    def add(self, blob: bytes) -> None:
        """Counts the image in the slot; `blob`: its file's bytes, where they are kept in place of pixels."""
        self._filled += 1
        if self._piece.slots is None:
            self._blobs.append(blob)

    def _flush(self) -> None:
        images_BHWC = self._room_BHWC[: self._filled]
        self._facts.append(measure(images_BHWC))
        if self._piece.slots is not None:
            self._piece.slots.write(images_BHWC, at=self._piece.at + self._written)
        self._written += self._filled
        self._filled = 0

    def finish(
        self, good_B: npt.NDArray[np.bool_], *, bad: list[str], misnamed: list[str]
    ) -> Decoded:
        self._flush()
        digests_B16, sums_B2C, blank_B = (
            np.concatenate(parts) for parts in zip(*self._facts, strict=True)
        )
        return Decoded(
            good_B, self._room_BHWC[:0], self._blobs, digests_B16, sums_B2C, blank_B, bad, misnamed
        )


def _check_promise(face: Face, fit: Fit, *, any_colour: bool) -> None:
    if fit.native and face.size != (fit.side_px, fit.side_px):
        raise Misfit
    if fit.channels == "gray" and not any_colour and not face.is_colourless():
        raise Misfit


def _fitted(face: Face, fit: Fit) -> Images:
    stored = (fit.side_px, fit.side_px, fit.depth)
    if not isinstance(face.pixels, Image.Image) and face.pixels.shape == stored:
        return face.pixels
    return fit_image(face.image, fit.side_px, mode=fit.mode, channels=fit.channels)
