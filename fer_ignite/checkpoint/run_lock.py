"""Lock of a run's folder: ``run.lock``, released by the kernel when the process ends.

The lock is the kernel's (flock), not the file's existence: after SIGKILL the next run starts at once. The file says
who holds it, for the other one's error; it stays when the lock is gone, because removing it would let two runs in.
"""

import contextlib
import errno
import json
import os
import socket
import weakref
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import ConfigError, FolderInUseError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "RunLock", "hold_folder", "lock_folder"]

LOCK_NAME = "run.lock"
_LOCKS: weakref.WeakSet["RunLock"] = weakref.WeakSet()  # of this process, for the error's sentence


class RunLock:
    """A held lock.

    Attributes:
        folder: what it locks.
        warning: one sentence where this system can't lock, for the caller to print; else None.
    """

    def __init__(self, handle: int, *, folder: Path, warning: str | None = None) -> None:
        self._handle: int | None = handle
        self.folder = folder.resolve()
        self.warning = warning
        _LOCKS.add(self)
        if hasattr(os, "register_at_fork"):
            # A forked loader worker shares the lock, and would keep it after the run was killed.
            held = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _close(held()))

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        _close(self)


def lock_folder(folder: str | os.PathLike[str]) -> RunLock:
    """Lock a run's folder for this process until ``release`` or death.

    Raises:
        FolderInUseError: another process holds it; the sentence names it.
        ConfigError: the folder isn't there or can't be written.
    """
    folder = Path(folder)
    try:
        # No O_TRUNC: until the lock is held, the content is its holder's. O_NOFOLLOW: through a
        # link, _sign would empty another file.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(folder / LOCK_NAME, flags, 0o666)
    except OSError as error:
        raise ConfigError(
            f"{shown(folder)} can't be written: {error.strerror}; choose another folder with --out."
        ) from None
    try:
        warning = _lock(handle, folder)
        _sign(handle)
    except BaseException:
        os.close(handle)
        raise
    return RunLock(handle, folder=folder, warning=warning)


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[RunLock]:
    """``lock_folder`` for the length of a with block."""
    lock = lock_folder(folder)
    try:
        yield lock
    finally:
        lock.release()


def _lock(handle: int, folder: Path) -> str | None:
    if fcntl is None:
        return f"This system has no file locks: take care that no second run writes to {shown(folder)}."
    try:
        # flock, not lockf: a POSIX lock ends when the process closes any handle of the file.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if _is_own(folder):
            raise FolderInUseError(
                f"{shown(folder)} is in use by an open session of this process; close it with session.close(), "
                "or choose another name."
            ) from None
        raise FolderInUseError(
            f"{shown(folder)} is in use by {_holder(handle)}; wait for it, stop it, or choose another --name or --out."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        return f"This file system has no locks: take care that no second run writes to {shown(folder)}."
    return None


def _is_own(folder: Path) -> bool:
    return any(lock.folder == folder.resolve() and lock._handle is not None for lock in _LOCKS)


def _sign(handle: int) -> None:
    signature = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    # A full disk must not keep a run from starting only to say who it is.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(signature).encode("ascii"))


def _holder(handle: int) -> str:
    try:
        content = json.loads(os.read(handle, 1000))
        pid, host, since = int(content["pid"]), str(content["host"]), str(content["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    return f"process {pid} on {shown(host)} since {shown(since)}"


def _close(lock: RunLock | None) -> None:
    if lock is not None and lock._handle is not None:
        os.close(lock._handle)
        lock._handle = None
