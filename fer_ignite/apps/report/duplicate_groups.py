"""Duplicates with different labels or in different splits."""

# Dimensions: N images in the dataset cache, H W pixels, C channels.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.report.thumbnails import thumbnail_uri
from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.samples import SPLITS

__all__ = ["duplicate_groups"]

MOST_GROUPS = 24


def duplicate_groups(cache: DatasetCache, split: str) -> list[dict[str, Any]]:
    """Groups of equal pictures that touch a split, most contradicting first, up to 24.

    Returns:
        ``image`` (data URI), ``copies`` [{id, split, label}], ``contradicts``.
    """
    groups = _worth_showing(cache.copies, cache, split=SPLITS.index(split))
    return [_described(cache, group) for group in groups[:MOST_GROUPS]]


def _worth_showing(
    copies_N: NDArray[np.int64], cache: DatasetCache, *, split: int
) -> list[NDArray[np.int64]]:
    """Groups with a member in the split and another label or split beside it; more labels first, then more splits."""
    touched = np.unique(copies_N[cache.splits == split])
    sizes = np.bincount(copies_N)
    # All groups by one sort: comparing every group with all images would take groups times images.
    order_N = np.argsort(copies_N, kind="stable")
    ends = np.cumsum(sizes)
    ranked = []
    for group in touched[sizes[touched] > 1].tolist():
        members = order_N[ends[group] - sizes[group] : ends[group]]
        labels, splits = (
            len(set(cache.labels[members].tolist())),
            len(set(cache.splits[members].tolist())),
        )
        if labels > 1 or splits > 1:
            ranked.append((-labels, -splits, int(members[0]), members))
    return [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])]


def _described(cache: DatasetCache, members: NDArray[np.int64]) -> dict[str, Any]:
    copies = [
        {
            "id": cache.sample_id(place),
            "split": SPLITS[int(cache.splits[place])],
            "label": cache.classes[int(cache.labels[place])],
        }
        for place in members.tolist()
    ]
    contradicts = len({copy["label"] for copy in copies}) > 1
    return {
        "image": thumbnail_uri(cache.read(members[:1])[0]),
        "copies": copies,
        "contradicts": contradicts,
    }
