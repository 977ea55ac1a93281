"""Checksums of a dataset cache: written by the build, sampled at each start, full on request.

Files are hashed in blocks, so that a large pixel file can be checked by a sample of its blocks.
"""

import hashlib
import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fer_ignite.data.cache.pool import usable_cores
from fer_ignite.data.images import printable
from fer_ignite.errors import DataError

__all__ = ["CHECKED_BYTES", "compute_checksums", "manifest_checksum", "verify_files"]

# Part of the format: with another size no checksum in an existing manifest would agree.
BLOCK_BYTES = 1 << 24
_PART_BYTES = 1 << 18
_MOST_THREADS = 8
# Checked at each start; SHA-256 takes about half a second for it on processors with SHA instructions.
CHECKED_BYTES = 1 << 30


def compute_checksums(folder: Path) -> dict[str, list[str]]:
    """SHA-256 of each block of `BLOCK_BYTES` of each file in a folder (not below it), hexadecimal."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    with _threads() as threads:
        return {
            file.name: list(threads.map(partial(_hash, file), range(_blocks(file))))
            for file in files
        }


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's entries without the checksum itself, hexadecimal."""
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify_files(
    folder: Path, manifest: dict[str, Any], *, limit_bytes: int | None = CHECKED_BYTES
) -> None:
    """Compares a dataset cache's manifest and files with their checksums.

    Args:
        limit_bytes: of each file at most so much is read, in blocks chosen again at each call; None reads everything.
    Raises:
        DataError: naming the file that differs.
    """
    # The manifest first: the files are compared with the checksums that stand in it.
    if manifest_checksum(manifest) != manifest["checksum"]:
        raise DataError(
            f"{printable(folder / 'manifest.json')}: damaged, its checksum differs; build the dataset cache again."
        )
    with _threads() as threads:
        for name, wanted in manifest["checksums"].items():
            places = _chosen(len(wanted), limit_bytes)
            found = threads.map(partial(_hash_or_refuse, folder / name), places)
            for place, digest in zip(places, found, strict=True):
                if digest != wanted[place]:
                    raise DataError(
                        f"{printable(folder / name)}: damaged between bytes {place * BLOCK_BYTES:,} and {(place + 1) * BLOCK_BYTES:,}; "
                        "build the dataset cache again."
                    )


def _threads() -> ThreadPoolExecutor:
    # hashlib works without the interpreter's lock
    return ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS))


def _chosen(blocks: int, limit_bytes: int | None) -> list[int]:
    places = list(range(blocks))
    if limit_bytes is None or blocks * BLOCK_BYTES <= limit_bytes:
        return places
    # Other blocks at each start, and none of the random numbers that a run's seed decides about.
    return sorted(secrets.SystemRandom().sample(places, max(1, limit_bytes // BLOCK_BYTES)))


def _hash_or_refuse(file: Path, place: int) -> str:
    try:
        return _hash(file, place)
    except OSError as error:
        raise DataError(
            f"{printable(file)}: can't be read ({error.strerror}); build the dataset cache again."
        ) from None


def _blocks(file: Path) -> int:
    return max(1, -(-file.stat().st_size // BLOCK_BYTES))


def _hash(file: Path, place: int) -> str:
    digest, left = hashlib.sha256(), BLOCK_BYTES
    # Unbuffered: the parts are larger than a buffer.
    with file.open("rb", buffering=0) as handle:
        handle.seek(place * BLOCK_BYTES, os.SEEK_SET)
        # in parts that stay in the processor's cache
        while left and (part := handle.read(min(left, _PART_BYTES))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()
