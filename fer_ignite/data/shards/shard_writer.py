"""Writes a data set as shards: tar files of encoded images and the index beside them."""

# Dimensions: N images in all, K classes.

import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.cache.integrity import compute_checksums, manifest_checksum
from fer_ignite.data.cache.manifest import compute_fingerprint
from fer_ignite.data.images import printable
from fer_ignite.data.sampler import generator
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.shard_cache import file_sha256
from fer_ignite.data.shards.shard_images import SHARD_FOLDER
from fer_ignite.errors import ConfigError, DataError, StorageError
from fer_ignite.terminal import progress as progress_bar

__all__ = ["require_new_folder", "write_shards"]

_BLOCK = tarfile.BLOCKSIZE

Indices = npt.NDArray[np.int64]


def require_new_folder(folder: Path) -> None:
    """Refuses a folder in which something lies, before a data set is read for it.

    Raises:
        ConfigError: naming the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"--shards {printable(folder)}: it exists and is not empty; name a new folder."
        )
    if not folder.absolute().parent.is_dir():
        raise ConfigError(
            f"--shards {printable(folder)}: there is no folder {printable(folder.absolute().parent)}; make it first."
        )


def write_shards(
    dataset_cache: DatasetCache,
    folder: Path,
    *,
    shard_bytes: int,
    source: str,
    progress: bool = False,
) -> None:
    """Writes a data set into a new folder, which is complete or isn't there.

    The images of train lie in a seeded random order, so that neighbours are no more alike than any two; those of val and
    test in the data set's order. Equal data sets give equal bytes.

    Args:
        shard_bytes: a shard is closed when it has reached this size.
        source: what the data set is called in the index.
    Raises:
        ConfigError: the folder holds something.
        DataError: an image can't be read.
        StorageError: the disk is full or can't be written.
    """
    require_new_folder(folder)
    # Beside its place, as a rename stays within one file system.
    building = folder.absolute().with_name(f".{folder.name}-{os.getpid()}")
    try:
        # Of a killed process that had this number.
        shutil.rmtree(building, ignore_errors=True)
        (building / SHARD_FOLDER).mkdir(parents=True)
        with progress_bar(len(dataset_cache), "writing shards", quiet=not progress) as bar:
            _write_all(dataset_cache, building, shard_bytes=shard_bytes, source=source, bar=bar)
        os.rename(building, folder.absolute())
    except OSError as error:
        raise StorageError(
            f"the shards can't be written to {printable(folder)} ({error.strerror or error}); make room, or name another folder."
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_all(
    dataset_cache: DatasetCache, folder: Path, *, shard_bytes: int, source: str, bar: Any
) -> None:
    shards: list[dict[str, Any]] = []
    places: list[_Place] = []
    orders = {split: _order(dataset_cache, split) for split in SPLITS}
    order_N = np.concatenate(list(orders.values()))
    for split, order in orders.items():
        waiting = iter(order.tolist())
        while True:
            number = sum(shard["split"] == split for shard in shards)
            name = f"{split}-{number:05}.tar"
            writer = _ShardWriter(dataset_cache, split, first=len(places))
            written = writer.write(
                folder / SHARD_FOLDER / name, waiting, limit=shard_bytes, bar=bar
            )
            if not written:
                break
            shards.append(
                {"name": name, "split": split, "first": len(places), "count": len(written)}
                | _file_facts(folder / SHARD_FOLDER / name)
            )
            places += written
    _write_index(dataset_cache, folder, order_N=order_N, places=places)
    _write_manifest(dataset_cache, folder, order_N=order_N, shards=shards, source=source)


_Place = tuple[int, int, int]  # offset, size, CRC-32


def _order(dataset_cache: DatasetCache, split: str) -> Indices:
    indices = dataset_cache.indices(split)
    # Seed 0 always: the order on disk is part of the data, and the run's seed mixes it again.
    return generator(0, "order").permutation(indices) if split == "train" else indices


class _ShardWriter:
    """One tar file with the next images of a split, the first of which gets the position ``first``."""

    def __init__(self, dataset_cache: DatasetCache, split: str, *, first: int) -> None:
        self.cache, self.split, self.first = dataset_cache, split, first

    def write(self, path: Path, waiting: Iterator[int], *, limit: int, bar: Any) -> list[_Place]:
        """Takes images from ``waiting`` until the shard has ``limit`` bytes; where none is left, no file is made."""
        places: list[_Place] = []
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                while not places or tar.offset < limit:
                    index = next(waiting, None)
                    if index is None:
                        break
                    data = self._encoded(index)
                    tar.addfile(self._member(index, data, len(places)), io.BytesIO(data))
                    # From the end, as the header's length varies (PAX): behind it the data is
                    # padded to whole blocks.
                    start = tar.offset - -(-len(data) // _BLOCK) * _BLOCK
                    places.append((start, len(data), zlib.crc32(data)))
                    bar.update(1)
            # On the disk before the folder gets its name, with which it counts as complete.
            file.flush()
            os.fsync(file.fileno())
        if not places:
            path.unlink()
        return places

    def _encoded(self, index: int) -> bytes:
        try:
            return self.cache.encoded(index)
        except OSError as error:  # else it would be taken for one of writing
            raise DataError(
                f"{printable(self.cache.path)}: {self.cache.sample_id(index)} can't be read ({error.strerror or error}); "
                "check the disk, or make the dataset cache again."
            ) from None

    def _member(self, index: int, data: bytes, place: int) -> tarfile.TarInfo:
        # A slash in a class name would be a folder in the archive.
        label = self.cache.classes[int(self.cache.labels[index])].replace("/", "_")
        info = tarfile.TarInfo(f"{self.split}/{label}/{self.first + place:09}.{_suffix(data)}")
        # TarInfo's own time (0) and owner stay: equal data sets give equal bytes.
        info.size, info.mode = len(data), 0o644
        return info


def _suffix(data: bytes) -> str:
    # By the content: the suffix of the source file may be another format's.
    with Image.open(io.BytesIO(data)) as image:
        found = str(image.format).lower()
    return {"jpeg": "jpg", "mpo": "jpg"}.get(found, found)


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _write_index(
    dataset_cache: DatasetCache, folder: Path, *, order_N: Indices, places: list[_Place]
) -> None:
    table_N3 = np.array(places, dtype=np.int64).reshape(-1, 3)
    arrays: dict[str, Any] = {
        "labels": dataset_cache.labels[order_N],
        "splits": dataset_cache.splits[order_N],
        "leaks": dataset_cache.leaks[order_N],
        "digests": dataset_cache.digests[order_N],
        "image_offsets": table_N3[:, 0],
        "image_sizes": table_N3[:, 1].astype(np.uint32),
        "image_crcs": table_N3[:, 2].astype(np.uint32),
    }
    if dataset_cache.soft is not None:
        arrays["soft"] = dataset_cache.soft[order_N]
    if dataset_cache.groups is not None:
        arrays["groups"] = dataset_cache.groups[order_N]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    ids = [dataset_cache.id_bytes(index) for index in order_N.tolist()]
    (folder / "ids.bin").write_bytes(b"".join(ids))
    np.save(folder / "id_ends.npy", np.cumsum([len(name) for name in ids], dtype=np.int64))


def _write_manifest(
    dataset_cache: DatasetCache,
    folder: Path,
    *,
    order_N: Indices,
    shards: list[dict[str, Any]],
    source: str,
) -> None:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    manifest = {
        **dataset_cache.manifest,
        "storage": "shards",
        "source": source,
        # Of the order on disk: train was shuffled, and the fingerprint covers the order.
        "fingerprint": compute_fingerprint(
            dataset_cache.classes,
            (dataset_cache.height, dataset_cache.width, dataset_cache.channels),
            labels_N=dataset_cache.labels[order_N],
            splits_N=dataset_cache.splits[order_N],
            soft_NK=None if dataset_cache.soft is None else dataset_cache.soft[order_N],
            digests_N16=dataset_cache.digests[order_N],
        ),
        "files": {file.name: file.stat().st_size for file in files},
        "shards": shards,
        "checksums": compute_checksums(folder),
    }
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
