"""Dataset of a run: classes, labels, splits, statistics and a fetcher of raw images."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.data.cache.decode import choose_side
from fer_ignite.data.cache.format import DatasetCache, open_cache
from fer_ignite.data.exclude_list import read_exclude_list
from fer_ignite.data.fetchers import (
    CacheFetcher,
    DataLoaderFetcher,
    Fetcher,
    is_finished,
    sample_image,
    unpaired,
)
from fer_ignite.data.images import fit_image
from fer_ignite.data.loader import Targets
from fer_ignite.data.sampler import generator
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.read_ahead import ShardFetcher
from fer_ignite.errors import DataError

__all__ = ["FaceDataset", "dataset_from_cache", "dataset_from_user_class"]

_STATISTICS_SAMPLES = 2000
_SIDE_SAMPLES = (
    64  # their sizes decide the side, unless another size breaks "all are squares of one side"
)


@dataclass
class FaceDataset:
    """Labelled faces in splits.

    Attributes:
        indices: split -> int64 places in the data.
        side_px: side of the stored faces, or of finished tensors.
        mean, std: per channel of the train split, in [0, 1].
        fingerprint: of the content; equal where the same data lies elsewhere.
        leaks: bool [N] or None: faces that occur in a later split too: of train in val or test, of val in test.
        cache: the dataset cache with the pixels, if there is one.
        fetch: sample by place, if not packed.
        exclude: the list of images that training leaves out; read when the train split is requested.
        resize_mode: how other images than squares get their side.
        finished: samples are float tensors, which are neither resized, augmented nor normalised.
    """

    classes: tuple[str, ...]
    targets: Targets
    indices: dict[str, NDArray[np.int64]]
    side_px: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    source: str
    leaks: NDArray[np.bool_] | None = None
    cache: DatasetCache | None = None
    fetch: Callable[[int], Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    exclude: str | None = None
    resize_mode: str = "squash"
    finished: bool = False

    def train_indices(
        self, *, drop_train_duplicates: bool, limit: int | None, seed: int
    ) -> NDArray[np.int64]:
        """The train split without excluded faces, without train duplicates where requested; the first ``limit`` of a seeded order."""
        indices = self.indices["train"]
        if drop_train_duplicates and self.leaks is not None:
            indices = indices[~self.leaks[indices]]
        if self.exclude is not None and self.cache is not None:
            indices = np.setdiff1d(indices, read_exclude_list(self.exclude).positions(self.cache))
        # The limit comes last: it counts faces that are trained on.
        if limit is not None and self.cache is not None and self.cache.shards is not None:
            indices = indices[
                :limit
            ]  # written in a random order; a sample of all would touch every shard
        elif limit is not None and limit < len(indices):
            indices = np.sort(generator(seed, "limit").permutation(indices)[:limit])
        return indices

    def shortened(self, most: int) -> "FaceDataset":
        """The same with at most ``most`` faces in val and in test."""
        return replace(
            self,
            indices={
                split: places if split == "train" else places[:most]
                for split, places in self.indices.items()
            },
        )

    def image_id(self, place: int) -> str:
        """The image's name; its place where the data names none."""
        return str(place) if self.cache is None else self.cache.sample_id(place)

    def counts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [K]: how often each class occurs among ``indices``."""
        return np.bincount(self.targets.labels_N[indices], minlength=len(self.classes))

    def split_fingerprint(self, split: str) -> str | None:
        """SHA-256 over a split's pixels, whatever the order of its faces; None where they can't be read as bytes."""
        if self.cache is None:
            return None
        # Sorted below: the same images dealt in another order are the same split.
        digests = [digest.tobytes() for digest in self.cache.digests[self.indices[split]]]
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()

    def in_train(
        self, split: str, *, trained_N: NDArray[np.int64] | None = None
    ) -> NDArray[np.bool_] | None:
        """Which faces of a split were trained on too, pixel for pixel; None where they can't be read as bytes.

        Args:
            trained_N: places of the faces that were trained on; None: all of train.
        """
        if self.cache is None or split in ("train", "all"):
            return None
        # By the digests that the cache stores: comparing pixels would read both splits.
        copies = self.cache.copies
        trained_N = self.indices["train"] if trained_N is None else trained_N
        return np.isin(copies[self.indices[split]], copies[trained_N])

    def fetcher(
        self,
        device: torch.device,
        *,
        seed: int,
        transform: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        workers: int = 0,
        worker_init: Callable[[int], None] | None = None,
    ) -> Fetcher:
        """The dataset cache's own fetcher, or a ``DataLoader`` where samples can't be packed or have a transform each."""
        if self.cache is not None and transform is None and collate_fn is None:
            if self.cache.shards is not None:
                return ShardFetcher(self.cache, device, channels=self.channels)
            return CacheFetcher(self.cache, device, channels=self.channels)
        fetch = self.fetch if self.fetch is not None else CachedImages(self.cache)
        return DataLoaderFetcher(
            fetch,
            seed=seed,
            device=device,
            side_px=self.side_px or 48,
            channels=self.channels,
            resize_mode=self.resize_mode,
            transform=transform,
            collate_fn=collate_fn,
            workers=workers,
            worker_init=worker_init,
        )


class CachedImages:
    """A dataset cache's faces one by one, as PIL images; what a per-sample transform expects. Pickles as the dataset cache's path."""

    def __init__(self, dataset_cache: DatasetCache | None) -> None:
        assert dataset_cache is not None
        self.cache = dataset_cache

    def __call__(self, index: int) -> Any:
        from PIL import Image

        pixels_HWC = self.cache.read(np.array([index]))[0]
        return Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)


def dataset_from_cache(path: str | Path) -> FaceDataset:
    """A dataset cache as the faces of a run."""
    dataset_cache = open_cache(path)
    return FaceDataset(
        classes=dataset_cache.classes,
        targets=Targets(dataset_cache.labels, len(dataset_cache.classes), dataset_cache.soft),
        indices={split: dataset_cache.indices(split) for split in SPLITS},
        side_px=dataset_cache.height,
        channels=dataset_cache.channels,
        mean=dataset_cache.mean,
        std=dataset_cache.std,
        fingerprint=dataset_cache.fingerprint,
        source=str(dataset_cache.manifest.get("source", path)),
        leaks=dataset_cache.leaks,
        cache=dataset_cache,
        facts=dataset_cache.manifest,
        resize_mode=dataset_cache.manifest["fit"]["mode"],
    )


class _Joined:
    """Several map-style data sets as one, by place."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __call__(self, index: int) -> Any:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part][index - int(self.starts[part])]


def dataset_from_user_class(
    make: Callable[..., Any],
    *,
    name: str,
    val_fraction: float,
    seed: int,
    side_px: int | None = None,
    channels: str = "auto",
    resize_mode: str = "squash",
) -> FaceDataset:
    """A user's data set as the faces of a run.

    Args:
        make: called as ``make(split="train")``, "val" and "test"; returns a map-style data set of (image, label) with
            ``classes`` (names in label order) and, so that labels need no reading of images, ``targets``; None where
            there is no such split. Images are PIL images, uint8 pixels, or finished float tensors [C, H, W]. A label is a
            number, or one of the names in ``classes``.
        side_px: the largest side of the faces, for images; None: the images' own where all are squares of one side, else the
            median of their sides, 224 at most.
        channels, resize_mode: the settings of these names, for images; "auto" is gray where all images that are looked at are.
    Raises:
        DataError: no train split, no class names, labels outside of them, ``targets`` that are not the samples' labels, or images
            of another kind.
    """
    _require_factory(make, name)
    parts = {split: make(split=split) for split in SPLITS}
    for split, part in parts.items():
        if part is not None and not (
            hasattr(part, "__len__") and (not len(part) or hasattr(part, "__getitem__"))
        ):
            raise DataError(
                f"{name}(split={split!r}) returned {type(part).__name__}; it must return a map-style data set "
                "(with __len__ and __getitem__) or None."
            )
    present = {split: part for split, part in parts.items() if part is not None and len(part)}
    if "train" not in present and (getattr(make, "needs_train", True) or not present):
        raise DataError(
            f"{name}(split='train') gave no data; it must return a data set with at least one sample."
        )
    first = next(iter(present.values()))
    classes = tuple(map(str, getattr(make, "classes", None) or _class_names(first)))
    known = {split: _numbers(_labels(part), classes, name=name) for split, part in present.items()}
    labels = np.concatenate(list(known.values()))
    unnamed = not classes and not getattr(make, "needs_train", True)
    if unnamed:
        classes = tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))
    if len(classes) < 2:
        raise DataError(
            f"{name} has the classes {list(classes)}; give the data set an attribute `classes` with two names or more."
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{name} has labels {labels.min()} to {labels.max()} for {len(classes)} classes; allowed are 0 to {len(classes) - 1}."
        )
    for split, part in present.items():
        _require_same_labels(part, known[split], classes=classes, name=name)
    fetch = _Joined(list(present.values()))
    indices = {split: np.arange(0) for split in SPLITS}
    for place, split in enumerate(present):
        indices[split] = np.arange(fetch.starts[place], fetch.starts[place + 1])
    if "val" not in present and "train" in present and val_fraction:
        indices["val"], indices["train"] = _take_share(
            indices["train"], labels, share=val_fraction, seed=seed
        )
    # Evaluation takes data without a train split; its statistics are those of what there is.
    chosen = indices["train"] if len(indices["train"]) else np.arange(len(labels))
    side_px, depth, mean, std, finished = _statistics(
        fetch, chosen, seed=seed, side_px=side_px, channels=channels, resize_mode=resize_mode
    )
    return FaceDataset(
        classes,
        Targets(labels, len(classes)),
        indices,
        side_px,
        depth,
        mean,
        std,
        # Not over the pixels: a user's samples may be random.
        fingerprint=f"dataset:{name}:{len(labels)}",
        source=name,
        fetch=fetch,
        # Folders may be named 0 to K-1 too: the names alone don't tell.
        facts={"unnamed_classes": True} if unnamed else {},
        resize_mode=resize_mode,
        finished=finished,
    )


def _require_factory(make: Any, name: str) -> None:
    """Refuses, before it is called, what can't be called as ``make(split="train")``."""
    try:
        # Bound, not called: a TypeError of the call may come from the user's own code.
        inspect.signature(make).bind(split="train")
    except TypeError:
        raise DataError(
            f"{name} is no data set: it can't be called as {name.split(':')[-1]}(split='train'); name a class or a function "
            "that takes split and returns a data set of (image, label)."
        ) from None
    except ValueError:  # a builtin without a signature
        if not callable(make):
            raise


def _class_names(part: Any) -> Sequence[Any]:
    """A data set's own class names, those of the data set below where it is a subset; none where it has none."""
    while not hasattr(part, "classes") and hasattr(part, "dataset"):
        part = part.dataset
    return getattr(part, "classes", ())


def _labels(part: Any) -> list[Any]:
    known = getattr(part, "targets", None)
    if known is None and hasattr(part, "dataset") and hasattr(part, "indices"):  # a subset
        labels = _labels(part.dataset)
        return [labels[int(index)] for index in part.indices]
    # Reads every sample, and with it every image, once; an attribute `targets` avoids that.
    if known is None:
        return [part[index][1] for index in range(len(part))]
    return _transformed(part, known.tolist() if hasattr(known, "tolist") else list(known))


def _transformed(part: Any, labels: list[Any]) -> list[Any]:
    """``targets`` as ``target_transform`` makes them for the samples; torchvision's data sets keep them untransformed."""
    transform = getattr(part, "target_transform", None)
    if not callable(transform) or not labels:
        return labels
    made = [transform(label) for label in labels]
    if np.ndim(made[0]):  # distributions: the labels stay the classes' numbers
        return labels
    changed = [place for place, label in enumerate(made) if label != labels[place]]
    # A data set of the user's own may keep them transformed already; a sample tells.
    already = changed and _sample_label(part, changed[0]) == labels[changed[0]]
    return labels if already else made


def _sample_label(part: Any, index: int) -> Any:
    """The label of a pair (image, label); None where it is neither a number nor a name."""
    sample = part[index]
    label: Any = sample[1] if isinstance(sample, (tuple, list)) and len(sample) == 2 else None
    return label if isinstance(label, str) or not np.ndim(label) else None


def _require_same_labels(
    part: Any, labels_N: NDArray[np.int64], *, classes: Sequence[str], name: str
) -> None:
    """Refuses ``targets`` that are not the labels of the samples; three samples are read."""
    if len(labels_N) != len(part):
        raise DataError(
            f"{name} has {len(labels_N)} targets for {len(part)} samples; give each sample one, or leave the attribute `targets` out."
        )
    # A sample of three: reading all samples would decode every image.
    for index in sorted({0, len(part) // 2, len(part) - 1}):
        label = _sample_label(part, index)
        if label is not None and _numbers([label], classes, name=name)[0] != labels_N[index]:
            raise DataError(
                f"{name}: sample {index} has the label {label}, and its attribute `targets` says {labels_N[index]}; make them "
                "agree, or leave `targets` out, so that the labels are read from the samples."
            )


def _numbers(labels: Sequence[Any], classes: Sequence[str], *, name: str) -> NDArray[np.int64]:
    """int64 [N]: the classes' numbers, out of numbers or names."""
    places = {label: place for place, label in enumerate(classes)}
    numbers = [
        places[x]
        if isinstance(x, str) and x in places
        else _whole_number(int(x) if isinstance(x, str) and x.isdecimal() else x)
        for x in labels
    ]
    if None in numbers:
        raise DataError(
            f"{name} has the label {labels[numbers.index(None)]!r}; a label is a whole number from 0, or one of the names in "
            f"`classes` ({', '.join(classes) or 'none'})."
        )
    return np.array(numbers, dtype=np.int64)


def _whole_number(label: Any) -> int | None:
    try:
        return int(label) if int(label) == label else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: a tensor of several
        return None


def _take_share(
    indices: NDArray[np.int64], labels: NDArray[np.int64], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A stratified, seeded share of ``indices``, and the rest; a class of one sample stays in the rest."""
    draw = generator(seed, "split")
    taken = []
    for label in np.unique(labels[indices]):
        members = draw.permutation(indices[labels[indices] == label])
        # At least one, never all: a class of two samples is in both parts.
        taken.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    first = np.sort(np.concatenate(taken))
    return first, np.setdiff1d(indices, first)


def _statistics(
    fetch: Callable[[int], Any],
    indices: NDArray[np.int64],
    *,
    seed: int,
    side_px: int | None,
    channels: str,
    resize_mode: str,
) -> tuple[int, int, tuple[float, ...], tuple[float, ...], bool]:
    """Side, channels, mean and std of up to 2000 train samples, and whether these are finished tensors, normalised already."""
    chosen = generator(seed, "limit").permutation(indices)[:_STATISTICS_SAMPLES]
    first = unpaired(fetch(int(chosen[0])))
    if is_finished(first):
        if first.ndim != 3:
            raise DataError(
                f"a sample's tensor has the shape {list(first.shape)}; a finished float tensor has [channels, height, width]."
            )
        depth, _, width = map(int, first.shape)
        return width, depth, (0.0,) * depth, (1.0,) * depth, True
    others = (fetch(int(index)) for index in chosen[1:_SIDE_SAMPLES])
    sizes = [sample_image(sample).size for sample in (first, *others)]
    side, native = choose_side(sizes, side_px, mode=resize_mode)
    gray, sums, squares, sizes = _sums(fetch, chosen, side, channels=channels, mode=resize_mode)
    again, _ = choose_side(sizes, side_px, mode=resize_mode)
    # Of many sizes the first samples gave a median already; the largest, or one size for all, needs every sample.
    if again != side and (native or side_px is not None):
        side = again
        gray, sums, squares, _ = _sums(fetch, chosen, side, channels=channels, mode=resize_mode)
    depth = 1 if channels == "gray" or (channels == "auto" and gray) else 3
    mean = sums[:depth] / (len(chosen) * side * side)
    std = np.sqrt(np.maximum(squares[:depth] / (len(chosen) * side * side) - mean**2, 0))
    # Clipped below: normalise() refuses the deviation 0 of images of one gray.
    return side, depth, tuple(mean.tolist()), tuple(std.clip(1e-3).tolist()), False


def _sums(
    fetch: Callable[[int], Any],
    indices: NDArray[np.int64],
    side_px: int,
    *,
    channels: str,
    mode: str,
) -> tuple[bool, NDArray[np.float64], NDArray[np.float64], list[tuple[int, int]]]:
    """Whether all images are gray; float64 [3]: sums of their pixels in 0..1, and of the squares; width and height of each."""
    gray, sums, squares, sizes = True, np.zeros(3), np.zeros(3), []
    # Image by image: 2,000 colour images of 224 px would take 2.4 GB as float64. Gray ones count in all three channels.
    for index in indices:
        image = sample_image(fetch(int(index)))
        sizes.append(image.size)
        gray = gray and image.mode == "L"
        own = "gray" if channels == "gray" or image.mode == "L" else "rgb"
        pixels_HWC = fit_image(image, side_px, mode=mode, channels=own) / 255.0
        sums += pixels_HWC.sum(axis=(0, 1))
        squares += np.square(pixels_HWC).sum(axis=(0, 1))
    return gray, sums, squares, sizes
