"""Atomic, durable file writes.

The new content goes to a temporary file in the same folder, is synced, renamed over the old, and the folder is synced:
a crash or a full disk at any moment leaves the old file or the new one, and at worst a temporary file, which
``clean_temporary`` removes at the next start. ``write_output`` is for files that the user names, which may be links, pipes or devices.
"""

import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fer_ignite.errors import StorageError

__all__ = [
    "clean_temporary",
    "is_special_file",
    "is_storage_failure",
    "publish_alias",
    "read_json_object",
    "shown",
    "storage_errors",
    "sync_folder",
    "write_durably",
    "write_json_durably",
    "write_output",
    "write_text_durably",
]

# Exactly the names of _temporary_beside: no other temporary file is ever removed.
_TEMPORARY = re.compile(r"\.fer-[0-9a-f]{8}\.tmp")
_BUFFER_BYTES = 1 << 20
_MOST_LINKS = 40  # as Linux follows
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

Reached = Callable[[str], None]

_DEVICE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EROFS", "EDQUOT", "EFBIG", "ENODEV", "ENXIO", "ESTALE")
    if hasattr(errno, name)
)
# The system refuses a new file in the folder, or a rename onto a file that is mounted by itself; the file may be writable.
_RENAME_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})


def is_storage_failure(error: OSError) -> bool:
    """Whether an OSError says that a disk is full, read-only, over its quota, gone or broken."""
    return error.errno in _DEVICE_ERRORS


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one printable line, also where its name holds newlines or bytes that are no text."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError with the path and the system's own words."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{shown(path)} can't be written: {error.strerror or error}. "
            "What was there before is unchanged; make room or mend the folder."
        ) from error


def write_durably(
    path: str | os.PathLike[str],
    content: bytes | Callable[[BinaryIO], object],
    *,
    reached: Reached = lambda _: None,
    named: str | os.PathLike[str] | None = None,
) -> None:
    """Replace the file, or create it, in one step that survives a crash.

    Args:
        path: in a folder that exists; the new file's mode follows the umask.
        content: the bytes, or a function that writes them to the open file it is given.
        named: the path that an error names, where the file is a draft of that one.
        reached: called with the name of each point passed (``fer_ignite.checkpoint.failpoints.SAVE_POINTS``).
    Raises:
        StorageError: the system refused; the temporary file is removed and the old file stays.
    """
    path = Path(path)
    with storage_errors(named or path):
        _refuse_special_file(path)
        reached("before-open")
        with _temporary_beside(path) as temporary:
            # 0o666 less the umask, as for any file that a program creates; O_EXCL follows no link that waits there.
            with os.fdopen(
                os.open(temporary, _CREATE, 0o666), "wb", buffering=_BUFFER_BYTES
            ) as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                # flush hands Python's buffer to the kernel, fsync the kernel's to the disk. Without
                # fsync the rename may survive a power loss that the data does not.
                file.flush()
                reached("after-write")
                os.fsync(file.fileno())
            reached("after-fsync")
            # After the file is closed: Windows can't rename an open one.
            os.replace(temporary, path)
        reached("after-rename")
        # The rename is an entry of the folder, and durable only when the folder is synced.
        sync_folder(path.parent)
        reached("after-dirsync")


def write_output(
    path: str | os.PathLike[str], content: str | bytes | Callable[[BinaryIO], object]
) -> None:
    """Write a file that the user named, through links and into pipes and devices.

    A regular file is replaced as by ``write_durably``, and a link's file where it is. Written in place, without protection
    from a crash, are special files (see ``is_special_file``) and a writable file in a folder that is not.

    Args:
        content: text (UTF-8), bytes, or a function that writes to the open file it is given; it may be called twice.
    Raises:
        StorageError: the system refused.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    if not is_special_file(path):
        try:
            write_durably(os.path.realpath(path), content, named=path)
            return
        except StorageError as error:
            refused = getattr(error.__cause__, "errno", None) in _RENAME_ERRORS
            if not (refused and os.path.isfile(path) and os.access(path, os.W_OK)):
                raise
    _write_in_place(path, content)


def write_text_durably(path: str | os.PathLike[str], text: str) -> None:
    """``write_durably`` for text, as UTF-8; bytes that a path's name smuggled in are written as they came."""
    write_durably(path, text.encode("utf-8", "surrogateescape"))


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no such file, or where it holds something else."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json_durably(path: str | os.PathLike[str], value: Any) -> None:
    """``write_durably`` for a value as indented JSON; ASCII only, so that odd names survive any reader."""
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode("ascii"))


def publish_alias(source: Path, alias: Path) -> None:
    """Give a durable file a second name, replacing that name's old file in one step.

    A hard link costs no space; where the file system has none, the bytes are copied as durably.
    """
    with storage_errors(alias), _temporary_beside(alias) as temporary:
        try:
            # os.link replaces no file; removing the alias first leaves a moment without it.
            os.link(source, temporary)
        except OSError:
            with source.open("rb") as content:
                write_durably(alias, lambda file: shutil.copyfileobj(content, file, _BUFFER_BYTES))
        else:
            os.replace(temporary, alias)
            sync_folder(alias.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable; where a system syncs no folders (Windows, some network drives) do nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def clean_temporary(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what an interrupted write left behind; to be called while the folder's lock is held.

    Returns:
        The removed files; empty where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    with storage_errors(folder):
        stale = sorted(entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name))
        for entry in stale:
            entry.unlink(missing_ok=True)
    return stale


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """An unused name, and nothing left under it. Random: two writers must never meet in one file."""
    # In the same folder: a rename is atomic within one file system only.
    temporary = path.parent / f".fer-{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
    finally:
        # Also after success: renaming onto a link of the same file does nothing and leaves both names (POSIX).
        with contextlib.suppress(OSError):
            temporary.unlink()


def is_special_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is no regular file or folder: a pipe, a device, or a descriptor (/dev/stdout, /dev/fd/N) of any file."""
    other = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    return other or _descriptor_path(path) is not None


def _descriptor_path(path: str | os.PathLike[str]) -> str | None:
    """The entry of an open file in /proc or /dev/fd that a path, or a link on its way, names; None where there is none."""
    # Link by link: realpath would show the file behind the descriptor.
    place = os.path.join(os.getcwd(), os.fspath(path))
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(place)
        place = os.path.join(os.path.realpath(folder), name)
        if place.startswith(("/proc/", "/dev/fd/")):
            return place
        if not os.path.islink(place):
            return None
        place = os.path.join(os.path.dirname(place), os.readlink(place))
    return None


def _write_in_place(
    path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]
) -> None:
    # All bytes first: a pipe can't seek, as some formats do, and a content that fails leaves the old file.
    buffer = io.BytesIO()
    if callable(content):
        content(buffer)
    else:
        buffer.write(content)
    with storage_errors(path):
        file = _open_in_place(path)
    try:
        with file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise StorageError(
            f"{shown(path)} can't be written: {error.strerror or error}. It may hold a part; make room or name another "
            "file, and give the command again."
        ) from error


def _open_in_place(path: str | os.PathLike[str]) -> BinaryIO:
    own = re.fullmatch(rf"(?:/proc/{os.getpid()}|/dev)/fd/(\d+)", _descriptor_path(path) or "")
    if own is None:
        return open(path, "wb")
    # Opened again, a file that standard output is sent to would lose the lines that it has.
    if sys.stdout is not None:
        sys.stdout.flush()
    return os.fdopen(os.dup(int(own[1])), "wb")


def _refuse_special_file(path: Path) -> None:
    # Renaming over /dev/stdout would replace the device by a file.
    if path.is_dir() or is_special_file(path):
        is_folder = path.is_dir()
        raise OSError(
            errno.EISDIR if is_folder else errno.EINVAL,
            "Is a directory" if is_folder else "Is not a file",
        )
