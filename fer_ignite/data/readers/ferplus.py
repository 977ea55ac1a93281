"""FER+ votes: ten annotators per image of fer2013.csv, as labels or distributions.

The rule (Barsoum, Zhang, Canton Ferrer, Zhang: Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution, ICMI 2016, arXiv:1608.01041, and the code published with it):

- A column with one vote counts as none: it is taken for a slip.
- Majority: the leading column must hold more than half of the votes that remain, else the face has no label. So a tie
  for the lead never yields a label: it is resolved by leaving the face out.
- Distribution: columns are taken by falling count, equal counts together, until three quarters of the remaining votes
  are covered or three columns are taken; "unknown" and "NF" (not a face) end it and are only kept when they come first.
  The face is left out when half of the votes or fewer are covered, or more than three columns were taken. The shares
  of what was taken are the soft label; its largest is the label, the first column on equal shares.
- A face that "unknown" or "NF" leads is left out, and so is one with no image name, which the authors removed.

As in the publication, the distribution is what one trains on, while val and test are always chosen and labelled by
majority.
"""

# Dimensions: N images, V vote columns (10), K expressions (8).

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fer_ignite.data.expressions import FER2013_CODES, FERPLUS_COLUMNS, find_expression
from fer_ignite.data.images import printable
from fer_ignite.data.samples import SPLIT_OF_NAME, Samples
from fer_ignite.errors import DataError

__all__ = [
    "FERPLUS_CLASSES",
    "FerPlusVotes",
    "apply_votes",
    "distribution",
    "majority",
    "read_votes",
]

FERPLUS_CLASSES = (*FER2013_CODES, "contempt")

_UNKNOWN = FERPLUS_COLUMNS.index("unknown")
_NOT_A_FACE = FERPLUS_COLUMNS.index("NF")
_EXPRESSIONS = [find_expression(name) or name for name in FERPLUS_COLUMNS[:_UNKNOWN]]
_CLASS_OF_COLUMN = np.array([FERPLUS_CLASSES.index(name) for name in _EXPRESSIONS], dtype=np.int64)
# A table, as int() would also take +3, 1_0 and digits of other scripts.
_COUNT = {str(count): count for count in range(101)}

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FerPlusVotes:
    """The rows of fer2013new.csv: votes int64 [N, V], splits uint8 [N], whether an image name is given bool [N]."""

    name: str
    counts_NV: Counts
    splits_N: npt.NDArray[np.uint8]
    named_N: npt.NDArray[np.bool_]


def read_votes(path: Path, rows: Iterable[tuple[int, list[str]]]) -> FerPlusVotes:
    """The votes file, strictly; `rows` are its numbered rows, the header first."""
    name, numbered = printable(path), iter(rows)
    header = [column.strip() for column in next(numbered, (1, []))[1]]
    expected = ["Usage", "Image name", *FERPLUS_COLUMNS]
    if header != expected:
        raise DataError(f"{name}, row 1: not the columns of FER+; those are {', '.join(expected)}.")
    counts, splits, named = [], bytearray(), []
    for number, row in numbered:
        values = [_COUNT.get(text.strip(), -1) for text in row[2:]]
        split = SPLIT_OF_NAME.get(row[0].strip().lower())
        if len(row) != len(expected) or min(values) < 0 or split is None:
            raise DataError(
                f"{name}, row {number}: not a split, an image name and {len(FERPLUS_COLUMNS)} counts of votes."
            )
        counts.append(values)
        splits.append(split)
        named.append(bool(row[1].strip()))
    counts_NV = np.array(counts, dtype=np.int64).reshape(-1, len(FERPLUS_COLUMNS))
    return FerPlusVotes(
        name, counts_NV, np.frombuffer(splits, dtype=np.uint8), np.array(named, dtype=np.bool_)
    )


def majority(counts_NV: Counts) -> Counts:
    """Leading column where it holds more than half of the votes that count, else -1; int64 [N]."""
    votes_NV = _without_slips(counts_NV)
    lead_N = votes_NV.argmax(axis=1)
    return np.where(2 * votes_NV.max(axis=1) > votes_NV.sum(axis=1), lead_N, -1)


def distribution(counts_NV: Counts) -> Shares:
    """Shares of the columns that are taken, float32 [N, V]; rows of zeros where the face is left out for its votes."""
    rest_NV = _without_slips(counts_NV)
    total_N = rest_NV.sum(axis=1)
    taken_NV = np.zeros_like(rest_NV)
    open_N = total_N > 0
    for _ in range(3):  # each round takes at least one column, and three are the most
        lead_N = rest_NV.max(axis=1)
        round_NV = (rest_NV == lead_N[:, None]) & open_N[:, None] & (rest_NV > 0)
        first_N = taken_NV.sum(axis=1) == 0
        # Expressions of this round come before "unknown" and "NF", which only stay when nothing is ahead of them.
        expression_N = round_NV[:, :_UNKNOWN].any(axis=1)
        ends_N = round_NV[:, _UNKNOWN:].any(axis=1)
        round_NV[:, _UNKNOWN:] &= (first_N & ~expression_N)[:, None]
        taken_NV += np.where(round_NV, rest_NV, 0)
        rest_NV = np.where(round_NV, 0, rest_NV)
        taken_N, columns_N = taken_NV.sum(axis=1), (taken_NV > 0).sum(axis=1)
        open_N &= ~ends_N & (4 * taken_N < 3 * total_N) & (columns_N < 3)
    sound_N = (2 * taken_N > total_N) & (columns_N <= 3)
    shares_NV: Shares = (taken_NV * sound_N[:, None] / np.maximum(taken_N, 1)[:, None]).astype(
        np.float32
    )
    return shares_NV


def apply_votes(samples: Samples, votes: FerPlusVotes, *, mode: str) -> Samples:
    """The samples with FER+ labels; what is left out is counted by reason.

    Args:
        mode: "majority"; "distribution" adds soft labels; "second" keeps all samples, their own labels and classes, and adds
            the votes as soft labels of train.
    """
    votes = _votes_of_rows(samples, votes)
    # fer2013.csv has no image names: the splits are all that can show rows that were moved or
    # left out.
    if len(votes.splits_N) != len(samples) or (votes.splits_N != samples.splits_N).any():
        raise DataError(
            f"{votes.name} has {len(votes.splits_N)} rows, the images {len(samples)}: votes and images go together row "
            f"by row, so both files must be whole and in their published order{_refused_rows(samples)}."
        )
    if mode == "second":
        return _with_second_target(samples, votes)
    column_N = majority(votes.counts_NV)
    shares_NV = distribution(votes.counts_NV)
    if mode == "distribution":
        leader_N = np.where(shares_NV.any(axis=1), shares_NV.argmax(axis=1), -1)
        column_N = np.where(samples.splits_N == 0, leader_N, column_N)
    left_out = _reasons(votes, column_N)
    keep_N = votes.named_N & (column_N >= 0) & (column_N < _UNKNOWN)
    soft_NK = np.zeros((len(samples), len(FERPLUS_CLASSES)), dtype=np.float32)
    soft_NK[:, _CLASS_OF_COLUMN] = shares_NV[:, :_UNKNOWN]
    # Three more places: unknown, NF, and the last one, which -1 (no agreement) indexes.
    labels_N = np.append(_CLASS_OF_COLUMN, (-1, -1, -1))[column_N]
    voted = replace(
        samples,
        classes=FERPLUS_CLASSES,
        labels_N=labels_N,
        left_out={**samples.left_out, **left_out},
    )
    return replace(voted, soft_NK=soft_NK if mode == "distribution" else None).take(keep_N)


def _votes_of_rows(samples: Samples, votes: FerPlusVotes) -> FerPlusVotes:
    """The votes without those of the rows that can't be used as images; as they are where the counts of rows differ."""
    # Ids are "row 2": the order of the numbers is that of the votes.
    names = [*samples.ids, *(name for name, _ in samples.refused)]
    if not samples.refused or len(names) != len(votes.splits_N):
        return votes
    numbers_N = np.array([int(name.removeprefix(b"row ")) for name in names])
    # argsort of a permutation is its inverse: the place of each row among all.
    places_N = np.argsort(np.argsort(numbers_N))[: len(samples)]
    return replace(
        votes,
        counts_NV=votes.counts_NV[places_N],
        splits_N=votes.splits_N[places_N],
        named_N=votes.named_N[places_N],
    )


def _refused_rows(samples: Samples) -> str:
    if not samples.refused:
        return ""
    name, reason = samples.refused[0]
    return f"; {len(samples.refused)} rows of the images can't be used, such as {printable(name)}: {reason}"


def _with_second_target(samples: Samples, votes: FerPlusVotes) -> Samples:
    """Soft labels over the samples' own classes: the votes of train faces that have usable ones, else the own label.

    Votes for classes that the samples don't have (contempt) are left out, and the others renormalised.
    """
    shares_NV = distribution(votes.counts_NV)
    soft_NK = np.zeros((len(samples), len(samples.classes)), dtype=np.float32)
    for column, name in enumerate(_EXPRESSIONS):
        if name in samples.classes:
            soft_NK[:, samples.classes.index(name)] = shares_NV[:, column]
    total_N1 = soft_NK.sum(axis=1, keepdims=True)
    usable_N = (samples.splits_N == 0) & votes.named_N & (total_N1[:, 0] > 0)
    own_NK = np.eye(len(samples.classes), dtype=np.float32)[samples.labels_N]
    soft_NK = np.where(usable_N[:, None], soft_NK / np.maximum(total_N1, 1e-9), own_NK)
    return replace(samples, soft_NK=soft_NK)


def _without_slips(counts_NV: Counts) -> Counts:
    return np.where(counts_NV > 1, counts_NV, 0)


def _reasons(votes: FerPlusVotes, column_N: Counts) -> dict[str, int]:
    named_N = votes.named_N
    return {
        "FER+: removed by its authors": int((~named_N).sum()),
        "FER+: not a face": int((named_N & (column_N == _NOT_A_FACE)).sum()),
        "FER+: unknown expression": int((named_N & (column_N == _UNKNOWN)).sum()),
        "FER+: no agreement (ties included)": int((named_N & (column_N < 0)).sum()),
    }
