"""Frames with times from video files, which are checked before decoding, and from webcams."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.faces.opencv import load_opencv
from fer_ignite.data.images import MAX_PIXELS, open_regular, printable
from fer_ignite.errors import ConfigError, DataError

__all__ = ["VIDEO_SUFFIXES", "Frame", "VideoSource", "is_video", "is_webcam", "open_video"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

_WEBCAM = "webcam:"
_USUAL_FPS = 25.0
_MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MATROSKA = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True)
class Frame:
    """One frame: seconds from the start, and uint8 [H, W, 3]; None where its pixels are not needed."""

    time_s: float
    image_HW3: NDArray[np.uint8] | None


@dataclass
class VideoSource:
    """An opened video or webcam.

    Attributes:
        count: frames according to the file; 0 where it is unknown.
        live: a camera, whose frames are processed without waiting for a full batch.
    """

    name: str
    capture: Any
    fps: float
    width: int
    height: int
    count: int
    live: bool

    def frames(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[Frame]:
        """The frames from the first to the last that can be read.

        Args:
            wanted: whether the pixels of the n-th frame (from 0) are needed; the others are not converted.
        """
        start, last_s, number = time.monotonic(), -1 / self.fps, 0
        try:
            # grab() and retrieve(), not read(): colours are converted only for frames that are wanted.
            while self.capture.grab():
                time_s = time.monotonic() - start if self.live else self._time_s(last_s)
                image = self._pixels() if wanted(number) else None
                yield Frame(time_s, image)
                last_s, number = time_s, number + 1
        finally:
            # Also where the caller stops early: a camera stays busy until it is released.
            self.capture.release()

    def _time_s(self, last_s: float) -> float:
        """The frame's own time stamp, if it continues from the last one; files of changing frame rates have no other clock."""
        # Checked below: stamps of damaged files stand still, go back or jump by hours.
        stamp_s = self.capture.get(load_opencv().CAP_PROP_POS_MSEC) / 1000
        return (
            stamp_s
            if math.isfinite(stamp_s) and last_s < stamp_s <= last_s + 60
            else last_s + 1 / self.fps
        )

    def _pixels(self) -> NDArray[np.uint8] | None:
        ok, image_HW3 = self.capture.retrieve()
        if not ok or image_HW3 is None or image_HW3.ndim != 3:
            return None
        # OpenCV gives blue first
        pixels_HW3: NDArray[np.uint8] = np.ascontiguousarray(image_HW3[..., ::-1])
        return pixels_HW3


def is_video(source: str) -> bool:
    """Whether the name is a video file's."""
    return os.path.splitext(source)[1].lower() in VIDEO_SUFFIXES


def is_webcam(source: str) -> bool:
    """Whether it is ``webcam:N``."""
    return source.startswith(_WEBCAM)


def open_video(source: str) -> VideoSource:
    """A video file, or ``webcam:0``.

    Raises:
        ConfigError: there is no such camera; OpenCV is not installed.
        DataError: the file can't be read as a video, or its pictures are larger than is read.
    """
    return _open_webcam(source) if is_webcam(source) else _open_video(source)


def _open_webcam(source: str) -> VideoSource:
    cv2 = load_opencv()
    number = source.removeprefix(_WEBCAM)
    if not number.isdecimal() or len(number) > 3:
        raise ConfigError(f"{printable(source)} names no camera; write webcam:0 for the first one.")
    capture = cv2.VideoCapture(int(number))
    if not capture.isOpened():
        raise ConfigError(
            f"{source}: there is no such camera, or another program holds it; plug it in or name another number."
        )
    return _describe_capture(source, capture, live=True)


def _open_video(path: str) -> VideoSource:
    _refuse_foreign(path)
    cv2 = load_opencv()
    try:
        # Only FFmpeg: other readers take "clip%02d.avi" for a series. An absolute path is never taken for a URL.
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    except (UnicodeEncodeError, cv2.error):
        raise DataError(
            f"{printable(path)}: its name can't be handed to the video library; rename it."
        ) from None
    if not capture.isOpened():
        raise DataError(
            f"{printable(path)}: broken or of an unknown kind; no video can be read in it."
        )
    video_source = _describe_capture(path, capture, live=False)
    if not 0 < video_source.width * video_source.height <= MAX_PIXELS:
        capture.release()
        size = f"{video_source.width} x {video_source.height}"
        raise DataError(
            f"{printable(path)}: frames of {size} pixels; at most {MAX_PIXELS} pixels are read, scale it down first."
        )
    return video_source


def _describe_capture(name: str, capture: Any, *, live: bool) -> VideoSource:
    cv2 = load_opencv()
    fps, width, height, count = (
        capture.get(code)
        for code in (
            cv2.CAP_PROP_FPS,
            cv2.CAP_PROP_FRAME_WIDTH,
            cv2.CAP_PROP_FRAME_HEIGHT,
            cv2.CAP_PROP_FRAME_COUNT,
        )
    )
    # Containers without a rate report 0, or the clock of their time stamps.
    known = math.isfinite(fps) and 0.1 <= fps <= 1000
    return VideoSource(
        name,
        capture,
        fps if known else _USUAL_FPS,
        int(width),
        int(height),
        int(count) if 0 < count < 1e9 else 0,
        live,
    )


def _refuse_foreign(path: str) -> None:
    """Checks the file's signature before it is decoded: FFmpeg would follow a playlist that is named .mp4."""
    handle = open_regular(path)
    try:
        head = os.read(handle, 12) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    except OSError as error:
        raise DataError(f"{printable(path)}: can't be read ({error.strerror}).") from None
    finally:
        os.close(handle)
    if not (
        head[4:8] in _MP4_ATOMS
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head[:4] == _MATROSKA
    ):
        raise DataError(
            f"{printable(path)}: no video; read are MP4 (.mp4 .m4v .mov), AVI and Matroska (.mkv .webm)."
        )
