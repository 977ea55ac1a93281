"""K-fold cross-validation over train and val; test is left out."""

# Dimensions: N images of the pool (train and val), U units (images that stay together), F folds, C channels.

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.cache.pixel_facts import mean_and_std, measure
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.sampler import generator
from fer_ignite.data.splits import joined_units
from fer_ignite.errors import ConfigError

__all__ = ["build_fold_dataset", "deal"]

Indices = NDArray[np.int64]

_PIECE = 1024


def build_fold_dataset(faces: FaceDataset, *, folds: int, fold: int, seed: int) -> FaceDataset:
    """The same faces in other splits: ``fold`` is val, the other folds are train, nothing is test.

    Equal images stay in one fold, and so do the data's own groups. A user's data set that isn't packed has neither: its
    samples are dealt one by one, and it keeps its mean and standard deviation.

    Args:
        fold: 0 to ``folds`` - 1.
        seed: of the deal; the same in all folds of one cross-validation.
    Raises:
        ConfigError: fewer units than folds.
    """
    # Sorted: the deal must not depend on which of the faces were val before.
    pool_N = np.sort(np.concatenate([faces.indices["train"], faces.indices["val"]]))
    units_N, sums_N2C = np.arange(len(pool_N)), None
    if faces.cache is not None:
        copies_N, sums_N2C = faces.cache.copies[pool_N], _pixel_sums(faces.cache, pool_N)
        groups = faces.cache.groups
        units_N = copies_N if groups is None else joined_units(copies_N, np.asarray(groups)[pool_N])
    fold_N = deal(faces.targets.labels_N[pool_N], units_N, folds=folds, seed=seed)
    kept_N = fold_N != fold
    splits = {"train": pool_N[kept_N], "val": pool_N[~kept_N], "test": pool_N[:0]}
    # No copy of a judged face is in train, so there are no leaks to drop.
    dealt = replace(faces, indices=splits, leaks=None)
    if sums_N2C is not None and faces.cache is not None:
        # The cache's own mean and deviation include the faces that are val in this fold.
        dealt.mean, dealt.std = mean_and_std(
            sums_N2C[kept_N], pixels=faces.cache.height * faces.cache.width
        )
    return dealt


def deal(labels_N: Indices, units_N: Indices, *, folds: int, seed: int) -> Indices:
    """Which fold each image belongs to: every class in the same proportions, no unit torn apart.

    The largest units come first; each goes where its classes are rarest so far, and of those to the smallest fold.

    Args:
        labels_N, units_N: int64 class and unit of each image.
    Returns:
        int64 [N] in 0..folds-1. Without units of several images, a class differs by one image at most between folds.
    Raises:
        ConfigError: fewer units than folds.
    """
    _, unit_N, sizes_U = np.unique(units_N, return_inverse=True, return_counts=True)
    if len(sizes_U) < 2:
        raise ConfigError(
            f"--folds {folds}: all images are copies of each other or of one group, and these stay in one fold; leave --folds out."
        )
    if not 2 <= folds <= len(sizes_U):
        most = f"{len(sizes_U)}, the number of images (or groups of them) that are no copies of each other"
        raise ConfigError(f"--folds {folds}: give 2 to {most}.")
    members = np.split(np.argsort(unit_N, kind="stable"), np.cumsum(sizes_U)[:-1])
    # Shuffled, then stably sorted by size: units of one size stay in random order.
    drawn_U = generator(seed, "split").permutation(len(sizes_U))
    order_U = drawn_U[np.argsort(-sizes_U[drawn_U], kind="stable")]
    classes, label_N = np.unique(labels_N, return_inverse=True)
    # 1 / count: in a unit of several classes a rare one decides as much as a common one.
    weights = (1.0 / np.bincount(label_N)).tolist()
    label_of = label_N.tolist()
    counts, totals = [[0] * len(classes) for _ in range(folds)], [0] * folds
    fold_N = np.empty(len(labels_N), dtype=np.int64)
    for unit in order_U.tolist():
        own = [label_of[place] for place in members[unit].tolist()]
        crowding = [
            (sum(counts[fold][label] * weights[label] for label in own), totals[fold], fold)
            for fold in range(folds)
        ]
        chosen = min(crowding)[2]
        for label in own:
            counts[chosen][label] += 1
        totals[chosen] += len(own)
        fold_N[members[unit]] = chosen
    return fold_N


def _pixel_sums(dataset_cache: DatasetCache, indices_N: Indices) -> NDArray[np.int64]:
    """int64 [N, 2, C]: sums of the pixels and of their squares."""
    pieces = [
        measure(dataset_cache.read(indices_N[at : at + _PIECE]))
        for at in range(0, len(indices_N), _PIECE)
    ]
    return np.concatenate([piece[1] for piece in pieces])
