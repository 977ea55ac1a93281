"""Stratified, group-aware train/val/test splits."""

# Dimensions: N images, U units (groups of images that stay together), K classes.

from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.data.samples import SPLITS, UNDECIDED
from fer_ignite.errors import DataError

__all__ = [
    "AS_THE_SOURCE_SAYS",
    "DEFAULT_SPLIT",
    "assign_splits",
    "assign_val_split",
    "joined_units",
    "report_duplicates",
]

DEFAULT_SPLIT = (0.8, 0.1, 0.1)
AS_THE_SOURCE_SAYS = "as the source says"
"""In the sentence about a data set's splits: test, where there is one, is the source's own."""
# "roles" in ASCII, as splits were called once: the second half of the generator's key. Another value
# would deal other splits of the same data and seed.
_PURPOSE = 0x726F6C6573

Splits = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def assign_splits(
    labels_N: Labels, units_N: Labels, *, shares: tuple[float, float, float], seed: int
) -> Splits:
    """Splits drawn at random, every class in the same proportions, no unit torn apart.

    Args:
        labels_N: int64 class of each image.
        units_N: int64 name of the unit that each image belongs to: a person, or one set of equal images.
        shares: of train, val and test; sum 1.
    Returns:
        uint8 [N]: positions in `SPLITS`. A share above 0 gets at least one unit while units last, train first.
    """
    _, first_U, unit_N, sizes_U = np.unique(
        units_N, return_index=True, return_inverse=True, return_counts=True
    )
    # A generator of its own: splits must not change with what else a run draws.
    rng = np.random.Generator(np.random.Philox(key=[seed, _PURPOSE]))
    drawn_U = rng.permutation(len(sizes_U))
    # Within each class the shuffled units get the places (0.5, 1.5, ...) / n of the class; lined up by place, every
    # stretch of the line holds the classes in their proportions, and rare classes stand in the middle, in train.
    # A unit of several labels counts as its first image's class.
    label_U = labels_N[first_U][drawn_U]
    by_class = np.argsort(label_U, kind="stable")
    count_K = np.bincount(label_U)
    start_K = np.cumsum(count_K) - count_K
    place_U = np.empty(len(drawn_U))
    place_U[by_class] = (np.arange(len(drawn_U)) - np.repeat(start_K, count_K) + 0.5) / np.repeat(
        count_K, count_K
    )
    line_U = drawn_U[np.argsort(place_U, kind="stable")]
    split_U = np.zeros(len(line_U), dtype=np.uint8)
    val_end, test_start = _cuts(sizes_U[line_U], shares)
    if shares[0] > 0 and len(line_U) and val_end == test_start:
        line_U, val_end = _with_train(line_U, sizes_U, shares)
        test_start = val_end + 1
    split_U[line_U[:val_end]] = 1
    split_U[line_U[test_start:]] = 2
    return split_U[unit_N.reshape(-1)]


def _cuts(sizes_U: Labels, shares: tuple[float, float, float]) -> tuple[int, int]:
    """Where val, at the head of the line, ends and test, at its tail, starts: at the units nearest to the shares."""
    middle_U = np.cumsum(sizes_U) - sizes_U / 2
    total, units = sizes_U.sum(), len(sizes_U)
    val_end = int(np.searchsorted(middle_U, shares[1] * total))
    test_start = int(np.searchsorted(middle_U, (1 - shares[2]) * total))
    wanted = [share > 0 for share in shares]
    if wanted[1] and units >= 2:
        val_end = max(val_end, 1)
    if wanted[2] and units >= 1 + sum(wanted[:2]):
        test_start = min(test_start, units - 1)
    return val_end, max(test_start, val_end)


def _with_train(
    line_U: Labels, sizes_U: Labels, shares: tuple[float, float, float]
) -> tuple[Labels, int]:
    """A line with the largest unit between val and test, for units so unequal that train got none; and where val ends."""
    largest = line_U[sizes_U[line_U].argmax()]
    rest_U = line_U[line_U != largest]
    _, val, test = shares
    val_end = round(len(rest_U) * val / (val + test)) if val + test else 0
    if val:  # val before test, as elsewhere, where one unit is left
        val_end = min(max(val_end, 1), len(rest_U))
    if test and len(rest_U) > 1:
        val_end = min(val_end, len(rest_U) - 1)
    return np.concatenate([rest_U[:val_end], [largest], rest_U[val_end:]]), val_end


def assign_val_split(
    labels_N: Labels,
    splits_N: Splits,
    *,
    units_N: Labels,
    split: tuple[float, float, float] | None,
    val_fraction: float,
    seed: int,
    grouped: bool,
) -> tuple[Splits, str]:
    """The final splits, and how they came about in one sentence.

    Args:
        splits_N: the source's own splits, or `UNDECIDED` throughout.
        units_N: images that stay together.
        split: shares for a source without splits; None takes 0.8, 0.1, 0.1.
        val_fraction: share of train that becomes val where the source has no val; 0 leaves it without.
        grouped: the units are the user's groups, not just equal images; for the sentence only.
    Raises:
        DataError: the source has splits of its own and `split` was given too.
    """
    how = f"stratified{', by group' if grouped else ', equal images together'}, seed {seed}"
    if (splits_N == UNDECIDED).all():
        shares = split or DEFAULT_SPLIT
        note = "" if split else " (the default; --split sets it)"
        text = "/".join(f"{100 * share:g}" for share in shares)
        return assign_splits(
            labels_N, units_N, shares=shares, seed=seed
        ), f"train/val/test: {text} %, {how}{note}"
    if split is not None:
        raise DataError(
            "--split was given, but the data says itself what is train, val and test; drop --split."
        )
    if unassigned := int((splits_N == UNDECIDED).sum()):
        raise DataError(
            f"{unassigned:,} of the {len(splits_N):,} images are in no split, and the others are in one; give every image a "
            "split, or none."
        )
    counts = np.bincount(splits_N, minlength=len(SPLITS))
    if counts[1] or not counts[0] or not val_fraction:
        own = ", ".join(name for name, count in zip(SPLITS, counts, strict=False) if count)
        return splits_N, f"{own}: {AS_THE_SOURCE_SAYS}"
    train = np.flatnonzero(splits_N == 0)
    shares = (1 - val_fraction, val_fraction, 0.0)
    # Only train is dealt: test stays the source's, so that results on it can be compared.
    decided_N = splits_N.copy()
    decided_N[train] = assign_splits(labels_N[train], units_N[train], shares=shares, seed=seed)
    others = "train, test" if counts[2] else "train"
    return (
        decided_N,
        f"{others}: {AS_THE_SOURCE_SAYS}; val: {100 * val_fraction:g} % of train, {how}",
    )


def joined_units(one_N: Labels, other_N: Labels) -> Labels:
    """int64 [N]: the number of the unit when all that share a value of either stay together; chains make one unit."""
    units_N = np.arange(len(one_N))
    while True:  # the lowest place of either kind is handed on until nothing changes
        before_N = units_N.copy()
        for names_N in (one_N, other_N):
            name_N = np.unique(names_N, return_inverse=True)[1].reshape(-1)
            low = np.full(len(units_N), len(units_N))
            np.minimum.at(low, name_N, units_N)
            units_N = low[name_N]
        if (units_N == before_N).all():
            return units_N


def report_duplicates(
    copies_N: Labels, labels_N: Labels, *, splits_N: Splits
) -> tuple[dict[str, Any], npt.NDArray[np.bool_]]:
    """What exact copies there are, and which of them leak.

    Args:
        copies_N: int64 0.., equal where the pixels are equal.
    Returns:
        Counts by name, and bool [N]: the image also stands in a split that judges it (train in val or test, val in
        test).
    """
    size_G = np.bincount(copies_N)
    # Bit s is set where a copy lies in split s.
    splits_of_G = np.zeros(len(size_G), dtype=np.uint8)
    np.bitwise_or.at(splits_of_G, copies_N, (1 << splits_N).astype(np.uint8))
    low_G = np.full(len(size_G), np.iinfo(np.int64).max)
    high_G = np.full(len(size_G), -1)
    np.minimum.at(low_G, copies_N, labels_N)
    np.maximum.at(high_G, copies_N, labels_N)
    report: dict[str, Any] = {
        "groups": int((size_G > 1).sum()),
        "images": int(size_G[size_G > 1].sum()),
        "contradicting_groups": int((low_G < high_G).sum()),
        "contradicting_images": int(size_G[low_G < high_G].sum()),
    }
    splits_of_N = splits_of_G[copies_N]
    for split, name in enumerate(SPLITS):
        for other, other_name in enumerate(SPLITS):
            if split != other:
                both_N = (splits_N == split) & ((splits_of_N >> other) & 1 == 1)
                report[f"{name}_in_{other_name}"] = int(both_N.sum())
    # val scores what train fitted, and test what both decided: a copy in a later split, a bit above the own one, is a leak.
    return report, (splits_of_N >> (splits_N + 1)) != 0
