"""Fetchers of raw images: from the dataset cache by index, or from a ``DataLoader``.

Both answer the same request - "these places, in this order, for each coming batch" - so that order, slices and
mix-up partners are decided in one place, `EpochSampler`.
"""

# Dimensions: B faces of a request, H W pixels, C channels, K expressions.

import errno
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.images import fit_image, plain_image
from fer_ignite.data.sampler import generator
from fer_ignite.errors import NO_SHARED_MEMORY, DataError, FerError

__all__ = [
    "CacheFetcher",
    "DataLoaderFetcher",
    "Fetcher",
    "IndexBatch",
    "in_channels",
    "is_finished",
    "sample_image",
    "sample_pixels",
    "unpaired",
]

_WANTED = (
    "give a PIL image, uint8 pixels [H, W] or [H, W, C], a uint8 tensor [C, H, W], or finished float tensors [C, H, W] for all "
    "samples, in a pair (image, label)"
)


@dataclass(frozen=True)
class IndexBatch:
    """Places in the data, and the counters that seed each one's per-sample transform: (epoch, step, position)."""

    indices_B: NDArray[np.int64]
    epoch: int
    step: int
    positions_B: NDArray[np.int64]


class Fetcher(Protocol):
    """Raw faces for a series of requests: uint8 [B, H, W, C], or float [B, C, H, W] that is taken as it is."""

    def batches(self, requests: Iterable[IndexBatch]) -> Iterator[Tensor]:
        """One tensor per request, on the fetcher's device."""


class CacheFetcher:
    """Faces out of a dataset cache; the whole dataset cache lies on the device where it fits.

    Args:
        dataset_cache: where the pixels are.
        device: where batches are wanted.
        channels: 1 turns colour into gray, as Pillow does; gray becomes colour where it is normalised.
        resident_bytes: largest dataset cache that is moved to an accelerator whole.
    """

    def __init__(
        self,
        dataset_cache: DatasetCache,
        device: torch.device,
        *,
        channels: int | None = None,
        resident_bytes: int = 4 << 30,
    ) -> None:
        self.cache, self.device = dataset_cache, device
        self._to_gray = channels == 1 and dataset_cache.channels == 3
        self.resident: Tensor | None = None
        if dataset_cache.is_memmap:
            # a dataset cache larger than memory is mapped read-only; nothing writes to it
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                pixels_NHWC = torch.from_numpy(dataset_cache.pixels)
            if device.type == "cpu":
                self.resident = pixels_NHWC
            elif pixels_NHWC.nbytes <= resident_bytes:
                self.resident = pixels_NHWC.to(device)

    def batches(self, requests: Iterable[IndexBatch]) -> Iterator[Tensor]:
        stored = self._stored(requests)
        return (in_channels(images, 1) for images in stored) if self._to_gray else stored

    def _stored(self, requests: Iterable[IndexBatch]) -> Iterator[Tensor]:
        for request in requests:
            if self.resident is not None:
                indices_B = torch.from_numpy(request.indices_B)
                if self.device.type == "cuda":
                    indices_B = indices_B.pin_memory().to(self.device, non_blocking=True)
                # index_select copies, so augmentation in place can't reach the cached pixels.
                yield self.resident.index_select(0, indices_B.to(self.device))
            else:
                images_BHWC = torch.from_numpy(self.cache.read(request.indices_B))
                if self.device.type == "cuda":
                    images_BHWC = images_BHWC.pin_memory()
                yield images_BHWC.to(self.device, non_blocking=True)


def in_channels(images_BHWC: Tensor, channels: int) -> Tensor:
    """uint8 images with the given number of channels, 1 (gray) or 3 (RGB).

    Colour becomes gray with the weights and the rounding of Pillow (ITU-R 601-2).
    """
    if images_BHWC.shape[3] == channels:
        return images_BHWC
    if channels == 3:
        return images_BHWC.expand(-1, -1, -1, 3)
    # Pillow's fixed-point weights (16 fractional bits, 0x8000 rounds): a network for gray sees the
    # pixels that packing as gray would have stored. int32, as 255 * 38470 needs 24 bits.
    images_BHW3 = images_BHWC
    red, green, blue = images_BHW3.to(torch.int32).unbind(dim=3)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)[..., None]


class _SeededSamples(Dataset[Any]):
    """A map-style data set whose every sample is drawn with random numbers of its own."""

    def __init__(
        self, fetch: Callable[[int], Any], transform: Callable[[Any], Any] | None, *, seed: int
    ) -> None:
        self.fetch, self.transform, self.seed = fetch, transform, seed

    def __getitem__(self, key: tuple[int, int, int, int]) -> Any:
        index, *counters = key
        # Transforms draw from the three global generators. Without workers these are the training
        # process's own, which dropout uses as well, so they are put back.
        saved = (torch.get_rng_state(), random.getstate(), np.random.get_state())
        # By the place in the step, not by the image: the balanced sampler repeats images, and each
        # repetition has draws of its own. Below 2**31, as np.random.seed takes 32 bits.
        entropy = int(generator(self.seed, "sample", *counters).integers(2**31))
        torch.manual_seed(entropy)
        random.seed(entropy)
        np.random.seed(entropy)
        try:
            sample = self.fetch(index)
            if self.transform is None:
                return sample
            image, *label = sample if isinstance(sample, (tuple, list)) else (sample,)
            made = self.transform(image)
            if is_finished(made) and not is_finished(image):
                raise DataError(
                    "--sample-transform turned an image into a float tensor, which would pass by the augmentation and the "
                    "normalisation that val and test have; return a PIL image or uint8 pixels (leave ToTensor and Normalize out), or "
                    "work on batches with --batch-transform."
                )
            return (made, *label) if label else made
        finally:
            torch.set_rng_state(saved[0])
            random.setstate(saved[1])
            np.random.set_state(saved[2])


class _Keys:
    """Batches of sample keys for the loader's ``batch_sampler``, endless when the requests are."""

    def __init__(self, requests: Iterable[IndexBatch]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        # Epoch, step and position travel in the key: a worker process can't know them otherwise.
        for request in self.requests:
            yield [
                (int(index), request.epoch, request.step, int(position))
                for index, position in zip(request.indices_B, request.positions_B, strict=True)
            ]


class DataLoaderFetcher:
    """Faces through a ``torch.utils.data.DataLoader``: a user's data set, or a user's transform per sample.

    Args:
        fetch: sample by place.
        transform: applied to each sample's image, seeded per sample; images stay images (PIL or uint8).
        collate_fn: makes a tensor out of a list of samples; the default stacks them.
        side_px, channels, resize_mode: shape for samples that come as images, and how others than squares get it.
        worker_init: called first in every worker process.
    """

    def __init__(
        self,
        fetch: Callable[[int], Any],
        *,
        seed: int,
        device: torch.device,
        side_px: int,
        channels: int,
        resize_mode: str = "squash",
        transform: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        workers: int = 0,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        self.samples = _SeededSamples(fetch, transform, seed=seed)
        self.device, self.workers, self.worker_init = device, workers, worker_init
        self.collate: Callable[[Sequence[Any]], Any] = collate_fn or _Stack(
            side_px, channels, resize_mode=resize_mode
        )

    def batches(self, requests: Iterable[IndexBatch]) -> Iterator[Tensor]:
        loader: DataLoader[Any] = DataLoader(
            self.samples,
            batch_sampler=_Keys(requests),  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_Shared(self.collate) if self.workers else self.collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=self.worker_init,
            # else the loader draws its base seed from the global state
            generator=torch.Generator().manual_seed(0),
        )
        for images in _report_dead_workers(_started(loader)):
            # A pair's labels are dropped: targets are looked up by place, as for cached images.
            images = images[0] if isinstance(images, (tuple, list)) else images
            yield images.to(self.device, non_blocking=True)


class _Shared:
    """A collate function whose tensors lie in shared memory when it returns.

    Otherwise the worker's sending thread moves them there, and where there is no room its error is only printed: the main
    process would wait for the batch for ever.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[Any]) -> Any:
        batch = self._collate(samples)
        for part in batch if isinstance(batch, (tuple, list)) else (batch,):
            if isinstance(part, Tensor):
                part.share_memory_()
        return batch


def _started(loader: DataLoader[Any]) -> Any:
    """The loader's iterator.

    Raises:
        FerError: its processes find no room in shared memory.
    """
    try:
        return iter(loader)
    except OSError as error:  # a semaphore needs a page of /dev/shm
        if loader.num_workers == 0 or error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise FerError(NO_SHARED_MEMORY) from None


def _report_dead_workers(batches: Any) -> Iterator[Any]:
    """A loader's batches; what a dead worker leaves behind is reported as torch does elsewhere, an error of ours by its sentence.

    Most often torch names the worker. But a batch that was under way arrives as a broken connection instead.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except FerError as error:
            text = str(error)
            if not text.startswith("Caught "):
                raise
            # From a worker: torch puts the traceback in front, whose last line is "fer_ignite.errors.DataError: the sentence".
            raise type(error)(text.strip().splitlines()[-1].partition("Error: ")[2]) from None
        except (OSError, EOFError) as error:
            dead = _dead_worker(getattr(batches, "_workers", ()))
            if dead is None:
                raise
            raise RuntimeError(f"DataLoader worker (pid {dead}) died: {error}") from error
        yield batch


def _dead_worker(workers: Sequence[Any], *, wait_s: float = 2.0) -> int | None:
    """The pid of a worker that has died, or does so in a moment: its connections break before it can be waited for."""
    until = time.monotonic() + wait_s
    while workers and time.monotonic() < until:
        for worker in workers:
            if not worker.is_alive():
                return int(worker.pid)
        time.sleep(0.02)
    return None


class _Stack:
    """Stacks samples: images and uint8 arrays to [B, H, W, C], float tensors [C, H, W] to [B, C, H, W]."""

    def __init__(self, side_px: int, channels: int, *, resize_mode: str) -> None:
        self.side_px, self.channels, self.resize_mode = side_px, channels, resize_mode

    def __call__(self, samples: Sequence[Any]) -> Tensor:
        return torch.stack([self.pixels(sample) for sample in samples])

    def pixels(self, sample: Any) -> Tensor:
        image = unpaired(sample)
        if is_finished(image):
            # A user's network may have made it: neither its graph nor its device goes on.
            return image.detach().cpu()  # type: ignore[no-any-return]
        return torch.from_numpy(
            sample_pixels(image, self.side_px, channels=self.channels, resize_mode=self.resize_mode)
        )


def sample_image(sample: Any) -> Image.Image:
    """An upright PIL image of mode "L" or "RGB", out of a sample's image or of a pair (image, label).

    Args:
        sample: a PIL image, uint8 pixels [H, W] or [H, W, C], or a uint8 tensor [H, W] or [C, H, W].
    Raises:
        DataError: anything else; values of other types are not guessed to lie in 0..1 or 0..65535.
    """
    image = unpaired(sample)
    if isinstance(image, Image.Image):
        # Pillow's rotate, crop and convert keep the EXIF data: what has been turned would be turned again. Only an
        # image straight from its file has a format.
        return plain_image(image, "a sample's image", upright=image.format is None)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise DataError(f"a sample's image is a {type(image).__name__}; {_WANTED}.")
    dtype, shape = str(image.dtype).removeprefix("torch."), list(image.shape)
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image.permute(1, 2, 0)
    channels = image.shape[2] if image.ndim == 3 else 1
    if dtype != "uint8" or image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise DataError(f"a sample's image came as {dtype} {shape}; {_WANTED}.")
    # numpy() takes no tensor of a CUDA device.
    image = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    return plain_image(Image.fromarray(np.ascontiguousarray(pixels)), "a sample's image")


def sample_pixels(
    sample: Any, side_px: int, *, channels: int, resize_mode: str = "squash"
) -> NDArray[np.uint8]:
    """uint8 [side_px, side_px, C], a copy of its own, of whatever :func:`sample_image` takes."""
    # np.array copies: pixels of a PIL image are read-only, about which torch.from_numpy warns.
    return np.array(
        fit_image(
            sample_image(sample),
            side_px,
            mode=resize_mode,
            channels="gray" if channels == 1 else "rgb",
        )
    )


def unpaired(sample: Any) -> Any:
    """The image of a pair (image, label); anything else as it is."""
    return sample[0] if isinstance(sample, (tuple, list)) and sample else sample


def is_finished(image: Any) -> bool:
    """Whether a sample's image is a finished tensor: float [C, H, W], which is neither resized, augmented nor normalised."""
    return isinstance(image, Tensor) and image.is_floating_point()
