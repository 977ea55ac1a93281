"""Dataset cache: decoded images in memory-mapped arrays, shared by all processes.

    manifest.json   what it is: classes, size, counts, statistics, fingerprint, duplicates, splits, what was left out
    pixels.npy      uint8 [N, H, W, C]; or, where that would be too large,
    images.bin      the files' own bytes, with image_ends.npy int64 [N]; or
    shards/         the same in tar files, see fer_ignite.data.shards.shard_images
    digests.npy uint8 [N, 16], a hash of each image's pixels
    labels.npy int64, splits.npy uint8, leaks.npy bool; soft.npy float32 [N, K], groups.npy int64 where there are any
    ids.bin         the images' names one after another, with id_ends.npy int64 [N]

A dataset cache is complete or isn't there: it is built in a folder of another name and renamed.
"""

# Dimensions: N images in the dataset cache, B images requested, H W pixels, C channels, K classes.

import errno
import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.data.cache.plain_files import decode_plain
from fer_ignite.data.images import fit_image, png_bytes, printable, read_image_bytes
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.remote import PREFIX, is_shards, shown
from fer_ignite.data.shards.shard_images import ShardImages
from fer_ignite.errors import DataError
from fer_ignite.stores.store import is_url

__all__ = [
    "PACK_FORMAT",
    "PACK_VERSION",
    "DatasetCache",
    "announced_source",
    "describe",
    "is_cache",
    "map_array",
    "number_equal_digests",
    "open_cache",
]

# Dataset caches were called packs; another name here would make every existing one unreadable.
PACK_FORMAT = "fer_ignite pack"
PACK_VERSION = 2
_NEEDED = (
    "classes",
    "height",
    "width",
    "channels",
    "count",
    "mean",
    "std",
    "fingerprint",
    "files",
    "counts",
    "duplicates",
    "blank",
    "left_out",
    "skipped",
    "splits",
    "source",
    "source_kind",
    "storage",
    "fit",
    "checksums",
    "checksum",
)


class DatasetCache:
    """An opened dataset cache; pickled, it is its path."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.height: int = manifest["height"]
        self.width: int = manifest["width"]
        self.channels: int = manifest["channels"]
        self.mean: tuple[float, ...] = tuple(manifest["mean"])
        self.std: tuple[float, ...] = tuple(manifest["std"])
        self.fingerprint: str = manifest["fingerprint"]
        self.labels: npt.NDArray[np.int64] = self._map("labels")
        self.splits: npt.NDArray[np.uint8] = self._map("splits")
        self.leaks: npt.NDArray[np.bool_] = self._map("leaks")
        self.digests: npt.NDArray[np.uint8] = self._map("digests")
        self.soft: npt.NDArray[np.float32] | None = (
            self._map("soft") if "soft.npy" in manifest["files"] else None
        )
        self.groups: npt.NDArray[np.int64] | None = (
            self._map("groups") if "groups.npy" in manifest["files"] else None
        )
        self.is_memmap: bool = manifest["storage"] == "raw"
        self._pixels_NHWC: npt.NDArray[np.uint8] | None = (
            self._map("pixels") if self.is_memmap else None
        )
        self.shards: ShardImages | None = (
            ShardImages(path, manifest["shards"]) if manifest["storage"] == "shards" else None
        )
        self._images = None if self.is_memmap else self.shards or _encoded_images(path)
        self._ids = _Blobs(path, "ids.bin", ends="id_ends.npy")

    @classmethod
    def open(cls, path: Path | str) -> "DatasetCache":
        """The dataset cache in a folder, as `open_cache` gives it."""
        return open_cache(path)

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def __reduce__(self) -> tuple[Any, tuple[Path, int | None]]:
        # By path: as attributes, all mapped pixels would be sent to each loader process.
        limit_bytes = None if self.shards is None else self.shards.cache.limit_bytes
        return _opened, (self.path, limit_bytes)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 [N, H, W, C], mapped copy-on-write; only for a dataset cache that `is_memmap`."""
        if self._pixels_NHWC is None:
            raise DataError(
                f"{self.path} keeps encoded images, not pixels; read them with read(indices)."
            )
        return self._pixels_NHWC

    @property
    def decoded_bytes(self) -> int:
        """The size of all pixels, however they are stored."""
        return len(self) * self.height * self.width * self.channels

    @cached_property
    def copies(self) -> npt.NDArray[np.int64]:
        """int64 [N]: equal numbers for images of equal pixels."""
        return number_equal_digests(self.digests)

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of the images of "train", "val" or "test", in the dataset cache's order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def id_bytes(self, index: int) -> bytes:
        """The image's name, byte by byte as its source has it."""
        return self._ids[index]

    def sample_id(self, index: int) -> str:
        """The image's name as one line of printable text."""
        return printable(self._ids[index])

    def read(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """The images at int64 [B] `indices`, as a new uint8 array [B, H, W, C]."""
        indices_B = np.asarray(indices, dtype=np.int64).reshape(-1)
        if self._pixels_NHWC is not None:
            # An array as index copies: the caller may change what it gets.
            return np.asarray(self._pixels_NHWC[indices_B])
        images_BHWC = np.empty(
            (len(indices_B), self.height, self.width, self.channels), dtype=np.uint8
        )
        for place, data in enumerate(self._encoded(indices_B)):
            images_BHWC[place] = self._decode(data, index=int(indices_B[place]))
        return images_BHWC

    def encoded(self, index: int) -> bytes:
        """An image as a file: its own bytes, or a PNG of its stored pixels where that is smaller or all that there is."""
        pixels_HWC = self.read(np.array([index]))[0]
        png = png_bytes(pixels_HWC)
        if self._images is None:
            return png
        own = self._images[index]
        return png if len(png) < len(own) else own

    def _encoded(self, indices_B: npt.NDArray[np.int64]) -> Iterable[bytes]:
        assert self._images is not None
        if self.shards is not None:
            return self.shards.read(indices_B)
        return (self._images[index] for index in indices_B.tolist())

    def _decode(self, data: bytes, *, index: int) -> npt.NDArray[np.uint8]:
        fit = self.manifest["fit"]
        # By the first byte, as no file name is stored; what is no plain JPEG either goes to
        # Pillow.
        plain_HWC = decode_plain(data, expected="PNG" if data[:1] == b"\x89" else "JPEG")
        if plain_HWC is not None and plain_HWC.shape == (self.height, self.width, self.channels):
            return plain_HWC
        image = read_image_bytes(data, name=self.sample_id(index))
        return fit_image(image, fit["side_px"], mode=fit["mode"], channels=fit["channels"])

    def _map(self, name: str) -> Any:
        return map_array(self.path / f"{name}.npy")


def number_equal_digests(digests_N16: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """int64 [N]: equal numbers for equal digests, 0 to the number of different ones - 1."""
    # Two columns of 64 bits instead of 16 of 8: fewer comparisons per row.
    pairs_N2 = np.ascontiguousarray(digests_N16).view(np.uint64)
    return np.unique(pairs_N2, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def map_array(file: Path) -> Any:
    """The array in a .npy file, mapped copy-on-write; read-only where that would be more than the machine's memory and swap."""
    try:
        # torch.from_numpy warns about arrays that can't be written, and copy-on-write can't change the file.
        return np.load(file, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return np.load(file, mmap_mode="r", allow_pickle=False)


class _Blobs:
    """Byte strings of any length, one after another in a mapped file: nothing per string lives in memory."""

    def __init__(self, folder: Path, data: str, *, ends: str) -> None:
        self._ends_N = np.load(folder / ends, mmap_mode="r", allow_pickle=False)
        self._data = np.memmap(folder / data, dtype=np.uint8, mode="r")

    def __getitem__(self, index: int) -> bytes:
        # range counts from the end and refuses what lies outside; slices of the map would give
        # other bytes without an error.
        index = range(len(self._ends_N))[index]
        start = int(self._ends_N[index - 1]) if index else 0
        return self._data[start : int(self._ends_N[index])].tobytes()


def _encoded_images(folder: Path) -> _Blobs:
    return _Blobs(folder, "images.bin", ends="image_ends.npy")


def is_cache(path: Path) -> bool:
    """Whether a folder calls itself a dataset cache; `open_cache` says whether it is a sound one."""
    manifest = path / "manifest.json"
    try:
        with manifest.open("rb") as file:
            # The format is the first entry; the whole manifest may list thousands of skipped files.
            return PACK_FORMAT.encode() in file.read(4096)
    except OSError:
        return False


def open_cache(path: Path | str) -> DatasetCache:
    """A dataset cache folder, mapped.

    Raises:
        DataError: it is none, was made by another version, or a file of it is missing or cut off.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{printable(path)}: no dataset cache ({printable(str(error))}); build it with fer-ignite pack."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != PACK_FORMAT:
        raise DataError(
            f"{printable(path)}: its manifest.json is not a dataset cache's; build one with fer-ignite pack."
        )
    if manifest.get("version") != PACK_VERSION:
        came = manifest.get("version")
        raise DataError(
            f"{printable(path)}: dataset cache version {came!r}; this program reads {PACK_VERSION}. Build it again."
        )
    absent = [name for name in _NEEDED if name not in manifest]
    if absent:
        raise DataError(
            f"{printable(path)}: the manifest lacks {', '.join(absent)}; build the dataset cache again."
        )
    # Sizes cost no reading, and a copy that was cut off is named before anything is mapped.
    for name, size in manifest["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        # A manifest may come from a server: a name that leads into another folder is refused.
        if Path(name).name != name or found != size:
            raise DataError(
                f"{printable(file)}: {found} bytes, the manifest says {size}; build the dataset cache again."
            )
    try:
        # Resolved: the path is what is pickled, and the other process may stand in another
        # folder.
        return DatasetCache(path.resolve(), manifest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{printable(path)}: damaged ({error}); build the dataset cache again."
        ) from None


def _opened(path: Path, limit_bytes: int | None) -> DatasetCache:
    dataset_cache = open_cache(path)
    if dataset_cache.shards is not None and limit_bytes is not None:
        dataset_cache.shards.cache.limit_bytes = limit_bytes
    return dataset_cache


def announced_source(dataset_cache: DatasetCache, data: str) -> str:
    """What a run says that its data is: the path that was given, where an equal file elsewhere was packed first.

    Args:
        data: the setting; names that are no path (demo, kaggle:...) and dataset caches keep the manifest's source.
    """
    if is_shards(data):
        return PREFIX + shown(data.removeprefix(PREFIX))
    if is_url(data):
        return data
    path = Path(data)
    return (
        os.path.abspath(path)
        if path.exists() and not is_cache(path)
        else str(dataset_cache.manifest["source"])
    )


def describe(dataset_cache: DatasetCache, *, source: str | None = None) -> str:
    """A dataset cache's facts as lines for people: counts, splits, duplicates, what was left out; `source` in place of its own."""
    manifest = dataset_cache.manifest
    kind = {1: "gray", 3: "RGB"}[dataset_cache.channels]
    lines = [
        f"{len(dataset_cache)} images, {dataset_cache.width} x {dataset_cache.height} {kind}, {len(dataset_cache.classes)} classes, "
        f"from {manifest['source_kind']} {printable(source or manifest['source'])}",
        f"fingerprint {dataset_cache.fingerprint[:16]}, dataset cache {printable(dataset_cache.path)}",
        *_table(dataset_cache),
        f"splits: {manifest['splits']}",
        *_duplicates(manifest["duplicates"]),
    ]
    if manifest["blank"]:
        lines.append(f"blank images: {manifest['blank']}")
    lines += [
        f"left out: {count} ({reason})" for reason, count in manifest["left_out"].items() if count
    ]
    if skipped := manifest["skipped"]:
        lines.append(f"skipped: {len(skipped)} that can't be read, such as {skipped[0]}")
    return "\n".join(lines)


def _table(dataset_cache: DatasetCache) -> list[str]:
    counts: dict[str, dict[str, int]] = dataset_cache.manifest["counts"]
    width = max(len("total"), *(len(name) for name in dataset_cache.classes))
    rows = [f"{'':{width}} " + "".join(f"{split:>9}" for split in SPLITS)]
    for name in dataset_cache.classes:
        rows.append(f"{name:{width}} " + "".join(f"{counts[split][name]:>9}" for split in SPLITS))
    totals = [sum(counts[split].values()) for split in SPLITS]
    return [*rows, f"{'total':{width}} " + "".join(f"{total:>9}" for total in totals)]


def _duplicates(report: dict[str, int]) -> list[str]:
    if not report["groups"]:
        return ["exact duplicates: none"]
    lines = [
        f"exact duplicates: {report['groups']} groups with {report['images']} images; "
        f"{report['contradicting_groups']} groups contradict themselves in their labels"
    ]
    pairs = (("val", "train"), ("test", "train"), ("test", "val"))
    counted = [(report[f"{one}_in_{other}"], one, other) for one, other in pairs]
    across = [f"{count} {one} images also in {other}" for count, one, other in counted if count]
    # The flag can only leave out what is in train.
    in_train = any(count for count, _, other in counted if other == "train")
    remedy = " (--drop-train-duplicates leaves those in train out of it)" if in_train else ""
    return [*lines, f"across splits: {', '.join(across)}{remedy}"] if across else lines
