"""OpenCV, imported when it is asked for: quiet, reading nothing but files, with as many threads as were wished for."""

import importlib
import os
from typing import Any

from fer_ignite.errors import ConfigError

__all__ = ["faces_library", "load_opencv"]

# Read when the library is imported or opens its first video.
_SETTINGS = {
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",  # a video can name others, also on the network
}


def load_opencv() -> Any:
    """The module cv2.

    Raises:
        ConfigError: it is not installed; the sentence says what to install.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    cv2 = faces_library("cv2", package="opencv-python-headless")
    wished = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wished.isdecimal() and int(wished) > 0:  # OpenCV's own threads don't look there
        cv2.setNumThreads(int(wished))
    return cv2


def faces_library(name: str, *, package: str) -> Any:
    """The module ``name`` of the extra ``faces``.

    Args:
        package: what its distribution is called.
    Raises:
        ConfigError: it is not installed; the sentence says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name:
            raise
        raise ConfigError(f'faces in pictures need {package}, which is not installed: pip install "fer-ignite[faces]".') from None
