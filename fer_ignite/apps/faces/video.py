"""Analysis of a video: every n-th frame in batches, with tracking and smoothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fer_ignite.apps.faces.face_reader import FaceReader
from fer_ignite.apps.faces.tracking import FaceTracker, TrackedFace
from fer_ignite.apps.faces.video_source import Frame, VideoSource

__all__ = ["FrameResult", "iter_video_results"]

# Pictures are read ahead for one pass of the networks: 16, or fewer where they are large.
BATCH_BYTES = 64 << 20
MOST_PICTURES = 16


@dataclass(frozen=True)
class FrameResult:
    """A frame, whether it was analysed, and its faces; between two analysed frames those of the earlier one."""

    frame: Frame
    looked: bool
    faces: list[TrackedFace]


def iter_video_results(
    video_source: VideoSource,
    reader: FaceReader,
    *,
    frame_stride: int = 1,
    smooth_seconds: float = 0.5,
    all_pixels: bool = False,
) -> Iterator[FrameResult]:
    """Every frame of a video or camera, in order.

    Args:
        frame_stride: 1 = each frame is analysed, 2 = every second one.
        smooth_seconds: see :class:`FaceTracker`.
        all_pixels: whether the frames between two analysed ones are needed too.
    """
    tracker = FaceTracker(smooth_seconds=smooth_seconds)
    frames = video_source.frames(lambda number: all_pixels or number % frame_stride == 0)
    faces: list[TrackedFace] = []
    for chunk in _chunks(
        frames,
        frame_stride,
        length=1
        if video_source.live
        else _chunk_length(video_source, frame_stride, all_pixels=all_pixels),
    ):
        pictures = [
            frame.image_HW3 for looked, frame in chunk if looked and frame.image_HW3 is not None
        ]
        # One list per decoded picture, in the chunk's order.
        readings = iter(reader.read(pictures) if pictures else ())
        for looked, frame in chunk:
            seen = looked and frame.image_HW3 is not None  # else the frame could not be decoded
            if seen:
                faces = tracker.update(frame.time_s, next(readings))
            yield FrameResult(frame, seen, faces)


def _chunk_length(video_source: VideoSource, frame_stride: int, *, all_pixels: bool) -> int:
    """Frames that are read before the networks run, within a bound on memory."""
    kept = max(1, BATCH_BYTES // (3 * video_source.width * video_source.height))
    looks = min(MOST_PICTURES, kept if not all_pixels else max(1, kept // frame_stride))
    return looks * frame_stride


def _chunks(
    frames: Iterable[Frame], frame_stride: int, *, length: int
) -> Iterator[list[tuple[bool, Frame]]]:
    chunk: list[tuple[bool, Frame]] = []
    for number, frame in enumerate(frames):
        chunk.append((number % frame_stride == 0, frame))
        if len(chunk) == length:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
