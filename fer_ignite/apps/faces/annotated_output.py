"""Annotated pictures and videos in a folder; sources are never overwritten."""

# Dimensions: H W pixels, 3 channels (RGB).

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_ignite.apps.faces.opencv import load_opencv
from fer_ignite.apps.faces.video_source import VideoSource
from fer_ignite.checkpoint.atomic_io import shown, storage_errors, write_durably
from fer_ignite.errors import ConfigError, StorageError

__all__ = ["AnnotatedOutput", "VideoFile"]

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_LONGEST_STEM_BYTES = 200  # file systems end at 255


class AnnotatedOutput:
    """A folder for annotated pictures and videos: ``a.jpg`` becomes ``a.faces.jpg``, a second ``a.jpg`` ``a.faces-2.jpg``.

    Args:
        sources: files that are never replaced, besides the one that is annotated.
    Raises:
        ConfigError: the folder can't be made or written.
    """

    def __init__(self, folder: str | Path, *, sources: Iterable[str] = ()) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--save-annotated: {shown(folder)} can't be made ({error.strerror}); name a folder."
            ) from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"--save-annotated: {shown(folder)} is not yours to write; name another folder."
            )
        self._given: set[str] = set()
        self._sources = {found for source in sources if (found := _identity(source)) is not None}

    def write_picture(self, source: str, image_HW3: NDArray[np.uint8]) -> Path:
        """A JPEG where the source is one, else a PNG; replaces an earlier one of the same name.

        Raises:
            StorageError: it can't be written.
        """
        jpeg = os.path.splitext(source)[1].lower() in _JPEG
        path = self._place(source, ".jpg" if jpeg else ".png")
        image = Image.fromarray(image_HW3)
        # PNG has no quality and ignores it
        write_durably(path, lambda file: image.save(file, "JPEG" if jpeg else "PNG", quality=92))
        return path

    def begin_video(self, video_source: VideoSource) -> VideoFile:
        """An MP4 file (MPEG-4 part 2, which needs no other codec) with the source's size and mean frame rate.

        Raises:
            StorageError: it can't be written.
        """
        return VideoFile(self._place(video_source.name.replace(":", "-"), ".mp4"), video_source)

    def _place(self, source: str, suffix: str) -> Path:
        # Cut in bytes, the unit of the limit; half a character survives fsdecode and fsencode as surrogates.
        stem = os.fsdecode(os.fsencode(Path(source).stem)[:_LONGEST_STEM_BYTES]) + ".faces"
        number, name = 1, stem + suffix
        kept = self._sources | {_identity(source)}
        while name in self._given or _identity(self.folder / name) in kept - {None}:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._given.add(name)
        return self.folder / name


class VideoFile:
    """A video that is written frame by frame; a context manager, so that what was written is playable after an error.

    Raises:
        StorageError: it can't be written.
    """

    def __init__(self, path: Path, video_source: VideoSource) -> None:
        self.path, self.size = path, (video_source.width, video_source.height)
        self._cv2 = cv2 = load_opencv()
        with storage_errors(path):
            # VideoWriter reports no reason of a failure; this raises it.
            path.touch()
        try:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer: Any = cv2.VideoWriter(
                str(path), cv2.CAP_FFMPEG, code, video_source.fps, self.size
            )
        except (UnicodeEncodeError, cv2.error):
            self._writer = None
        if self._writer is None or not self._writer.isOpened():
            path.unlink(missing_ok=True)
            raise StorageError(
                f"{shown(path)} can't be written: no video of {self.size[0]} x {self.size[1]} pixels can be made there."
            )

    def __enter__(self) -> VideoFile:
        return self

    def write(self, image_HW3: NDArray[np.uint8]) -> None:
        """The next frame."""
        if image_HW3.shape[1::-1] != self.size:
            image_HW3 = self._cv2.resize(image_HW3, self.size)
        # OpenCV takes blue first, and no array of negative strides.
        self._writer.write(np.ascontiguousarray(image_HW3[..., ::-1]))

    def __exit__(self, kind: Any, *_: object) -> None:
        self._writer.release()
        if kind is None and not self.path.stat().st_size:
            # OpenCV reports no error on a full disk; the header that it writes at the end is missing then.
            raise StorageError(
                f"{shown(self.path)} can't be written: the disk is full, or the folder takes no more."
            )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode, equal for all names of a file; None where there is none, as of a webcam."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
