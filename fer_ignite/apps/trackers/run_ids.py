"""Stored run ids: ``trackers.json`` in the run's folder; it holds no secrets."""

import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fer_ignite.checkpoint.atomic_io import write_json_durably

__all__ = ["RunIds", "without_password"]


class RunIds:
    """One entry per tracker: the record's ``id``, its ``place``, and ``reached``, the last iteration sent of each name.

    Args:
        path: the file; a damaged or missing one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            self._entries = {name: dict(entry) for name, entry in entries.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            pass

    def entry(self, name: str) -> dict[str, Any]:
        """What is known of the run's record in a tracker; empty where it has none."""
        return dict(self._entries.get(name, {}))

    def note(self, name: str, **facts: Any) -> None:
        """Adds to a tracker's entry, durably.

        Raises:
            StorageError: the file can't be written.
        """
        # Called by the main thread and by the upload queue's.
        with self._lock:
            self._entries[name] = {**self._entries.get(name, {}), **facts}
            write_json_durably(self.path, self._entries)

    def begin(self, name: str, **facts: Any) -> None:
        """A new record: what was known of an earlier one is forgotten, durably."""
        with self._lock:
            self._entries.pop(name, None)
        self.note(name, **facts)


def without_password(uri: str) -> str:
    """An address without user name, password and query, for files and messages."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
