"""Watching a video: every n-th frame is looked at, in batches; faces are followed and their probabilities smoothed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fer_ignite.apps.faces.face_reader import PhotoReader
from fer_ignite.apps.faces.tracking import FaceTracker, TrackedFace
from fer_ignite.apps.faces.video_source import Footage, Frame

__all__ = ["Watched", "watch"]

_BATCH_BYTES = 64 << 20
_MOST_LOOKS = 16


@dataclass(frozen=True)
class Watched:
    """A frame, whether it was looked at, and its faces; between two looks those of the look before."""

    frame: Frame
    looked: bool
    faces: list[TrackedFace]


def watch(
    footage: Footage,
    reader: PhotoReader,
    *,
    every: int = 1,
    smooth_s: float = 0.5,
    all_pixels: bool = False,
) -> Iterator[Watched]:
    """Every frame of a video or camera, in order.

    Args:
        every: 1 = each frame is looked at, 2 = every second one.
        smooth_s: see :class:`FaceTracker`.
        all_pixels: whether the frames between two looks are needed too.
    """
    tracker = FaceTracker(smooth_s=smooth_s)
    frames = footage.frames(lambda number: all_pixels or number % every == 0)
    faces: list[TrackedFace] = []
    for chunk in _chunks(
        frames, every, 1 if footage.live else _chunk_length(footage, every, all_pixels)
    ):
        pictures = [
            frame.image_HW3 for looked, frame in chunk if looked and frame.image_HW3 is not None
        ]
        readings = iter(reader.read(pictures) if pictures else ())
        for looked, frame in chunk:
            seen = looked and frame.image_HW3 is not None  # else the frame could not be decoded
            if seen:
                faces = tracker.update(frame.time_s, next(readings))
            yield Watched(frame, seen, faces)


def _chunk_length(footage: Footage, every: int, all_pixels: bool) -> int:
    """Frames that are read before the networks are asked: some looks, within a bound on memory."""
    kept = max(1, _BATCH_BYTES // (3 * footage.width * footage.height))
    looks = min(_MOST_LOOKS, kept if not all_pixels else max(1, kept // every))
    return looks * every


def _chunks(frames: Iterable[Frame], every: int, length: int) -> Iterator[list[tuple[bool, Frame]]]:
    chunk: list[tuple[bool, Frame]] = []
    for number, frame in enumerate(frames):
        chunk.append((number % every == 0, frame))
        if len(chunk) == length:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
