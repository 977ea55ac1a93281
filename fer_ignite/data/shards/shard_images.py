"""Encoded images out of shards, by position: a shard, an offset, a size and a CRC-32 for each.

    shards/train-00000.tar   members train/<class>/<position>.png or .jpg; a shard holds images of one split
    image_offsets.npy int64 [N], image_sizes.npy uint32 [N], image_crcs.npy uint32 [N]
    origin.json              in a copy of the index: the URL that the shards are downloaded from

Positions follow the shards: the images of shard s are those from ``first`` of s up to, but not, ``first`` of s + 1.
"""

# Dimensions: N images in all, B images requested, S shards.

import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.data.images import printable
from fer_ignite.data.shards.shard_cache import ShardCache
from fer_ignite.errors import DataError, first_clause

__all__ = ["ORIGIN", "SHARD_FOLDER", "ShardImages", "shards_origin"]

ORIGIN = "origin.json"
SHARD_FOLDER = "shards"

logger = logging.getLogger("fer_ignite")


class ShardImages:
    """The images of a data set in shards, as bytes.

    Args:
        folder: of the index.
        shards: of the manifest: ``name``, ``split``, ``first``, ``count``, ``bytes``, ``sha256`` of each.
    """

    def __init__(self, folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
        self.shards = shards
        self.splits = np.array([shard["split"] for shard in shards], dtype=np.str_)
        self.first_S = np.array([shard["first"] for shard in shards], dtype=np.int64)
        self.cache = ShardCache(folder / SHARD_FOLDER, url=shards_origin(folder), shards=shards)
        self._offsets_N, self._sizes_N, self._crcs_N = (
            np.load(folder / f"image_{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("offsets", "sizes", "crcs")
        )

    def __getitem__(self, index: int) -> bytes:
        return self.read(np.array([index]))[0]

    def shard_numbers(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [B]: the shard of each image."""
        return np.searchsorted(self.first_S, indices, side="right") - 1

    def read(self, indices_B: npt.NDArray[np.int64]) -> list[bytes]:
        """The bytes of B images, in the order of ``indices_B``; each shard is opened once.

        A downloaded copy with a damaged image is downloaded once more.

        Raises:
            DataError: a shard is missing, or an image in it is damaged.
            StorageError: a shard can't be downloaded.
        """
        shards_B = self.shard_numbers(indices_B)
        images: list[bytes] = [b""] * len(indices_B)
        for number in np.unique(shards_B).tolist():
            places = np.flatnonzero(shards_B == number)
            for place, data in zip(
                places.tolist(), self._members(number, indices_B[places].tolist()), strict=True
            ):
                images[place] = data
        return images

    def _members(self, number: int, indices: list[int]) -> list[bytes]:
        try:
            return self._members_once(number, indices)
        # Once more only: a shard that is damaged at its source would be downloaded for ever.
        except DataError as error:
            if self.cache.url is None:
                raise
            logger.warning("%s; the shard is downloaded again.", first_clause(error))
            self.cache.discard(number)
            return self._members_once(number, indices)

    def _members_once(self, number: int, indices: list[int]) -> list[bytes]:
        with self.cache.open(number) as handle:
            return [self._member(handle, number, index=index) for index in indices]

    def _member(self, handle: int, number: int, *, index: int) -> bytes:
        data = os.pread(handle, int(self._sizes_N[index]), int(self._offsets_N[index]))
        # At each read: a shard's SHA-256 is compared at its download only, a local one's never.
        if zlib.crc32(data) != int(self._crcs_N[index]):
            raise DataError(
                f"shard {printable(self.cache.path(number))}: image {index} is damaged, its checksum differs; remove the file, "
                "and copy it again where it was not downloaded."
            )
        return data


def shards_origin(folder: Path) -> str | None:
    """Where the shards of an index are downloaded from; None: they lie beside it, or there is no copy."""
    try:
        return str(json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["url"])
    # Nothing else: taken for a local index, one whose URL is damaged would be blamed for missing
    # shards.
    except FileNotFoundError:
        return None
