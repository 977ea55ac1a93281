"""Findings per image and the images advised to drop, as the rows of audit.csv."""

# Dimensions: N images, G groups of copies, K expressions.

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.audit.duplicates import Copies, differs_in, same_person
from fer_ignite.apps.audit.label_issues import LabelIssues
from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.exclude_list import formula_safe
from fer_ignite.data.images import FORMAT_OF_SUFFIX
from fer_ignite.data.samples import SPLITS

__all__ = ["KINDS", "Finding", "as_csv", "collect", "group_majority"]

# In the order of the rows: the surest findings first.
KINDS = (
    "broken",
    "blank",
    "label",
    "contradicting",
    "across_splits",
    "same_person",
    "exact_copy",
    "near_copy",
    "mirrored",
)

_YES_NO = ("no", "yes")

# As the dataset cache lists what it can't use. A file's name may hold ": ", and ends with its suffix.
_NAME_AND_REASON = re.compile(
    rf"(.*?(?:{'|'.join(map(re.escape, FORMAT_OF_SUFFIX))})|.*?): (.*)", re.DOTALL | re.IGNORECASE
)

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One image with at least one finding; the fields are the columns of audit.csv.

    Attributes:
        kinds: of :data:`KINDS`, with ";" between.
        score: how doubtful the label is, 0 to 1; empty where it was not judged.
        suggested: another label; empty where none is suggested.
        copy_of: id of the group's first image in test, val, train.
        group: number of its group of copies.
        seen: yes where the network that judged it was trained on it.
        drop: yes or no; what ``train --exclude`` obeys. Never yes for val and test.
        place: in the dataset cache; -1 for a broken image, which is not in it. No column.
    """

    id: str
    split: str = ""
    label: str = ""
    kinds: str = ""
    score: str = ""
    suggested: str = ""
    copy_of: str = ""
    group: str = ""
    seen: str = ""
    drop: str = "no"
    note: str = ""
    place: int = -1


def collect(
    cache: DatasetCache, copies: Copies, *, issues: LabelIssues, seen_N: Flags, drop_above: float
) -> list[Finding]:
    """All findings, the surest kinds first, doubtful labels by falling score.

    Args:
        seen_N: images that the judging network was trained on.
        drop_above: score in [0, 1] from which a doubtful train label is advised to be left out.
    """
    labels_N, splits_N = np.asarray(cache.labels), np.asarray(cache.splits)
    grouped_N = _has_copies(copies.near_N)
    grouped_N &= ~copies.flat_N  # all blank images are alike
    person_N = same_person(copies, labels_N, persons_N=cache.groups)
    # of one person's pictures, only equal ones are copies
    alike_N = np.where(person_N, copies.exact_N, copies.near_N)
    copied_N = grouped_N & _has_copies(alike_N)
    majority_N = group_majority(alike_N, labels_N, num_classes=len(cache.classes))
    flags = {
        "blank": copies.flat_N,
        "label": issues.listed_N & ~copies.flat_N,  # a blank has no right label
        "contradicting": copied_N & differs_in(alike_N, labels_N),
        "across_splits": copied_N & differs_in(alike_N, splits_N),
        "same_person": grouped_N & person_N,
        "exact_copy": grouped_N & _has_copies(copies.exact_N),
        "mirrored": grouped_N & ~person_N & copies.mirrored_N,
    }
    flags["near_copy"] = grouped_N & ~person_N & ~flags["exact_copy"] & ~flags["mirrored"]
    drop_N = _advice(
        copies,
        alike_N,
        flags=flags,
        labels_N=labels_N,
        splits_N=splits_N,
        majority_N=majority_N,
        issues=issues,
        drop_above=drop_above,
    )
    first_N = _heads(copies.near_N, splits_N)

    def name(label: int) -> str:
        return cache.classes[label]

    def finding(place: int) -> Finding:
        suggested = int(issues.predicted_N[place]) if flags["label"][place] else -1
        if suggested < 0 and flags["contradicting"][place]:
            suggested = int(majority_N[place])
        label, first = int(labels_N[place]), int(first_N[place])
        score, grouped = issues.score_N[place], bool(grouped_N[place])
        scored = not np.isnan(score)
        return Finding(
            id=cache.sample_id(place),
            split=SPLITS[splits_N[place]],
            label=name(label),
            kinds=";".join(kind for kind in KINDS if kind in flags and flags[kind][place]),
            score=f"{score:.4f}" if scored else "",
            suggested=name(suggested) if suggested >= 0 and suggested != label else "",
            copy_of=cache.sample_id(first) if grouped and first != place else "",
            group=str(int(copies.near_N[place])) if grouped else "",
            seen=_YES_NO[bool(seen_N[place])] if scored else "",
            drop=_YES_NO[bool(drop_N[place])],
            place=place,
        )

    found = np.flatnonzero(np.logical_or.reduce(list(flags.values()))).tolist()
    found.sort(key=lambda place: _rank(place, flags, issues=issues, copies=copies))
    return [*_broken(cache), *map(finding, found)]


def _has_copies(groups_N: Numbers) -> Flags:
    """bool [N]: whether an image's group has several members."""
    several_N: Flags = np.bincount(groups_N, minlength=len(groups_N))[groups_N] > 1
    return several_N


def _broken(cache: DatasetCache) -> list[Finding]:
    """Files that can't be read: they are not in the dataset cache, so there is nothing to leave out."""
    parts = [_NAME_AND_REASON.fullmatch(text) for text in cache.manifest["skipped"]]
    return [Finding(id=part[1], kinds="broken", note=part[2]) for part in parts if part is not None]


def _advice(
    copies: Copies,
    alike_N: Numbers,
    *,
    flags: dict[str, Flags],
    labels_N: Numbers,
    splits_N: NDArray[np.uint8],
    majority_N: Numbers,
    issues: LabelIssues,
    drop_above: float,
) -> Flags:
    """Train images that are better left out.

    Blank ones; those that also stand in val or test; of copies with several labels, those that the majority of the
    copies is against, and all where there is none; all but the first of exact copies; very doubtful labels.
    """
    train_N = splits_N == SPLITS.index("train")
    judged_N = np.isin(alike_N, alike_N[~train_N])  # a member of its group selects or judges
    # Without a majority (-1) no label agrees, and all train images of the group are left out.
    outvoted_N = flags["contradicting"] & (labels_N != majority_N)
    doubtful_N = flags["label"] & (np.nan_to_num(issues.score_N) >= drop_above)
    drop_N = train_N & (
        flags["blank"] | (flags["across_splits"] & judged_N) | outvoted_N | doubtful_N
    )
    # The first of those that stay: if the first of all was dropped, another copy takes its place.
    left = np.flatnonzero(train_N & ~drop_N)
    first = np.zeros(len(labels_N), dtype=np.bool_)
    first[left[np.unique(copies.exact_N[left], return_index=True)[1]]] = True
    again_N: Flags = train_N & flags["exact_copy"] & ~first
    # Val and test are in neither: what judges stays whole, whatever was found in it.
    return drop_N | again_N


def group_majority(groups_N: Numbers, labels_N: Numbers, *, num_classes: int) -> Numbers:
    """int64 [N]: the label that more than half of an image's group has, else -1."""
    _, group_N = np.unique(groups_N, return_inverse=True)
    counts_GK = np.zeros((int(group_N.max()) + 1, num_classes), dtype=np.int64)
    np.add.at(counts_GK, (group_N, labels_N), 1)
    majority_G = np.where(
        2 * counts_GK.max(axis=1) > counts_GK.sum(axis=1), counts_GK.argmax(axis=1), -1
    )
    majority_N: Numbers = majority_G[group_N]
    return majority_N


def _heads(groups_N: Numbers, splits_N: NDArray[np.uint8]) -> Numbers:
    """The image of each group that the others are called copies of: of test before val before train, then the first."""
    order = np.lexsort((np.arange(len(groups_N)), -splits_N.astype(np.int64)))
    head = np.zeros(len(groups_N), dtype=np.int64)
    head[groups_N[order[::-1]]] = order[::-1]  # the last to be written is the first in order
    heads_N: Numbers = head[groups_N]
    return heads_N


def _rank(
    place: int, flags: dict[str, Flags], *, issues: LabelIssues, copies: Copies
) -> tuple[int, float, int, int]:
    kind = next(number for number, kind in enumerate(KINDS) if kind in flags and flags[kind][place])
    score = -float(issues.score_N[place]) if KINDS[kind] == "label" else 0.0
    return kind, score, int(copies.near_N[place]), place


def as_csv(findings: Sequence[Finding]) -> str:
    """audit.csv: a row per image, cells safe in a spreadsheet."""
    columns = [column.name for column in fields(Finding) if column.name != "place"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(
        [formula_safe(getattr(finding, column)) for column in columns] for finding in findings
    )
    return text.getvalue()
