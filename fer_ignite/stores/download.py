"""Downloads that are kept: an object, or all objects below a URL, fetched once per content."""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fer_ignite.stores.store import (
    Entry,
    Store,
    StoreProblem,
    file_name,
    join_url,
    last_part,
    parent_url,
)
from fer_ignite.terminal import output_stream, progress, write_above_bars

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["exclusive", "fetch", "replace_files", "url_label"]

_BATCH = 64  # objects that are fetched together

logger = logging.getLogger("fer_ignite")


def url_label(url: str) -> str:
    """A folder's name for a URL: readable, and different for different URLs."""
    plain = "".join(c if c.isalnum() or c in "._" else "-" for c in url.replace("://", "-"))
    return f"{plain[-60:].lstrip('-')}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def fetch(url: str, *, folder: Path, quiet: bool = False) -> Path:
    """The local copy of what a URL names; downloaded where this content has not been before.

    Args:
        folder: where copies are kept, each in a folder named by URL, sizes and marks of its objects.
        quiet: no bar and no line.
    Returns:
        A file for an object, a folder for a prefix.
    Raises:
        StoreProblem: there is nothing, or the store can't be read.
        OSError: the folder can't be written.
    """
    store, names = _find(url)
    base = folder / url_label(url)
    # Under the object's own name: readers go by its suffix.
    target = base / _content_key(names) / (file_name(url) or "data")
    # Without the lock: a copy gets its name by a rename when it is whole, and never changes.
    if target.exists():
        if not all(entry.mark for entry in names.values()):
            logger.warning(
                "%s: the store gives neither a checksum nor a time of the last change; the earlier copy is used, remove %s to download again.",
                url,
                target.parent,
            )
        return target
    base.mkdir(parents=True, exist_ok=True)
    with exclusive(base / "download.lock"):
        if not target.exists():  # another process may have been faster
            _download(store, names, url=url, target=target, quiet=quiet)
    return target


def _find(url: str) -> tuple[Store, dict[str, Entry]]:
    """The store to read from, and the objects by their names in it; a single object has its own name."""
    bucket_alone = "/" not in url.partition("://")[2].strip("/")
    # Neither a bucket nor a name with a slash behind it is an object.
    if not bucket_alone and not url.endswith("/"):
        parent = Store(parent_url(url))
        if (entry := parent.entry(last_part(url))) is not None:
            return parent, {last_part(url): entry}
    store = Store(url)
    names = store.entries()
    if not names:
        raise StoreProblem(
            f"{url}: there is no such object, nor any below it; name one that exists.",
            kind="missing",
        )
    return store, names


def _content_key(names: Mapping[str, Entry]) -> str:
    facts = json.dumps(sorted((name, *entry) for name, entry in names.items()))
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _download(
    store: Store, names: Mapping[str, Entry], *, url: str, target: Path, quiet: bool
) -> None:
    # Beside its later place: a rename works within one file system only.
    hidden = target.parent.parent / f".downloading-{secrets.token_hex(4)}"
    begun, total = time.monotonic(), sum(entry.size or 0 for entry in names.values())
    arrived = 0  # in bytes; the sizes before the download may be unknown
    try:
        hidden.mkdir()
        single = store.url != url.rstrip("/")
        inside = hidden if single else hidden / target.name
        inside.mkdir(exist_ok=True)
        with progress(
            total or None, f"downloading {url}", unit="B", quiet=quiet, scaled=True
        ) as bar:
            if single and (query := last_part(url)) != target.name:
                # A query is no part of the file's name, and may be longer than one can be.
                store.download_file(query, inside / target.name)
                _require_whole(store, {target.name: names[query]}, inside)
                arrived = (inside / target.name).stat().st_size
                bar.update(arrived)
                names = {}
            for part in _batches(sorted(names)):
                store.download(part, inside)
                _require_whole(store, {name: names[name] for name in part}, inside)
                size = sum((inside / name).stat().st_size for name in part)
                arrived += size
                bar.update(size)
        # What is left of a copy that somebody removed: a rename onto a folder with content fails.
        shutil.rmtree(target.parent, ignore_errors=True)
        os.rename(hidden, target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    if not quiet and int(os.environ.get("RANK") or 0) == 0:
        what = f"{len(names):,} objects, " if len(names) > 1 else ""
        seconds = time.monotonic() - begun
        write_above_bars(
            f"downloaded  {url} ({what}{arrived / 1e6:.1f} MB) in {seconds:.1f} s",
            stream=output_stream(),
        )


def replace_files(
    store: Store, entries: Mapping[str, Entry], *, folder: Path, arriving: Path
) -> None:
    """Downloads objects as files of a folder; all are moved to their places once all are whole.

    Args:
        entries: the objects, as the store lists them.
        arriving: a new folder on the same disk, removed at the end.
    Raises:
        StoreProblem: an object is missing or arrives with another size, or the store can't be read.
        OSError: the folder can't be written.
    """
    shutil.rmtree(arriving, ignore_errors=True)
    try:
        for part in _batches(sorted(entries)):
            store.download(part, arriving)
            _require_whole(store, {name: entries[name] for name in part}, arriving)
        for name in entries:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(arriving / name, folder / name)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _require_whole(store: Store, names: Mapping[str, Entry], folder: Path) -> None:
    for name, entry in names.items():
        got = (folder / name).stat().st_size
        if entry.size not in (None, got):
            raise StoreProblem(
                f"{join_url(store.url, name)} arrived with {got} of {entry.size} bytes; start again."
            )


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """One process at a time within the block, by a lock that the kernel releases when a process ends."""
    # The file stays: one that is removed could be locked by one process and made anew by another.
    with file.open("a") as handle:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: two may download
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
