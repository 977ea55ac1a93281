"""Samples of a source: names, labels, splits, and pixels or files."""

# Dimensions: N images, H W pixels, C channels, K classes.

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fer_ignite.data.classes import parse_classes, relabel
from fer_ignite.data.expressions import NUMBERED_CLASSES, are_numbers
from fer_ignite.data.images import printable
from fer_ignite.errors import ConfigError, DataError

__all__ = [
    "SPLITS",
    "SPLIT_OF_NAME",
    "UNDECIDED",
    "ReadOnceSource",
    "Samples",
    "Source",
    "choose_classes",
    "drop_same_files",
    "facts_of_status",
    "file_facts",
    "name_numbered_classes",
    "with_groups",
]

SPLITS = ("train", "val", "test")
UNDECIDED = 255

# What people call the three splits, in lower case.
SPLIT_OF_NAME = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "dev": 1,
    "publictest": 1,
    "test": 2,
    "testing": 2,
    "privatetest": 2,
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Everything that a source says about its images.

    Args:
        classes: K names.
        ids: N names as bytes; where there are no pixels and no `files`, the file's path under `root`.
        labels_N: int64, positions in `classes`.
        splits_N: uint8, positions in `SPLITS`, or `UNDECIDED`.
        pixels_NHWC: uint8, where the source holds decoded images.
        root: folder of the files.
        files: N paths under `root`, where several faces lie in one file and the ids tell them apart; None: the ids.
        boxes_N4: int64 left, top, right, bottom of each face in its file, in px; zeros or None: the whole picture.
        groups_N: int64, images of one group (a person, a film) must not be torn apart; None: no groups.
        ungrouped: ids whose names carry no group as the others' do; each is a group of its own.
        soft_NK: float32 shares of the votes; None: no votes.
        refused: files that are known to be unusable before any is opened, with the reason.
        skipped: what can't be used was left out before, each with its reason, as a dataset cache's manifest lists it.
        left_out: how many were left out, by reason.
    """

    classes: tuple[str, ...]
    ids: Sequence[bytes]
    labels_N: npt.NDArray[np.int64]
    splits_N: npt.NDArray[np.uint8]
    pixels_NHWC: npt.NDArray[np.uint8] | None = None
    root: Path | None = None
    files: Sequence[bytes] | None = None
    boxes_N4: npt.NDArray[np.int64] | None = None
    groups_N: npt.NDArray[np.int64] | None = None
    ungrouped: frozenset[bytes] = frozenset()
    soft_NK: npt.NDArray[np.float32] | None = None
    refused: tuple[tuple[bytes, str], ...] = ()
    skipped: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, keep_N: npt.NDArray[np.bool_], *, reason: str | None = None) -> "Samples":
        """The samples where `keep_N` holds; the others are counted under `reason`."""
        # Nothing to leave out: indexing would copy all pixels, which may be mapped from a file.
        if keep_N.all():
            return self
        left_out = dict(self.left_out)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + int((~keep_N).sum())
        return replace(
            self,
            ids=[name for name, kept in zip(self.ids, keep_N.tolist(), strict=True) if kept],
            labels_N=self.labels_N[keep_N],
            splits_N=self.splits_N[keep_N],
            pixels_NHWC=None if self.pixels_NHWC is None else self.pixels_NHWC[keep_N],
            files=None
            if self.files is None
            else [name for name, kept in zip(self.files, keep_N.tolist(), strict=True) if kept],
            boxes_N4=None if self.boxes_N4 is None else self.boxes_N4[keep_N],
            groups_N=None if self.groups_N is None else self.groups_N[keep_N],
            soft_NK=None if self.soft_NK is None else self.soft_NK[keep_N],
            left_out=left_out,
        )

    def path(self, index: int) -> str:
        """The path of a sample's file."""
        names = self.ids if self.files is None else self.files
        # A manifest may list absolute paths: join leaves the root out before one.
        return os.path.join(self.root or "", os.fsdecode(names[index]))


class Source(Protocol):
    """Where samples come from; `stamp` is cheap and changes when the samples may have changed."""

    kind: str
    where: str

    def stamp(self) -> bytes: ...

    def samples(self) -> Samples: ...


class ReadOnceSource:
    """A source that is read once, for its stamp and its samples."""

    _found: tuple[Samples, bytes] | None = None

    def stamp(self) -> bytes:
        return self._once()[1]

    def samples(self) -> Samples:
        return self._once()[0]

    def _once(self) -> tuple[Samples, bytes]:
        # One reading for both: a file that is added between two readings would be packed under a
        # stamp that does not cover it.
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> tuple[Samples, bytes]:
        """The samples and the stamp."""
        raise NotImplementedError


def choose_classes(samples: Samples, text: str | None) -> Samples:
    """The samples under the given class names; those of other classes are left out and counted."""
    if text is None:
        return samples
    plan = parse_classes(text, samples.classes)
    labels_N, soft_NK = relabel(
        plan, samples.classes, labels_N=samples.labels_N, soft_NK=samples.soft_NK
    )
    named = replace(samples, classes=tuple(plan), labels_N=labels_N, soft_NK=soft_NK)
    return named.take(labels_N >= 0, reason="not in --classes")


def drop_same_files(samples: Samples, inodes_N2: npt.NDArray[np.uint64]) -> Samples:
    """Files that are reached twice, over links or by being listed twice, counted once.

    Args:
        inodes_N2: device and inode of each file; zeros where it couldn't be looked at.
    Raises:
        DataError: one file stands in two splits, or under two labels.
    """
    # Inodes first: resolving every file's real path would cost several system calls each.
    order = np.lexsort((inodes_N2[:, 0], inodes_N2[:, 1]))
    # Zeros mark files that couldn't be looked at; two of them are not the same file.
    same = (inodes_N2[order[1:]] == inodes_N2[order[:-1]]).all(axis=1) & (
        inodes_N2[order[1:]] != 0
    ).any(axis=1)
    suspects = sorted(
        {int(index) for pair in (order[1:][same], order[:-1][same]) for index in pair}
    )
    first_of: dict[str, int] = {}
    keep_N = np.ones(len(samples), dtype=np.bool_)
    clashes = []
    for index in suspects:
        # Hard links share an inode and are copies in people's eyes: only one real path makes one file.
        first = first_of.setdefault(os.path.realpath(samples.path(index)), index)
        if first == index:
            continue
        keep_N[index] = False
        if (samples.splits_N[first], samples.labels_N[first]) != (
            samples.splits_N[index],
            samples.labels_N[index],
        ):
            clashes.append(f"{printable(samples.ids[first])} = {printable(samples.ids[index])}")
    if clashes:
        raise DataError(
            f"{len(clashes)} files stand in two splits or under two labels ({'; '.join(clashes[:5])}); "
            "remove one of the two links or rows."
        )
    return samples.take(keep_N, reason="reached twice")


def file_facts(samples: Samples) -> npt.NDArray[np.uint64]:
    """Device, inode, size, modification and change time of each file, [N, 5]; zeros for what can't be looked at."""
    facts_N5 = np.zeros((len(samples), 5), dtype=np.uint64)
    for index in range(len(samples)):
        # A missing file, or a name with a zero byte: reading it says so, beside the other bad
        # images.
        with contextlib.suppress(OSError, ValueError):
            facts_N5[index] = facts_of_status(os.stat(samples.path(index)))
    return facts_N5


def facts_of_status(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """Device, inode, size, modification and change time of a file, as `file_facts` has them."""
    # Times before 1970 are negative; the modulus makes them fit uint64.
    times = status.st_mtime_ns % 2**63, status.st_ctime_ns % 2**63
    return (status.st_dev, status.st_ino, status.st_size, *times)


def name_numbered_classes(samples: Samples, numbering: str | None) -> Samples:
    """Samples of numbered classes under the names that a data set's publication gives to the numbers.

    Args:
        numbering: key of `NUMBERED_CLASSES`; None, or samples of named classes: as they are.
    Raises:
        DataError: a number that the data set doesn't have.
    """
    if numbering is None or not are_numbers(samples.classes):
        return samples
    names = NUMBERED_CLASSES[numbering]
    # A csv may write the numbers as 3.0.
    numbers = [int(float(name)) for name in samples.classes]
    unknown = [str(number) for number in numbers if number not in names]
    if unknown:
        raise DataError(
            f"--layout {numbering}: the data has the classes {', '.join(samples.classes)}, and {', '.join(unknown)} is none of "
            f"{', '.join(f'{number} {name}' for number, name in names.items())}; name them with --classes."
        )
    # By number: as text "10" comes before "2".
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    # argsort of a permutation is its inverse: the new place of each old class.
    place_K = np.argsort(order)
    return replace(
        samples,
        classes=tuple(names[numbers[place]] for place in order),
        labels_N=place_K[samples.labels_N],
    )


def with_groups(samples: Samples, pattern: str | None) -> Samples:
    """Samples whose groups are read from their names.

    Args:
        pattern: regular expression, searched in each id; its first group that takes part, or all that it
            matches, names the group.
    Raises:
        ConfigError: no regular expression.
        DataError: ids in which it is not found.
    """
    if pattern is None:
        return samples
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ConfigError(
            f"--group-by {pattern!r} is no regular expression ({error}); e.g. --group-by 'S[0-9]+'."
        ) from None
    # In the names as messages show them: an id may hold bytes that are no text.
    names = [_named_group(search(printable(name))) for name in samples.ids]
    strange = [
        printable(name) for name, group in zip(samples.ids, names, strict=True) if group is None
    ]
    if strange:
        raise DataError(
            f"--group-by {pattern!r} is not found in {len(strange)} of {len(names)} names, such as {strange[0]}; "
            "give an expression that all names have."
        )
    known = [group for group in names if group is not None]
    groups_N = np.unique(known, return_inverse=True)[1].astype(np.int64)
    return replace(samples, groups_N=groups_N, ungrouped=frozenset())


def _named_group(match: re.Match[str] | None) -> str | None:
    """What a match names: its first group that takes part, all of it where the expression has none; None: nothing."""
    if match is None or not match.re.groups:
        return match and match[0]
    # An alternative that wasn't taken, or an optional group, is None.
    return next((text for text in match.groups() if text is not None), None)
