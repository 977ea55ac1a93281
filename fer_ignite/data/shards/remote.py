"""Where shards lie: ``shards:URL``, and the download of one file with retries."""

import errno
import functools
import http.client
import logging
import math
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from fer_ignite.data.images import printable
from fer_ignite.errors import DataError, StorageError, one_line
from fer_ignite.stores.store import Store, StoreProblem, last_part, parent_url

__all__ = [
    "PREFIX",
    "Missing",
    "download",
    "fetch",
    "file_url",
    "is_shards",
    "local_folder",
    "require_url",
    "shown",
]

PREFIX = "shards:"
RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_TIMEOUT_S = 60.0
# Answers that another try does not change; 408 and 429 ask for one.
_FINAL_ANSWERS = (400, 401, 403, 404, 405, 410)
# Errors of this machine's disk are raised at once, not retried as a server's are.
_LOCAL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_QUIET_S = 10.0
_warned: dict[tuple[str, str, float], float] = {}

logger = logging.getLogger("fer_ignite")


class Missing(Exception):
    """There is no such file, or it may not be read: another try would not help."""


def is_shards(data: str) -> bool:
    """Whether ``--data`` names shards."""
    return data.startswith(PREFIX)


def require_url(data: str) -> str:
    """The URL or path behind ``shards:``.

    Raises:
        DataError: there is none, it is no URL, the local folder does not exist, or a web address names a user.
    """
    url = data.removeprefix(PREFIX)
    try:
        _refuse_user(url)
    except ValueError as error:  # of urlsplit; it says nothing of the URL's content
        raise DataError(
            f"data {PREFIX}{printable(url.partition('?')[0])}: not a URL ({one_line(error)}); give shards:FOLDER or shards:https://HOST/PATH."
        ) from None
    folder = local_folder(url)
    if not url or (folder is not None and not folder.is_dir()):
        raise DataError(
            f"data {printable(data)}: there is no such folder; give shards:FOLDER, shards:https://HOST/PATH or another URL; "
            "fer-ignite pack DATA --shards FOLDER writes shards."
        )
    return url


def _refuse_user(url: str) -> None:
    """Web servers with a password are not read: urllib knows no user in an address, and ``config.yaml`` would hold it."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        raise DataError(
            f"data {PREFIX}{shown(url)}: a user or password in the URL of shards is not supported; give a URL without them, "
            "if need be with a signature behind it (?...)."
        )


def local_folder(url: str) -> Path | None:
    """The folder that a path or a ``file://`` URL names; None for other URLs."""
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def file_url(url: str, name: str) -> str:
    """The URL of a file in the folder ``url``; a query (a signature) stays at the end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def shown(url: str) -> str:
    """A URL for messages: without user, password, query and fragment."""
    if "://" not in url:
        return printable(url)
    parts = urlsplit(url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def download(url: str, target: Path) -> None:
    """Copies one file, once; the only place that reads from a server.

    Raises:
        Missing: the file is not there, or may not be read.
        OSError: everything that another try may change.
        ConfigError: the library for this kind of URL is not installed.
    """
    if urlsplit(url).scheme in ("http", "https"):
        _download_http(url, target)
    else:
        _download_object(url, target)


def _download_object(url: str, target: Path) -> None:
    try:
        _store(parent_url(url), os.getpid()).download_file(last_part(url), target)
    except StoreProblem as problem:
        # One of the local disk comes as the OSError that it is.
        raise (OSError if problem.kind == "away" else Missing)(problem.reason) from None


@functools.lru_cache(maxsize=8)
def _store(url: str, pid: int) -> Store:
    """One connection per folder and process: clients of stores don't survive a fork."""
    return Store(url, retried=True)


def _download_http(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            # http.client reports a body that ends early only for read() without a size.
            wanted = answer.headers.get("Content-Length")
            if wanted is not None and file.tell() != int(wanted):
                raise OSError(f"{file.tell()} of {wanted} bytes came")
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        raise (Missing if error.code in _FINAL_ANSWERS else OSError)(reason) from None
    except urllib.error.URLError as error:
        raise OSError(getattr(error.reason, "strerror", None) or str(error.reason)) from None
    except http.client.InvalidURL:  # its text holds the signature
        raise Missing("it is no valid URL") from None
    except http.client.HTTPException as error:
        raise OSError(one_line(error)) from None
    except ValueError as error:  # no URL that urllib knows, a broken length
        raise Missing(one_line(error)) from None


def fetch(
    url: str,
    target: Path,
    *,
    check: Callable[[Path], str | None] = lambda file: None,
    temporary: Path | None = None,
) -> None:
    """Downloads a file beside its place, checks it, and renames it; failures are repeated after 1, 2, 4, 8 and 16 s.

    Args:
        check: (downloaded file) -> what is wrong with it; None: nothing.
        temporary: where it is written first.
    Raises:
        StorageError: it is missing, the server stays away, or what comes stays wrong.
        OSError: the local disk is full or can't be written.
    """
    # Beside its place, so that the rename stays within one file system.
    temporary = temporary or target.with_name(f".{target.name}-{os.getpid()}")
    try:
        for wait_s in (*RETRY_WAITS_S, None):
            reason = _attempt(url, temporary, check=check)
            if reason is None:
                _sync(temporary)
                os.replace(temporary, target)
                return
            if wait_s is None:
                tries = len(RETRY_WAITS_S) + 1
                raise StorageError(
                    f"{shown(url)} can't be read after {tries} tries ({reason}); wait until the server is back."
                )
            _warn_of_retry(url, reason, wait_s=wait_s)
            time.sleep(wait_s)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    """The content is on the disk before the name says so."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _warn_of_retry(url: str, reason: str, *, wait_s: float) -> None:
    """One line for all files that a server refuses for the same reason at about the same time."""
    # With the wait: each longer one is said once.
    said = (urlsplit(url).netloc, reason, wait_s)
    if time.monotonic() - _warned.get(said, -math.inf) > _QUIET_S:
        _warned[said] = time.monotonic()
        logger.warning(
            "%s can't be read (%s); the next try is in %g s.", shown(url), reason, wait_s
        )


def _attempt(url: str, temporary: Path, *, check: Callable[[Path], str | None]) -> str | None:
    """Why one try failed; None: it did not."""
    try:
        download(url, temporary)
        return check(temporary)
    except Missing as error:
        raise StorageError(
            f"{shown(url)} can't be read ({error}); check the URL, the rights, and that all shards were copied there."
        ) from None
    except OSError as error:
        if error.errno in _LOCAL_DISK:
            raise
        return one_line(error)
