"""Listings: a published data set's files with labels, splits, groups and boxes, as its layout gives them."""

# Dimensions: N images.

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_ignite.data.images import FORMAT_OF_SUFFIX, printable
from fer_ignite.data.readers.csv_files import file_stamp
from fer_ignite.data.samples import UNDECIDED, ReadOnceSource, Samples, drop_same_files, file_facts
from fer_ignite.errors import DataError

__all__ = ["ListedFace", "Listing", "ListingSource", "Survey", "is_image_name", "walk_files"]

_DEEPEST = 4  # folders below the one that is named: archives unpack into folders of folders
# Of each folder: AffectNet's annotations are one file or more per image.
_FIRST_FILES = 2000
_FIRST_IMAGES = 200  # of each folder; enough to see how a data set names its files


@dataclass(frozen=True)
class ListedFace:
    """One face of a listing.

    Args:
        file: path under the listing's root.
        label: the expression, a name.
        split: position in `SPLITS`, or `UNDECIDED`.
        group: the person or film; faces of one group stay in one split.
        box: left, top, right, bottom in px; None: the whole picture.
        name: tells faces of one file apart; empty: the file's path.
    """

    file: str
    label: str
    split: int = UNDECIDED
    group: str | None = None
    box: tuple[int, int, int, int] | None = None
    name: str = ""


@dataclass
class Listing:
    """All faces of a data set.

    Args:
        classes: names in the data set's own order; those without a face are dropped.
        tables: files that the labels come from.
        left_out: how many images or entries were left out, by reason.
        refused: entries that can't be used, with the reason.
    """

    root: Path
    classes: Sequence[str]
    faces: list[ListedFace] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)


class ListingSource(ReadOnceSource):
    """A data set in its published layout.

    Args:
        kind: the data set's name, for people.
        where: what the user named.
        read: makes the listing.
    """

    def __init__(self, kind: str, where: Path, *, read: Callable[[], Listing]) -> None:
        self.kind, self.where, self._list = kind, str(where), read

    def _read(self) -> tuple[Samples, bytes]:
        listing = self._list()
        samples = _samples(listing, f"{printable(self.where)} ({self.kind})")
        facts_N5 = file_facts(samples)
        digest = hashlib.sha256(repr((samples.classes, samples.left_out)).encode())
        for table in listing.tables:
            digest.update(file_stamp(table))
        digest.update(facts_N5[:, 1:].tobytes() + samples.labels_N.tobytes())
        # several faces of one file are no copies
        unique = samples if samples.files else drop_same_files(samples, facts_N5[:, :2])
        return unique, digest.digest()


def _samples(listing: Listing, name: str) -> Samples:
    faces = listing.faces
    if not faces:
        reasons = "; ".join(f"{count} {reason}" for reason, count in listing.left_out.items())
        raise DataError(
            f"{name}: no labelled image is found{f' ({reasons})' if reasons else ''}; name the folder that holds labels and images."
        )
    found = {face.label for face in faces}
    classes = tuple(label for label in listing.classes if label in found)
    if len(classes) < 2:
        raise DataError(
            f"{name}: all images are {classes[0]}; two or more classes can be distinguished."
        )
    place = {label: position for position, label in enumerate(classes)}
    groups = [face.group for face in faces]
    several = any(face.name for face in faces)
    return Samples(
        classes=classes,
        ids=[os.fsencode(face.name or face.file) for face in faces],
        labels_N=np.array([place[face.label] for face in faces], dtype=np.int64),
        splits_N=np.array([face.split for face in faces], dtype=np.uint8),
        root=listing.root,
        files=[os.fsencode(face.file) for face in faces] if several else None,
        boxes_N4=np.array([face.box or (0, 0, 0, 0) for face in faces], dtype=np.int64)
        if any(face.box for face in faces)
        else None,
        groups_N=np.unique(np.array(groups, dtype=str), return_inverse=True)[1].astype(np.int64)
        if None not in groups
        else None,
        refused=tuple((os.fsencode(entry), reason) for entry, reason in listing.refused),
        left_out=dict(listing.left_out),
    )


class Survey:
    """The names below a folder, at most four folders down, looked at once.

    Attributes:
        root: the folder.
        folders: all folders, the root first, then the nearest.
        files: files that are no images, the nearest first.
        images: by folder, the names of its first images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: list[Path] = [root]
        self.files: list[Path] = []
        self.images: dict[Path, list[str]] = {}
        level = [root]
        for _ in range(_DEEPEST + 1):
            level = [below for folder in level for below in self._look(folder)]
            self.folders += level

    def _look(self, folder: Path) -> list[Path]:
        below, others = [], 0
        for entry in _entries(folder):
            if entry.is_dir():
                below.append(Path(entry.path))
            elif not is_image_name(entry.name):
                others += 1
                if others <= _FIRST_FILES:
                    self.files.append(Path(entry.path))
            elif len(names := self.images.setdefault(folder, [])) < _FIRST_IMAGES:
                names.append(entry.name)
        return below

    def file(self, wanted: Callable[[str], bool]) -> Path | None:
        """The nearest file, no image, whose name is wanted."""
        return next((file for file in self.files if wanted(file.name)), None)

    def folder(self, wanted: Callable[[str], bool]) -> Path | None:
        """The nearest folder below the root whose name is wanted."""
        return next((folder for folder in self.folders[1:] if wanted(folder.name)), None)

    def folder_holding(self, name: str) -> Path | None:
        """The nearest folder in which a path leads to a file."""
        return next((folder for folder in self.folders if (folder / name).is_file()), None)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (e for e in entries if not e.name.startswith((".", "__MACOSX"))),
                key=lambda entry: entry.name,
            )
    except OSError:
        return []


def walk_files(root: Path) -> Iterator[str]:
    """Paths under the root of all files below it, sorted within each folder; hidden ones left out."""
    for above, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(above, name), root)


def is_image_name(name: str) -> bool:
    """Whether a file's name has the ending of an image format that is read."""
    return os.path.splitext(name)[1].lower() in FORMAT_OF_SUFFIX
