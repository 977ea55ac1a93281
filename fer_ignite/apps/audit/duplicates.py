"""Exact and near duplicates, as groups of images."""

# Dimensions: N images, D images that differ, S S the side of a small version, P pairs, H W pixels, C channels.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.audit.near_duplicates import SIDE_PX, near_pairs
from fer_ignite.data.cache.format import DatasetCache

__all__ = ["Copies", "differs_in", "find_copies", "same_person", "small_versions"]

_FLAT = 2.0  # gray levels: standard deviation below which there is nothing to compare
_PIECE = 1024
# Of near pairs on FER2013 23 % differ in their labels, on drawn persons with one and three pictures per expression all and 47 %.
_DISAGREEMENT_OF_PERSONS = 0.35
_SHARE_OF_PERSONS = 0.1  # FER2013: 0.04

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """Which images are copies of which.

    Attributes:
        exact_N, near_N: int64, equal for copies; near groups hold exact ones. Numbers are the first member's place.
        mirrored_N: bool, alike to another image of its group only when mirrored.
        flat_N: bool, (nearly) one gray level, nothing to be seen.
    """

    exact_N: Numbers
    near_N: Numbers
    mirrored_N: NDArray[np.bool_]
    flat_N: NDArray[np.bool_]


def find_copies(cache: DatasetCache) -> Copies:
    """Compares all images of a dataset cache with all others; the time grows with the square of their number."""
    small, flat = [], []
    for at in range(0, len(cache), _PIECE):
        images_BHWC = cache.read(np.arange(at, min(at + _PIECE, len(cache))))
        gray_BHW = images_BHWC.mean(axis=3, dtype=np.float32)
        flat.append(gray_BHW.std(axis=(1, 2)) < _FLAT)
        small.append(small_versions(gray_BHW, SIDE_PX).round().astype(np.uint8))
    flat_N = np.concatenate(flat)
    exact_N = _first_members(cache.copies)
    # One of each set of equal images: the others would fill its list of neighbours.
    different = np.flatnonzero((exact_N == np.arange(len(cache))) & ~flat_N)
    pairs_P2, mirrored_P, _ = near_pairs(np.concatenate(small)[different])
    near_N = _joined(exact_N, different[pairs_P2])
    # Alike without a mirror: by such a pair, or by equal pixels, of which near_pairs was given one image only.
    plain_N = _in_pair(len(cache), different[pairs_P2[~mirrored_P]]) | (
        np.bincount(exact_N, minlength=len(cache))[exact_N] > 1
    )
    return Copies(
        exact_N, near_N, _in_pair(len(cache), different[pairs_P2[mirrored_P]]) & ~plain_N, flat_N
    )


def same_person(
    copies: Copies, labels_N: Numbers, *, persons_N: Numbers | None
) -> NDArray[np.bool_]:
    """bool [N]: images whose near copies are probably the same person with another expression, not the same picture.

    Such are near groups with several labels whose members are one person's; and all near groups with several labels where a
    tenth of the data set has near copies with other labels, and more than a third of near pairs differ in them: posed sets are
    so, and sets with errors in their labels are not.

    Args:
        persons_N: the data's groups; None: not known.
    """
    several_N = differs_in(copies.near_N, labels_N) & ~copies.flat_N
    posed = (
        several_N.mean() >= _SHARE_OF_PERSONS
        and _label_disagreement(copies, labels_N) >= _DISAGREEMENT_OF_PERSONS
    )
    if posed:
        return several_N
    # Without groups a contradiction in a set that is not posed counts as an error of labels.
    if persons_N is None:
        return np.zeros(len(labels_N), dtype=np.bool_)
    found_N: NDArray[np.bool_] = several_N & ~differs_in(copies.near_N, np.asarray(persons_N))
    return found_N


def _label_disagreement(copies: Copies, labels_N: Numbers) -> float:
    """Share of the pairs within near groups that differ in their labels; equal pixels count once."""
    first_N = np.flatnonzero((copies.exact_N == np.arange(len(labels_N))) & ~copies.flat_N)
    _, group_N = np.unique(copies.near_N[first_N], return_inverse=True)
    counts_GK = np.zeros((int(group_N.max(initial=0)) + 1, int(labels_N.max(initial=0)) + 1))
    np.add.at(counts_GK, (group_N, labels_N[first_N]), 1)
    size_G = counts_GK.sum(axis=1)
    pairs = float((size_G * (size_G - 1) / 2).sum())
    same = float((counts_GK * (counts_GK - 1) / 2).sum())
    return (pairs - same) / pairs if pairs else 0.0


def differs_in(groups_N: Numbers, values_N: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether the members of an image's group have several values."""
    # A group has several values where its smallest and largest differ.
    low, high = np.full(len(groups_N), np.iinfo(np.int64).max), np.full(len(groups_N), -1)
    np.minimum.at(low, groups_N, values_N.astype(np.int64))
    np.maximum.at(high, groups_N, values_N.astype(np.int64))
    differs_N: NDArray[np.bool_] = low[groups_N] < high[groups_N]
    return differs_N


def small_versions(gray_BHW: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """float32 [B, side, side]: averages over equal areas."""
    rows, columns = (_averaging(length, side) for length in gray_BHW.shape[1:])
    small_BSS: NDArray[np.float32] = rows @ gray_BHW @ columns.T
    return small_BSS


def _averaging(length: int, side: int) -> NDArray[np.float32]:
    """[side, length]: each row averages its share of a line, pixels at the border in part."""
    edges = np.linspace(0, length, side + 1)
    pixels = np.arange(length)
    cover = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    cover = np.maximum(cover, 0)
    return (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)


def _first_members(groups_N: Numbers) -> Numbers:
    """The groups under another number: the place of each one's first member."""
    _, first_G, group_N = np.unique(groups_N, return_index=True, return_inverse=True)
    return first_G[group_N].astype(np.int64)


def _joined(groups_N: Numbers, pairs_P2: Numbers) -> Numbers:
    """Groups joined by pairs, under the place of the first member; a chain of pairs makes one group."""
    above = groups_N.copy()

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = int(above[place])
        return place

    for one, two in pairs_P2.tolist():
        low, high = sorted((top(one), top(two)))
        # The lower place is the root: a group's number is then its first member's place.
        above[high] = low
    return np.array([top(place) for place in range(len(above))], dtype=np.int64)


def _in_pair(count: int, pairs_P2: Numbers) -> NDArray[np.bool_]:
    found_N = np.zeros(count, dtype=np.bool_)
    found_N[pairs_P2.reshape(-1)] = True
    return found_N
