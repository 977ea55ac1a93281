"""Local copies of shards: read in place from a folder, else downloaded once per machine and bounded in size.

The processes of one machine share the copies. A file lock per shard lets one of them download it. Before each download the
shards that were used longest ago are removed until the new one fits.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.data.images import printable
from fer_ignite.data.shards.remote import fetch, file_url
from fer_ignite.errors import DataError, StorageError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DEFAULT_LIMIT_BYTES", "SHARDS_UNDER_WAY", "ShardCache", "file_sha256"]

DEFAULT_LIMIT_BYTES = 20 * 10**9
# Room for downloads at a time, beside the shards that are in use.
SHARDS_UNDER_WAY = 4
# A download writes all the time; a file unchanged for an hour was left by a killed process.
_STALE_S = 3600.0


class ShardCache:
    """The shards of one data set as files.

    Args:
        folder: where they lie, or where copies are kept.
        url: where they are downloaded from; None: they lie in ``folder``.
        shards: ``name``, ``bytes`` and ``sha256`` of each.
        limit_bytes: size of all copies together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        url: str | None,
        shards: Sequence[Mapping[str, Any]],
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        self.folder, self.url, self.shards = folder, url, shards
        self.limit_bytes = limit_bytes
        self._local_locks = [threading.Lock() for _ in shards]
        self._failed: dict[int, StorageError] = {}

    @property
    def largest_bytes(self) -> int:
        """Size of the largest shard."""
        return max((int(shard["bytes"]) for shard in self.shards), default=1)

    @property
    def capacity(self) -> int:
        """How many shards of the largest size the copies have room for."""
        return self.limit_bytes // self.largest_bytes

    @contextlib.contextmanager
    def open(self, number: int) -> Iterator[int]:
        """File descriptor of a shard, downloaded first where it is missing.

        Raises:
            DataError: a local shard is missing or has another size.
            StorageError: it can't be downloaded.
        """
        handle = self._open_local(number) if self.url is None else self._open_copy(number)
        try:
            # A descriptor, not a path: another process may remove the copy meanwhile, and what is
            # open stays readable.
            yield handle
        finally:
            os.close(handle)

    def has(self, number: int) -> bool:
        """Whether a shard can be opened without a download."""
        return self.url is None or self.path(number).exists()

    def path(self, number: int) -> Path:
        """Where a shard lies, or would."""
        return self.folder / str(self.shards[number]["name"])

    def discard(self, number: int) -> None:
        """Removes the copy of a shard, if it may be removed; the next ``open`` downloads it again."""
        assert self.url is not None
        with contextlib.suppress(OSError):
            self.path(number).unlink()

    def _open_local(self, number: int) -> int:
        path, wanted = self.path(number), self.shards[number]["bytes"]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"shard {printable(path)}: can't be opened ({error.strerror}); copy it again, or write the shards again with "
                "fer-ignite pack."
            ) from None
        found = os.fstat(handle).st_size
        if found != wanted:
            os.close(handle)
            raise DataError(
                f"shard {printable(path)}: {found} bytes, the index says {wanted}; copy it again."
            )
        return handle

    def _open_copy(self, number: int) -> int:
        path = self.path(number)
        # Another process may remove the copy between the download and the opening.
        for _ in range(10):
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY)
                with contextlib.suppress(OSError):  # another user's file keeps its time
                    os.utime(handle)  # used now: the eviction goes by it
                return handle
            self._download(number)
        raise StorageError(
            f"the copies of shards in {printable(self.folder)} are removed faster than they are read; raise --shard-cache-gb."
        )

    def _download(self, number: int) -> None:
        assert self.url is not None
        shard, path = self.shards[number], self.path(number)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            with self._local_locks[number], _file_lock(path.with_suffix(".lock")):
                # Another process has downloaded it while this one waited for the lock.
                if path.exists():
                    return
                if number in self._failed:  # its tries took half a minute: no second round of them
                    raise self._failed[number]
                self._make_room(int(shard["bytes"]), reserved=temporary)
                fetch(
                    file_url(self.url, f"{self.folder.name}/{shard['name']}"),
                    path,
                    check=lambda file: _difference(file, shard),
                    temporary=temporary,
                )
        except StorageError as error:
            self._failed[number] = error
            raise
        except OSError as error:
            raise StorageError(
                f"shard {printable(path)} can't be stored ({error.strerror or error}); make room, or set --cache or --shard-cache-gb."
            ) from None

    def _make_room(self, size: int, *, reserved: Path) -> None:
        """Removes copies until another one fits, and makes the file that counts for it while it is written."""
        with _file_lock(self.folder / "evict.lock"):
            copies = sorted(self._copies())
            total = size + sum(copy[1] for copy in copies) + self._reserved_bytes()
            for _, bytes_of, file in copies:
                if total <= self.limit_bytes:
                    break
                file.unlink(missing_ok=True)
                total -= bytes_of
            # Made under the lock: other processes count this download before its first byte.
            reserved.touch()

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        for file in self.folder.glob("*.tar"):
            with contextlib.suppress(OSError):
                status = file.stat()
                yield status.st_mtime_ns, status.st_size, file

    def _reserved_bytes(self) -> int:
        """Of the downloads under way; what a killed process left behind is removed."""
        sizes = {str(shard["name"]): int(shard["bytes"]) for shard in self.shards}
        total = 0
        for file in self.folder.glob(".*.tar-*"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _STALE_S:
                    file.unlink(missing_ok=True)
                else:
                    total += sizes.get(file.name[1:].rpartition("-")[0], 0)
        return total


def _difference(file: Path, shard: Mapping[str, Any]) -> str | None:
    found = file.stat().st_size
    if found != shard["bytes"]:
        return f"{found} bytes, the index says {shard['bytes']}"
    return None if file_sha256(file) == shard["sha256"] else "its checksum is not the index's"


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Held by one process of this machine at a time; a process that dies releases it."""
    # The lock file is never removed: two processes could then hold locks on two files of one name.
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
