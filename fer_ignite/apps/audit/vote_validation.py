"""Validation of the label-error scores against FER+'s ten votes per image."""

# Dimensions: N images, V vote columns.

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.audit.label_issues import SCORES, LabelIssues, auroc, label_issue_score
from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.expressions import FERPLUS_COLUMNS, find_expression
from fer_ignite.data.readers.csv_files import iter_rows
from fer_ignite.data.readers.ferplus import FERPLUS_CLASSES, majority, read_votes
from fer_ignite.data.samples import SPLITS
from fer_ignite.errors import DataError

__all__ = ["validate_against_votes", "voted_labels"]

OTHER = -2  # contempt, unknown, not a face: a majority, and surely for another label
NO_MAJORITY = -1  # no majority, or removed by FER+'s authors


def voted_labels(path: str, cache: DatasetCache) -> NDArray[np.int64]:
    """The majority of FER+'s voters for each image: a class of the data, `OTHER` or `NO_MAJORITY`.

    Raises:
        DataError: the votes are not of this data, row by row, or its classes have other names.
    """
    votes = read_votes(Path(path), iter_rows(Path(path)))
    if len(votes.splits_N) != len(cache) or (votes.splits_N != cache.splits).any():
        raise DataError(
            f"{votes.name} has {len(votes.splits_N)} rows, the data {len(cache)}: votes and images go together row by row; "
            "audit the whole fer2013.csv that they were given for, with its own splits and classes."
        )
    foreign = sorted(set(cache.classes) - set(FERPLUS_CLASSES))
    if foreign:
        raise DataError(
            f"{votes.name}: FER+ knows no {', '.join(foreign)}; audit the data under its own class names."
        )
    names = [find_expression(name) or name for name in FERPLUS_COLUMNS]
    place_V = [cache.classes.index(name) if name in cache.classes else OTHER for name in names]
    # majority() is -1 where there is none, which picks the last entry.
    label_N = np.array([*place_V, NO_MAJORITY], dtype=np.int64)[majority(votes.counts_NV)]
    label_N[~votes.named_N] = NO_MAJORITY
    return label_N


def validate_against_votes(
    voted_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    *,
    splits_N: NDArray[np.uint8],
    issues: LabelIssues,
    probabilities_NK: NDArray[np.float32],
    seen_N: NDArray[np.bool_],
) -> dict[str, Any]:
    """How well the scores find the images whose majority differs from their label.

    Returns:
        A dict by split, with "all" for all of them and "unseen" for those that the network was not trained on, where it
        was on some: ``n`` (images with a majority), ``differ`` (share whose majority differs), ``auroc`` of the score,
        ``auroc_of`` {other scores}, ``listed`` (how many are listed as probably wrong), ``precision`` and ``recall`` of
        that list, and ``suggestion_right`` (share of listed images whose majority is the suggested label).
    """
    scored_N = ~np.isnan(issues.score_N) & (voted_N != NO_MAJORITY)
    parts = {name: scored_N & (splits_N == place) for place, name in enumerate(SPLITS)}
    parts |= {"all": scored_N} | (
        {"unseen": scored_N & ~seen_N} if (scored_N & seen_N).any() else {}
    )
    wrong_N = voted_N != labels_N
    return {
        name: _validate_part(
            voted_N,
            wrong_N,
            labels_N=labels_N,
            issues=issues,
            probabilities_NK=probabilities_NK,
            part=np.flatnonzero(part_N),
        )
        for name, part_N in parts.items()
        if part_N.any()
    }


def _validate_part(
    voted_N: NDArray[np.int64],
    wrong_N: NDArray[np.bool_],
    *,
    labels_N: NDArray[np.int64],
    issues: LabelIssues,
    probabilities_NK: NDArray[np.float32],
    part: NDArray[np.int64],
) -> dict[str, Any]:
    wrong_n, listed_n = wrong_N[part], issues.listed_N[part]
    found = int((wrong_n & listed_n).sum())
    right = int((listed_n & (voted_N[part] == issues.predicted_N[part])).sum())
    return {
        "n": len(part),
        "differ": float(wrong_n.mean()),
        "auroc": auroc(issues.score_N[part], wrong_n),
        "auroc_of": {
            kind: auroc(
                label_issue_score(probabilities_NK[part], labels_N[part], kind=kind), wrong_n
            )
            for kind in SCORES
        },
        "listed": int(listed_n.sum()),
        "precision": found / max(int(listed_n.sum()), 1),
        "recall": found / max(int(wrong_n.sum()), 1),
        "suggestion_right": right / max(int(listed_n.sum()), 1),
    }
