"""The index of shards: of a local folder as it is, else a local copy that is compared with the server's at each start."""

import contextlib
import json
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.integrity import verify_files
from fer_ignite.data.cache.leftovers import clear_stale
from fer_ignite.data.images import printable
from fer_ignite.data.shards.remote import PREFIX, fetch, file_url, local_folder, require_url, shown
from fer_ignite.data.shards.shard_images import ORIGIN, SHARD_FOLDER, shards_origin
from fer_ignite.errors import ConfigError, DataError, StorageError, first_clause

__all__ = ["open_shard_index", "own_index"]

_MANIFEST = "manifest.json"

_REMEDY = "name the folder that fer-ignite pack DATA --shards FOLDER wrote."

logger = logging.getLogger("fer_ignite")


def open_shard_index(data: str, *, cache: Path) -> Path:
    """The folder of the index that ``shards:URL`` names; it opens as a dataset cache.

    Args:
        cache: where copies are kept: ``cache/shards/<checksum of the manifest>``.
    Raises:
        DataError: there is none, it can't be read, or it is damaged.
        ConfigError: the cache can't be written.
    """
    url = require_url(data)
    folder = local_folder(url)
    if folder is None:
        return _copy_of_index(url, cache / "shards").resolve()
    if not (folder / _MANIFEST).exists():
        raise DataError(f"data {PREFIX}{shown(url)}: the folder has no index of shards; {_REMEDY}")
    dataset_cache = open_cache(folder)
    if dataset_cache.manifest["storage"] != "shards":
        raise DataError(
            f"data {PREFIX}{shown(url)}: a dataset cache, which is not cut into shards; name it without {PREFIX!r}."
        )
    verify_files(dataset_cache.path, dataset_cache.manifest)
    return dataset_cache.path


def own_index(data: str, folder: Path, *, cache: Path) -> Path:
    """This machine's copy of an index whose copy on another machine lies in ``folder``; caches may be shared or not.

    Args:
        data: ``shards:URL``.
        cache: this machine's.
    Raises:
        DataError: what lies under the URL has changed meanwhile.
    """
    url = require_url(data)
    if local_folder(url) is not None or shards_origin(folder) == url:
        return folder
    own = open_shard_index(data, cache=cache)
    # A copy's folder is named by the checksum of its manifest.
    if own.name != folder.name:
        raise DataError(
            f"data {PREFIX}{shown(url)}: the index changed while the processes started; start again when all of it is there."
        )
    return own


def _copy_of_index(url: str, cache: Path) -> Path:
    fresh = cache / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        fresh.mkdir(parents=True)
        clear_stale(cache, ".building-*")
    except OSError as error:
        raise ConfigError(
            f"the cache {printable(cache)} can't be written ({error.strerror}); set --cache or FER_IGNITE_CACHE."
        ) from None
    try:
        # At each start the manifest alone: its checksum says whether the copy is of the same
        # data.
        _fetch_before_start(url, _MANIFEST, folder=fresh)
        manifest = _read_manifest(fresh / _MANIFEST, url)
        target = cache / str(manifest["checksum"])[:32]
        if not _is_sound(target, url):
            for name in manifest["files"]:
                _fetch_before_start(url, name, folder=fresh)
            (fresh / SHARD_FOLDER).mkdir()
            _write_origin(fresh, url)
            _verify_download(fresh, manifest, url=url)
            _publish(fresh, target, names=[*manifest["files"], ORIGIN, _MANIFEST])
        return target
    except OSError as error:
        raise StorageError(
            f"the index of {shown(url)} can't be stored in {printable(cache)} ({error}); make room, or set --cache or FER_IGNITE_CACHE."
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fetch_before_start(url: str, name: str, *, folder: Path) -> None:
    try:
        fetch(file_url(url, name), folder / name)
    except StorageError as error:
        # Nothing has started: a wrong --data, exit code 2.
        raise DataError(f"data {PREFIX}{shown(url)}: {error}") from None


def _read_manifest(file: Path, url: str) -> dict[str, Any]:
    """The manifest; of its names only plain ones pass, for they become files.

    Raises:
        DataError: it is none.
    """
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        names = [*manifest["files"], *(shard["name"] for shard in manifest["shards"])]
        if not str(manifest["checksum"]).isalnum() or any(
            Path(name).name != name for name in names
        ):
            raise ValueError("names that are no plain file names")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"data {PREFIX}{shown(url)}: its manifest.json is no index of shards ({type(error).__name__}: {error}); {_REMEDY}"
        ) from None
    return dict(manifest)


def _is_sound(copy: Path, url: str) -> bool:
    """Whether the copy of an index can be used as it is, with its shards from ``url``; a warning where it is damaged."""
    if not copy.is_dir():
        return False
    # The copy may stem from another URL, or one whose signature expired; shards come from this one.
    _write_origin(copy, url)
    try:
        verify_files(copy, open_cache(copy).manifest)
    except DataError as error:
        logger.warning("%s; the index is downloaded again.", first_clause(error))
        return False
    return True


def _verify_download(folder: Path, manifest: dict[str, Any], *, url: str) -> None:
    try:
        verify_files(open_cache(folder).path, manifest)
    except DataError as error:
        reason = first_clause(error).replace(f"{printable(folder.resolve())}/", "")
        raise DataError(
            f"data {PREFIX}{shown(url)}: the index there can't be used ({reason}); copy it there again."
        ) from None


def _publish(fresh: Path, target: Path, *, names: list[str]) -> None:
    """Renames a verified index into its place; where one is already, file by file, which keeps its shards."""
    with contextlib.suppress(OSError):
        os.rename(fresh, target)
        return
    (target / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
    # The manifest is the last name: without it a folder does not open as a dataset cache.
    for name in names:
        os.replace(fresh / name, target / name)


def _write_origin(folder: Path, url: str) -> None:
    temporary = folder / f".{ORIGIN}-{os.getpid()}"
    temporary.unlink(missing_ok=True)  # of a killed process with this number
    # Only for the user's eyes from the first byte on: the URL may hold a signature.
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url}, file)
    os.replace(temporary, folder / ORIGIN)
