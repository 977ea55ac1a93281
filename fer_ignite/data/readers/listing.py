"""Listings: a published data set's files with labels, splits, groups and boxes, as its layout gives them."""

# Dimensions: N images.

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import AnyStr

import numpy as np
import numpy.typing as npt

from fer_ignite.data.images import FORMAT_OF_SUFFIX, printable
from fer_ignite.data.readers.csv_files import file_stamp
from fer_ignite.data.samples import (
    UNDECIDED,
    ReadOnceSource,
    Samples,
    drop_same_files,
    facts_of_status,
)
from fer_ignite.errors import DataError

__all__ = [
    "OUTSIDE",
    "ListedFace",
    "Listing",
    "ListingSource",
    "Survey",
    "is_folder",
    "is_image_name",
    "is_inside",
    "leads_up",
    "list_entries",
]

OUTSIDE = "leads outside the data folder; --follow-links reads it"
_DEEPEST = 4  # folders below the one that is named: archives unpack into folders of folders
# Of each folder: AffectNet's annotations are one file or more per image.
_FIRST_FILES = 2000
_FIRST_IMAGES = 200  # of each folder; enough to see how a data set names its files
# Left in archives by macOS and on disks by Windows and Linux; as class folders each would be a class.
_IGNORED_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_FIRST_LISTED = 50  # of a list; some of its images may be missing


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
        follow_links: read symbolic links that lead out of the root.
        left_out: how many images or entries were left out, by reason.
        refused: entries that can't be used, with the reason.
    """

    root: Path
    classes: Sequence[str]
    faces: list[ListedFace] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    follow_links: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def walk(self, folder: Path) -> Iterator[str]:
        """Paths, under a folder of the root, of all files below it, sorted within each folder; hidden ones left out.

        Links to folders are followed inside the root, never back up; those that lead out of it are refused, or followed on
        request.

        Raises:
            DataError: a folder can't be listed; its images would be missing without a word.
        """
        # Real paths of the folders above: a link back to one of them would otherwise never end.
        stack: list[tuple[str, tuple[str, ...]]] = [(str(folder), (os.path.realpath(folder),))]
        while stack:
            path, above = stack.pop()
            if not self.follow_links and not is_inside(above[-1], str(self.root)):
                self.refused.append((os.path.relpath(path, self.root), OUTSIDE))
                continue
            below: list[tuple[str, tuple[str, ...]]] = []
            for entry in list_entries(path):
                if not is_folder(entry):
                    yield os.path.relpath(entry.path, folder)
                elif not leads_up(real := os.path.realpath(entry.path), above):
                    below.append((entry.path, (*above, real)))
            # Reversed, as the last one is taken first: folders are walked in the order of their
            # names.
            stack += reversed(below)

    def refuse_links_out(self) -> npt.NDArray[np.uint64]:
        """Moves the faces whose files' real paths are outside the root to `refused`, unless links are followed.

        Returns:
            What `file_facts` says of the files of the faces that are left: each file is looked at once for both.
        """
        facts_N5 = np.zeros((len(self.faces), 5), dtype=np.uint64)
        root, kept = str(self.root), list[ListedFace]()
        is_outside: dict[str, bool] = {}  # by folder: a real path takes a system call for each part
        for face in self.faces:
            path = os.path.join(root, face.file)
            try:
                status = os.lstat(path)
                is_link = stat.S_ISLNK(status.st_mode)
                where = path if is_link else os.path.dirname(path)
                if not self.follow_links and where not in is_outside:
                    is_outside[where] = not is_inside(os.path.realpath(where), root)
                if not self.follow_links and is_outside[where]:
                    self.refused.append((face.name or face.file, OUTSIDE))
                    continue
                facts_N5[len(kept)] = facts_of_status(os.stat(path) if is_link else status)
            except (OSError, ValueError):
                pass  # a missing file, or a name with a zero byte: reading it will say so
            kept.append(face)
        self.faces = kept
        return facts_N5[: len(kept)]


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
        facts_N5 = listing.refuse_links_out()
        samples = _samples(listing, f"{printable(self.where)} ({self.kind})")
        digest = hashlib.sha256(repr((samples.classes, samples.left_out)).encode())
        for refused in samples.refused:
            digest.update(repr(refused).encode())
        for table in listing.tables:
            digest.update(file_stamp(table))
        # Without the device's number, which changes when a disk is mounted again.
        digest.update(facts_N5[:, 1:].tobytes() + samples.labels_N.tobytes())
        # several faces of one file are no copies
        unique = samples if samples.files else drop_same_files(samples, facts_N5[:, :2])
        return unique, digest.digest()


def _samples(listing: Listing, name: str) -> Samples:
    faces = listing.faces
    reasons = "; ".join(_reasons(listing))
    why = f" ({reasons})" if reasons else ""
    if not faces:
        raise DataError(
            f"{name}: no labelled image is found{why}; name the folder that holds labels and images."
        )
    found = {face.label for face in faces}
    classes = tuple(label for label in listing.classes if label in found)
    if len(classes) < 2:
        raise DataError(
            f"{name}: all images are {classes[0]}{why}; two or more classes can be distinguished."
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


def _reasons(listing: Listing) -> Iterator[str]:
    """Why no face is left."""
    for reason, count in listing.left_out.items():
        yield f"{count} {reason}"
    if listing.refused:
        name, reason = listing.refused[0]
        yield f"{len(listing.refused)} can't be used, such as {printable(name)}: {reason}"


class Survey:
    """The names below a folder, at most four folders down, looked at once.

    Args:
        follow_links: look into folders that links out of the root lead to.

    Attributes:
        root: the folder.
        folders: all folders, the root first, then the nearest.
        links_out: folders among them that are links out of the root, and were not looked into.
        files: files that are no images, the nearest first.
        images: by folder, the names of its first images.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self.root, self.follow_links = root, follow_links
        self.folders: list[Path] = [root]
        self.links_out: list[Path] = []
        self.files: list[Path] = []
        self.images: dict[Path, list[str]] = {}
        level = [root]
        for _ in range(_DEEPEST + 1):
            found = [below for folder in level for below in self._look(folder)]
            self.folders += found
            level = [folder for folder in found if folder not in self.links_out]

    def _look(self, folder: Path) -> list[Path]:
        below, others = [], 0
        for entry in _entries_if_listed(folder):
            if is_folder(entry):
                if self._is_new(entry):
                    below.append(Path(entry.path))
            elif not is_image_name(entry.name):
                others += 1
                if others <= _FIRST_FILES:
                    self.files.append(Path(entry.path))
            elif len(names := self.images.setdefault(folder, [])) < _FIRST_IMAGES:
                names.append(entry.name)
        return below

    def _is_new(self, entry: "os.DirEntry[str]") -> bool:
        """Whether a folder is no link back up; one that leads out is noted."""
        # Only a link leads back up, and a real path takes a system call for each of its parts.
        if not entry.is_symlink():
            return True
        real = os.path.realpath(entry.path)
        if not self.follow_links and not is_inside(real, str(self.root)):
            self.links_out.append(Path(entry.path))
        return not leads_up(real, (os.path.realpath(os.path.dirname(entry.path)),))

    def file(self, wanted: Callable[[str], bool]) -> Path | None:
        """The nearest file, no image, whose name is wanted."""
        return next((file for file in self.files if wanted(file.name)), None)

    def folder(self, wanted: Callable[[str], bool]) -> Path | None:
        """The nearest folder below the root whose name is wanted."""
        return next((folder for folder in self.folders[1:] if wanted(folder.name)), None)

    def folder_holding(self, names: Iterable[str]) -> Path | None:
        """The nearest folder in which a path leads to a file, for the first of 50 paths where there is one."""
        for name in islice(names, _FIRST_LISTED):
            for folder in self.folders:
                if os.path.isfile(folder / name):
                    return folder
        return None

    def missing_images(self, remedy: str) -> str:
        """What to do where a list's images are not found: the links that were not followed, else the remedy."""
        if not self.links_out:
            return remedy
        return f"{printable(self.links_out[0].relative_to(self.root))} {OUTSIDE}"


def is_folder(entry: "os.DirEntry[AnyStr]") -> bool:
    """Whether an entry is a folder or leads to one; a link that leads nowhere or to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_inside(path: AnyStr, top: AnyStr) -> bool:
    """Whether a path is a folder or below it, by the texts of real paths."""
    return path == top or path.startswith(os.path.join(top, top[:0]))


def leads_up(real: AnyStr, above: Sequence[AnyStr]) -> bool:
    """Whether a real path is below one of the folders on the way to it, so that following it would never end."""
    return any(is_inside(seen, real) for seen in above)


def list_entries(folder: AnyStr) -> list["os.DirEntry[AnyStr]"]:
    """The entries of a folder by their names; hidden ones and what systems leave behind are left out.

    Raises:
        DataError: it can't be listed.
    """
    try:
        with os.scandir(folder) as entries:
            # scandir's order is the file system's; the images' order is part of the fingerprint.
            return sorted((e for e in entries if _is_meant(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{printable(folder)}: can't be listed ({error.strerror}); check its permissions."
        ) from None


def _is_meant(name: str | bytes) -> bool:
    text = os.fsdecode(name)
    return not text.startswith(".") and text not in _IGNORED_FOLDERS


def _entries_if_listed(folder: Path) -> list["os.DirEntry[str]"]:
    """No entries for a folder that can't be listed: it may be no part of the data set, which is not recognised yet."""
    try:
        return list_entries(str(folder))
    except DataError:
        return []


def is_image_name(name: str) -> bool:
    """Whether a file's name has the ending of an image format that is read."""
    return os.path.splitext(name)[1].lower() in FORMAT_OF_SUFFIX
