"""Removes what killed processes left in the cache: folders that were being built or downloaded."""

import contextlib
import shutil
import time
from pathlib import Path

__all__ = ["clear_stale"]

_STALE_S = 24 * 3600.0


def clear_stale(folder: Path, *patterns: str) -> None:
    """Removes the folders that match and in which nothing has changed for a day: longer than any build or download pauses.

    Args:
        patterns: below ``folder``, as `Path.glob` takes them.
    """
    for pattern in patterns:
        for leftover in folder.glob(pattern):
            # Another process may remove the same leftover at this moment.
            with contextlib.suppress(OSError):
                if time.time() - _last_change(leftover) > _STALE_S:
                    shutil.rmtree(leftover, ignore_errors=True)


def _last_change(folder: Path) -> float:
    # A long download changes files far below, which leaves the folder's own time as it was.
    return max(entry.lstat().st_mtime for entry in (folder, *folder.rglob("*")))
