"""Import of OpenCV: quiet, local files only, with the configured number of threads."""

import os
from typing import Any

from fer_ignite.imports import optional_library

__all__ = ["load_opencv"]

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
    cv2 = optional_library(
        "cv2", extra="faces", purpose="finding faces", package="opencv-python-headless"
    )
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if requested.isdecimal() and int(requested) > 0:  # OpenCV's own threads don't look there
        cv2.setNumThreads(int(requested))
    return cv2
