"""Analysis of pictures, videos and webcams: one row per face."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_ignite.apps.faces.annotated_output import AnnotatedOutput, VideoFile
from fer_ignite.apps.faces.drawing import draw_faces_on_image
from fer_ignite.apps.faces.face_reader import FaceReader, FaceReading
from fer_ignite.apps.faces.video import BATCH_BYTES, MOST_PICTURES, FrameResult, iter_video_results
from fer_ignite.apps.faces.video_source import VideoSource, is_video, is_webcam, open_video
from fer_ignite.data.images import fit_image, printable, read_image
from fer_ignite.errors import DataError
from fer_ignite.inference.photographs import FacePicker

__all__ = ["FaceRow", "iter_face_rows"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class FaceRow:
    """A row.

    Attributes:
        face: number of the face in its picture or frame, from 1, in reading order; 0: no face was found.
        time_s, track: of videos and webcams: seconds from the start, and the number that a face keeps over time.
        error: why there is nothing, or no more.
    """

    file: str
    face: int = 0
    reading: FaceReading | None = None
    time_s: float | None = None
    track: int | None = None
    error: str | None = None


def iter_face_rows(
    sources: Iterable[str],
    reader: FaceReader,
    *,
    frame_stride: int = 1,
    smooth_seconds: float = 0.5,
    annotated_output: AnnotatedOutput | None = None,
    picker: FacePicker | None = None,
) -> Iterator[FaceRow]:
    """The faces in each source, in the sources' order.

    Args:
        sources: image files, video files, ``webcam:N``.
        frame_stride, smooth_seconds: of videos and webcams, see :func:`fer_ignite.apps.faces.video.iter_video_results`.
        annotated_output: where annotated pictures and videos go.
        picker: finds the faces of pictures, and takes face crops as they are; None: the reader's detector searches in all.
    Yields:
        A row per face; one with ``face`` 0 for a picture, or a whole video, without any; one with ``error`` for what
        can't be read, which doesn't stop the rest.
    Raises:
        ConfigError: there is no such camera.
        StorageError: the annotated output can't be written.
    """
    read = functools.partial(
        _read_pictures, reader=reader, annotated_output=annotated_output, picker=picker
    )
    waiting: list[tuple[str, Picture | DataError]] = []
    for source in sources:
        if is_webcam(source) or is_video(source):
            # The pictures before it come first: rows stand in the sources' order.
            yield from read(waiting)
            waiting = []
            yield from _video(
                source,
                reader,
                frame_stride=frame_stride,
                smooth_seconds=smooth_seconds,
                annotated_output=annotated_output,
            )
            continue
        waiting.append((source, _picture(source)))
        pixels = sum(picture.nbytes for _, picture in waiting if not isinstance(picture, DataError))
        if len(waiting) == MOST_PICTURES or pixels > BATCH_BYTES:
            yield from read(waiting)
            waiting = []
    yield from read(waiting)


def _picture(source: str) -> Picture | DataError:
    try:
        return fit_image(read_image(source), None, mode="squash", channels="rgb")
    except DataError as error:
        return error


def _read_pictures(
    pictures: list[tuple[str, Picture | DataError]],
    *,
    reader: FaceReader,
    annotated_output: AnnotatedOutput | None,
    picker: FacePicker | None,
) -> Iterator[FaceRow]:
    sound = [(name, picture) for name, picture in pictures if not isinstance(picture, DataError)]
    images_HW3 = [picture for _, picture in sound]
    if picker is not None:
        found = [picker.find(name, Image.fromarray(image_HW3)) for name, image_HW3 in sound]
        readings = iter(reader.read_boxes(images_HW3, found))
    else:
        readings = iter(reader.read(images_HW3) if sound else ())
    for source, picture in pictures:
        if isinstance(picture, DataError):
            yield FaceRow(source, error=str(picture))
            continue
        faces = next(readings)
        if annotated_output is not None:
            annotated_output.write_picture(source, draw_faces_on_image(picture, faces))
        if not faces:
            yield FaceRow(source)
        for number, reading in enumerate(faces, 1):
            yield FaceRow(source, number, reading)


def _video(
    source: str,
    reader: FaceReader,
    *,
    frame_stride: int,
    smooth_seconds: float,
    annotated_output: AnnotatedOutput | None,
) -> Iterator[FaceRow]:
    try:
        video_source = open_video(source)
    except DataError as error:
        yield FaceRow(source, error=str(error))
        return
    watched = iter_video_results(
        video_source,
        reader,
        frame_stride=frame_stride,
        smooth_seconds=smooth_seconds,
        all_pixels=annotated_output is not None,
    )
    if annotated_output is None:
        yield from _rows(video_source, watched)
    else:
        with annotated_output.begin_video(video_source) as file:
            yield from _rows(video_source, _drawn(watched, file))


def _drawn(watched: Iterable[FrameResult], file: VideoFile) -> Iterator[FrameResult]:
    for seen in watched:
        if seen.frame.image_HW3 is not None:
            readings, tracks = (
                [face.reading for face in seen.faces],
                [face.track for face in seen.faces],
            )
            file.write(draw_faces_on_image(seen.frame.image_HW3, readings, tracks=tracks))
        yield seen


def _rows(video_source: VideoSource, watched: Iterable[FrameResult]) -> Iterator[FaceRow]:
    frames, found, last_s = 0, False, 0.0
    for seen in watched:
        frames, last_s = frames + 1, seen.frame.time_s
        # Between two looks faces are those of the look before: drawn, but no rows.
        for number, face in enumerate(seen.faces if seen.looked else (), 1):
            found = True
            yield FaceRow(video_source.name, number, face.reading, last_s, face.track)
    error = _cut_off(video_source, frames, last_s=last_s)
    if error is not None or not found:
        yield FaceRow(video_source.name, error=error)


def _cut_off(video_source: VideoSource, frames: int, *, last_s: float) -> str | None:
    """The error of a file that ends early; a tenth is allowed, as some containers only guess their length."""
    name = printable(video_source.name)
    if frames == 0:
        return f"{name}: broken; no frame of it can be read."
    if not video_source.live and frames < 0.9 * video_source.count:
        return f"{name}: broken after {last_s:.1f} s; {frames} of {video_source.count} frames could be read."
    return None
