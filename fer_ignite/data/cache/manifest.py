"""Manifest of a dataset cache: fingerprint, statistics, counts, duplicates, files."""

# Dimensions: N images, H W pixels, C channels, K classes.

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.data.cache.format import (
    PACK_FORMAT,
    PACK_VERSION,
    DatasetCache,
    number_equal_digests,
)
from fer_ignite.data.cache.integrity import compute_checksums, manifest_checksum, verify_files
from fer_ignite.data.cache.pixel_facts import mean_and_std, measure
from fer_ignite.data.samples import SPLITS, Samples
from fer_ignite.data.splits import report_duplicates
from fer_ignite.errors import DataError

__all__ = ["ImageFacts", "compute_fingerprint", "verify_cache", "write_facts"]

_PIECE = 1024


@dataclass(frozen=True)
class ImageFacts:
    """What was measured on the stored pixels: hashes uint8 [N, 16], sums and sums of squares int64 [N, 2, C], blank."""

    digests_N16: npt.NDArray[np.uint8]
    sums_N2C: npt.NDArray[np.int64]
    blank_N: npt.NDArray[np.bool_]


def write_facts(
    folder: Path,
    samples: Samples,
    *,
    facts: ImageFacts,
    shape: tuple[int, int, int],
    described: dict[str, Any],
) -> str:
    """Writes everything but the images, the manifest last.

    Args:
        shape: height, width, channels.
        described: the manifest's entries that the builder knows.
    Returns:
        The content's key, hexadecimal; the source's place isn't part of it.
    """
    splits_N = samples.splits_N
    duplicates, leaks_N = report_duplicates(
        number_equal_digests(facts.digests_N16), samples.labels_N, splits_N=splits_N
    )
    _write_arrays(folder, samples, leaks_N=leaks_N, digests_N16=facts.digests_N16)
    mean, std = _statistics(facts.sums_N2C, splits_N, pixels=shape[0] * shape[1])
    manifest = {
        "format": PACK_FORMAT,
        "version": PACK_VERSION,
        **described,
        "classes": list(samples.classes),
        "count": len(samples),
        "height": shape[0],
        "width": shape[1],
        "channels": shape[2],
        "mean": mean,
        "std": std,
        "fingerprint": compute_fingerprint(
            samples.classes,
            shape,
            labels_N=samples.labels_N,
            splits_N=splits_N,
            soft_NK=samples.soft_NK,
            digests_N16=facts.digests_N16,
        ),
        "counts": _counts(samples),
        "duplicates": duplicates,
        "blank": int(facts.blank_N.sum()),
        "left_out": {reason: count for reason, count in samples.left_out.items() if count},
    }
    # Before sizes and checksums are in it: the same images may be encoded to other bytes.
    key = _content_key(folder, manifest)
    manifest["files"] = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    manifest["checksums"] = compute_checksums(folder)
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return key


def _write_arrays(
    folder: Path,
    samples: Samples,
    *,
    leaks_N: npt.NDArray[np.bool_],
    digests_N16: npt.NDArray[np.uint8],
) -> None:
    arrays: dict[str, Any] = {
        "labels": samples.labels_N,
        "splits": samples.splits_N,
        "leaks": leaks_N,
        "digests": digests_N16,
    }
    arrays |= {"soft": samples.soft_NK, "groups": samples.groups_N}
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    (folder / "ids.bin").write_bytes(b"".join(samples.ids))
    np.save(folder / "id_ends.npy", np.cumsum([len(name) for name in samples.ids], dtype=np.int64))


def verify_cache(dataset_cache: DatasetCache) -> None:
    """Reads every file and every pixel again.

    Raises:
        DataError: they aren't those that the dataset cache was made with.
    """
    verify_files(dataset_cache.path, dataset_cache.manifest, limit_bytes=None)
    pieces = [
        measure(dataset_cache.read(np.arange(at, min(at + _PIECE, len(dataset_cache)))))[0]
        for at in range(0, len(dataset_cache), _PIECE)
    ]
    shape = (dataset_cache.height, dataset_cache.width, dataset_cache.channels)
    # From decoded pixels as well: another version of an image library may read the same bytes
    # otherwise.
    found = compute_fingerprint(
        dataset_cache.classes,
        shape,
        labels_N=dataset_cache.labels,
        splits_N=dataset_cache.splits,
        soft_NK=dataset_cache.soft,
        digests_N16=np.concatenate(pieces),
    )
    if found != dataset_cache.fingerprint:
        raise DataError(
            f"{dataset_cache.path}: damaged, its content is {found[:16]}, not {dataset_cache.fingerprint[:16]}; build it again."
        )


def compute_fingerprint(
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    *,
    labels_N: npt.NDArray[np.int64],
    splits_N: npt.NDArray[np.uint8],
    soft_NK: npt.NDArray[np.float32] | None,
    digests_N16: npt.NDArray[np.uint8],
) -> str:
    """SHA-256 over everything that training sees, and over no name or path; hexadecimal."""
    digest = hashlib.sha256(json.dumps([list(classes), list(shape), len(labels_N)]).encode())
    # Little-endian dtypes by name: machines of both byte orders get one fingerprint.
    for array in (
        labels_N.astype("<i8"),
        splits_N,
        digests_N16,
        *(() if soft_NK is None else (soft_NK.astype("<f4"),)),
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _statistics(
    sums_N2C: npt.NDArray[np.int64], splits_N: npt.NDArray[np.uint8], *, pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, of train, or of all where there is no train."""
    # Of train alone: val and test must not decide how images are normalised.
    chosen_N = splits_N == 0 if (splits_N == 0).any() else np.ones(len(splits_N), dtype=np.bool_)
    return mean_and_std(sums_N2C[chosen_N], pixels=pixels)


def _counts(samples: Samples) -> dict[str, dict[str, int]]:
    counts = {}
    for split, name in enumerate(SPLITS):
        per_class_K = np.bincount(
            samples.labels_N[samples.splits_N == split], minlength=len(samples.classes)
        )
        counts[name] = dict(zip(samples.classes, per_class_K.tolist(), strict=True))
    return counts


def _content_key(folder: Path, manifest: dict[str, Any]) -> str:
    """Over the manifest and the small files; the fingerprint in it stands for the pixels."""
    content = {name: value for name, value in manifest.items() if name != "source"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    # Names and groups are not in the fingerprint, and two caches that differ in them are two.
    for name in ("ids.bin", "id_ends.npy", "groups.npy", "leaks.npy"):
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()
