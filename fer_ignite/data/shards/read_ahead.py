"""Fetcher of images in shards: downloads and decodes ahead of the training, in threads."""

# Dimensions: B faces of a request, H W pixels, C channels.

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.fetchers import IndexBatch, in_channels
from fer_ignite.data.shards.shard_cache import SHARDS_UNDER_WAY
from fer_ignite.data.shards.shard_images import ShardImages

__all__ = ["ShardFetcher"]

_DECODED_AHEAD = 4  # batches
_LOOKED_AHEAD = 64  # batches of which only the shards are fetched
_DECODERS = 2  # Pillow holds the interpreter's lock on small files: more threads decode no faster


class ShardFetcher:
    """Faces out of shards, in the order of the requests.

    Within an epoch the shards of coming batches are downloaded, and the next few batches decoded, while the training works.
    Nothing of the next epoch is read before its first batch is requested: it may never come.

    Args:
        dataset_cache: the index of the shards.
        device: where batches are wanted.
        channels: 1 turns colour into gray.
    """

    def __init__(self, dataset_cache: DatasetCache, device: torch.device, *, channels: int) -> None:
        assert dataset_cache.shards is not None
        self.cache, self.shards, self.device, self.channels = (
            dataset_cache,
            dataset_cache.shards,
            device,
            channels,
        )

    def batches(self, requests: Iterable[IndexBatch]) -> Iterator[Tensor]:
        decoders = ThreadPoolExecutor(_DECODERS, "shard-decoder")
        downloads = ThreadPoolExecutor(SHARDS_UNDER_WAY, "shard-download")
        coming = _Coming(requests, self.shards, downloads)
        decoding: deque[Future[Tensor]] = deque()
        try:
            while True:
                while len(decoding) < _DECODED_AHEAD and (
                    request := coming.next(crossing=not decoding)
                ):
                    decoding.append(decoders.submit(self._decode, request))
                if not decoding:
                    return
                coming.look_ahead()
                yield self._on_device(decoding.popleft().result())
        finally:
            # Not waited for: a download that is retried takes half a minute.
            for pool in (decoders, downloads):
                pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, request: IndexBatch) -> Tensor:
        return torch.from_numpy(self.cache.read(request.indices_B))

    def _on_device(self, images_BHWC: Tensor) -> Tensor:
        if self.device.type == "cuda":
            images_BHWC = images_BHWC.pin_memory()
        images_BHWC = images_BHWC.to(self.device, non_blocking=True)
        return in_channels(images_BHWC, 1) if self.channels == 1 else images_BHWC


class _Coming:
    """Requests whose shards are downloaded before they are taken, up to the end of their epoch."""

    def __init__(
        self, requests: Iterable[IndexBatch], shards: ShardImages, downloads: ThreadPoolExecutor
    ) -> None:
        self._source, self._shards, self._downloads = iter(requests), shards, downloads
        self._waiting: deque[tuple[IndexBatch, list[int]]] = deque()
        self._needed: Counter[int] = Counter()  # of the waiting requests, by shard
        self._fetching: dict[int, Future[None]] = {}
        self._held: IndexBatch | None = None
        self._epoch: int | None = None

    def next(self, *, crossing: bool) -> IndexBatch | None:
        """The next request; None: there is none, or it is of another epoch and ``crossing`` is not set."""
        if not self._waiting and not self._pull(crossing=crossing):
            return None
        request, numbers = self._waiting.popleft()
        # -= on a Counter drops what reaches 0, so len() counts the shards still needed.
        self._needed -= Counter(numbers)
        self._epoch = request.epoch
        return request

    def look_ahead(self) -> None:
        """Downloads shards of later requests, one at a time and no more than the local copies have room for."""
        cache = self._shards.cache
        if cache.url is None:
            return
        # A shard that is fetched too early would push out one that is still read.
        room = cache.capacity - SHARDS_UNDER_WAY
        while (
            len(self._waiting) < _LOOKED_AHEAD
            and len(self._needed) < room
            and all(future.done() for future in self._fetching.values())
        ):
            if not self._pull(crossing=False):
                return

    def _pull(self, *, crossing: bool) -> bool:
        if self._held is None:
            self._held = next(self._source, None)
        if self._held is None:
            return False
        if not crossing and self._epoch is not None and self._held.epoch != self._epoch:
            return False
        request, self._held = self._held, None
        numbers = np.unique(self._shards.shard_numbers(request.indices_B)).tolist()
        self._waiting.append((request, numbers))
        self._needed.update(numbers)
        self._fetch(numbers)
        return True

    def _fetch(self, numbers: list[int]) -> None:
        for number in [number for number, future in self._fetching.items() if future.done()]:
            del self._fetching[number]
        for number in numbers:
            if number not in self._fetching and not self._shards.cache.has(number):
                self._fetching[number] = self._downloads.submit(self._download, number)

    def _download(self, number: int) -> None:
        with self._shards.cache.open(number):
            pass
