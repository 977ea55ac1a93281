"""Images in class folders."""

# Dimensions: N images.

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_ignite.data.classes import class_difference, composed
from fer_ignite.data.images import FORMAT_OF_SUFFIX, printable
from fer_ignite.data.readers.listing import OUTSIDE, is_folder, is_inside, leads_up, list_entries
from fer_ignite.data.readers.named_files import find_persons
from fer_ignite.data.samples import (
    SPLIT_OF_NAME,
    SPLITS,
    UNDECIDED,
    ReadOnceSource,
    Samples,
    drop_same_files,
    name_numbered_classes,
)
from fer_ignite.errors import DataError

__all__ = ["FolderSource", "visible"]

_SUFFIXES = tuple(os.fsencode(suffix) for suffix in FORMAT_OF_SUFFIX)
_NEWER = "new"  # SFEW 2.0: Val_Aligned_Faces_new
_BESIDE_SPLIT = (
    *("set", "data", "split", "images", "image", "aligned", "faces", "cropped", "folder"),
    _NEWER,
)


@dataclass
class _Walk:
    """What one walk over all class folders found; ids are bytes relative to `root`."""

    root: bytes
    follow_links: bool = False
    ids: list[bytes] = field(default_factory=list)
    inodes: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    stray: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, entry: "os.DirEntry[bytes]") -> None:
        name = entry.path[len(self.root) + 1 :]
        if (
            entry.is_symlink()
            and not self.follow_links
            and not is_inside(os.path.realpath(entry.path), self.root)
        ):
            self.refused.append((name, OUTSIDE))
            return
        try:
            status = entry.stat()
            facts = (
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
        except OSError:  # a link that leads nowhere, or into itself; reading it will say so
            facts = (0, 0, 0, 0, 0)
        self.ids.append(name)
        self.inodes.append(facts[:2])
        # The name's length stands in front: otherwise two different listings could give the same
        # bytes. The device's number is left out; it changes when a disk is mounted again.
        self.digest.update(b"%d %d %d %d %d " % (len(name), *facts[1:]) + name)


class FolderSource(ReadOnceSource):
    """One folder of classes, or of train/, val/ and test/ with classes in them.

    Args:
        root: the folder.
        any_classes: splits may differ in their classes and class folders may be empty, because the user
            names the classes.
        follow_links: read symbolic links that lead out of the folder.
        numbering: data set whose numbers the folders' names are, see `NUMBERED_CLASSES`.
        kind: what the source is called.
    """

    def __init__(
        self,
        root: Path,
        *,
        any_classes: bool = False,
        follow_links: bool = False,
        numbering: str | None = None,
        kind: str = "folders",
    ) -> None:
        self.where, self.kind = str(root), kind
        self._root = Path(os.path.realpath(root))
        self._any_classes, self._follow_links = any_classes, follow_links
        self._numbering = numbering

    def _read(self) -> tuple[Samples, bytes]:
        samples, stamp = _collect(
            self._root, any_classes=self._any_classes, follow_links=self._follow_links
        )
        return name_numbered_classes(samples, self._numbering), stamp


def visible(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the other entries in a folder, sorted; hidden ones and system litter left out."""
    found = [(entry.name, is_folder(entry)) for entry in list_entries(str(folder))]
    return [n for n, folder in found if folder], [n for n, folder in found if not folder]


def _collect(root: Path, *, any_classes: bool, follow_links: bool) -> tuple[Samples, bytes]:
    parts, ignored = _layout(root)
    host_names = {folder: visible(folder)[0] for _, folder in parts}
    unlabelled = 0
    # Not the first: a lone folder without classes is refused below, with what it holds.
    for split, folder in parts[1:] if any(host_names.values()) else ():
        # the test split of a challenge, whose labels are not published
        if split == SPLITS.index("test") and not host_names[folder]:
            unlabelled += len(_images(visible(folder)[1]))
            parts = [part for part in parts if part[1] != folder]
    # As first spelt: a split that was copied from a Mac has é in its names as two characters.
    spelt: dict[str, str] = {}
    for name in (name for _, folder in parts for name in host_names[folder]):
        spelt.setdefault(composed(name), name)
    classes = tuple(sorted(spelt.values()))
    if len(classes) < 2:
        raise DataError(_too_few(root, classes))
    walk = _Walk(os.fsencode(root), follow_links=follow_links)
    labels: list[int] = []
    splits: list[int] = []
    empty = []
    for split, folder in parts:
        for name in host_names[folder]:
            # Refused links count: a folder of nothing else is not empty, and they are listed.
            before = len(walk.ids) + len(walk.refused)
            _walk_class(walk, os.fsencode(folder / name))
            if len(walk.ids) + len(walk.refused) == before:
                empty.append(printable((folder / name).relative_to(root)))
            added = len(walk.ids) - len(labels)
            labels += [classes.index(spelt[composed(name)])] * added
            splits += [split] * added
    if not walk.ids and not walk.refused:
        raise DataError(
            f"{printable(root)}: no images in the class folders {_listed(empty)}; allowed are {_suffixes()}."
        )
    if not any_classes:
        _refuse_differences(
            root,
            {
                SPLITS[split]: [spelt[composed(name)] for name in host_names[f]]
                for split, f in parts
                if split != UNDECIDED
            },
            empty=empty,
        )
    counted = {
        "no image by name": walk.stray,
        "folders beside the splits": ignored,
        "test images without a label": unlabelled,
    }
    # As in the published layouts: the same files in class folders show the same persons.
    persons = find_persons([os.fsdecode(name) for name in walk.ids])
    samples = Samples(
        classes=tuple(printable(name) for name in classes),
        ids=walk.ids,
        labels_N=np.array(labels, dtype=np.int64),
        splits_N=np.array(splits, dtype=np.uint8),
        root=root,
        groups_N=None if persons is None else persons.numbers_N,
        ungrouped=frozenset() if persons is None else frozenset(map(os.fsencode, persons.unknown)),
        refused=tuple(walk.refused),
        left_out={reason: count for reason, count in counted.items() if count},
    )
    walk.digest.update(
        # With the root: a folder that moved is listed again, and then found by its content.
        repr((os.fsencode(root), classes, labels[-1:], len(labels), empty, walk.refused)).encode()
    )
    if persons is not None:
        # The rule that finds them is the program's, and may change while the files stay.
        walk.digest.update(persons.numbers_N.astype("<i8").tobytes())
    inodes_N2 = np.array(walk.inodes, dtype=np.uint64).reshape(-1, 2)
    return drop_same_files(samples, inodes_N2), walk.digest.digest()


def _layout(root: Path) -> tuple[list[tuple[int, Path]], int]:
    """The folders that hold class folders, with their splits, and how many folders beside them are ignored."""
    for _ in range(4):  # an unpacked archive often is a folder in a folder
        folders, files = visible(root)
        if (
            len(folders) != 1
            or _split_of_folder(folders[0]) is not None
            or not visible(root / folders[0])[0]
            or _images(files)
        ):
            break
        root = root / folders[0]
    splits = _split_folders(root, folders)
    _refuse_doubtful_splits(root, folders, known={split for split, _ in splits})
    if not splits:
        return [(UNDECIDED, root)], 0
    parts = [(split, _inner(folder, split)) for split, folder in splits]
    if len({split for split, _ in parts}) < len(parts):
        names = ", ".join(printable(folder.name) for _, folder in splits)
        raise DataError(
            f"{printable(root)}: several folders have the same split ({names}); keep one of each."
        )
    return sorted(parts), len(folders) - len(splits)


def _split_folders(root: Path, folders: list[str]) -> list[tuple[int, Path]]:
    """The folders that are named as splits; train_new only where no other folder is train."""
    split_of = {name: split for name in folders if (split := _split_of_folder(name)) is not None}
    plain = {split for name, split in split_of.items() if _NEWER not in _words(name)}
    return [
        (split, root / name)
        for name, split in split_of.items()
        if split not in plain or _NEWER not in _words(name)
    ]


def _inner(folder: Path, split: int) -> Path:
    """The folder of classes: Kaggle's upload nests train/train, SFEW's archives Train/Train_Aligned_Faces."""
    while len(names := visible(folder)[0]) == 1 and _split_of_folder(names[0]) == split:
        folder = folder / names[0]
    return folder


def _split_of_folder(name: str) -> int | None:
    """The split that a folder's name says, also as train_set, Train_Aligned_Faces or images-val."""
    words = _words(name)
    splits = _splits_named(words)
    if len(splits) == 1 and all(word in SPLIT_OF_NAME or word in _BESIDE_SPLIT for word in words):
        return splits.pop()
    return SPLIT_OF_NAME.get("".join(words))


def _words(name: str) -> list[str]:
    return re.split(r"[-_. ]+", name.lower())


def _splits_named(words: list[str]) -> set[int]:
    return {SPLIT_OF_NAME[word] for word in words if word in SPLIT_OF_NAME}


def _refuse_doubtful_splits(root: Path, folders: list[str], *, known: set[int]) -> None:
    """Refuses train_afew: the name of a split beside an unknown word, and class folders in it.

    Without `train` it would be a class, and beside `train` and `test` a val of that kind would be left out.
    """
    for name in folders:
        named = _splits_named(_words(name))
        if (
            len(named) == 1
            and not named & known  # beside the split itself it is another version of it
            and _split_of_folder(name) is None
            and _holds_class_folders(root / name)
        ):
            split = SPLITS[named.pop()]
            raise DataError(
                f"{printable(root)}: {printable(name)} holds class folders, and its name says {split} beside words that are not "
                f"known; rename it to {split}, or move it away where it is no split."
            )


def _holds_class_folders(folder: Path) -> bool:
    below, files = visible(folder)
    return not _images(files) and sum(bool(_images(visible(folder / n)[1])) for n in below) >= 2


def _images(names: list[str]) -> list[str]:
    return [name for name in names if Path(name).suffix.lower() in FORMAT_OF_SUFFIX]


def _walk_class(walk: _Walk, folder: bytes) -> None:
    """Adds every image under a class folder. Links to folders are followed inside the root, never back up."""
    # Real paths of the folders above: a link back to one of them would otherwise never end.
    stack: list[tuple[bytes, tuple[bytes, ...]]] = [(folder, (os.path.realpath(folder),))]
    while stack:
        path, above = stack.pop()
        if not walk.follow_links and not is_inside(above[-1], walk.root):
            walk.refused.append((path[len(walk.root) + 1 :], OUTSIDE))
            continue
        for entry in list_entries(path):
            if is_folder(entry):
                real = os.path.realpath(entry.path)
                if not leads_up(real, above):
                    stack.append((entry.path, (*above, real)))
            elif entry.name.lower().endswith(_SUFFIXES):
                walk.add(entry)
            else:
                walk.stray += 1


def _refuse_differences(
    root: Path, names_of_split: dict[str, list[str]], *, empty: list[str]
) -> None:
    if empty:
        raise DataError(
            f"{printable(root)}: no images in the class folders {_listed(empty)}; add some, remove the folders, "
            "or name the classes that are meant with --classes."
        )
    splits = list(names_of_split)
    for other in splits[1:]:
        difference = class_difference(names_of_split[splits[0]], names_of_split[other])
        if difference:
            raise DataError(
                f"{printable(root)}: the classes of {other} differ from those of {splits[0]}: {difference}; "
                "rename the folders, or name the classes that are meant with --classes."
            )


def _too_few(root: Path, classes: tuple[str, ...]) -> str:
    folders, files = visible(root)
    found = _listed([printable(name) for name in (*folders, *files)])
    what = f"only one class ({printable(classes[0])})" if classes else "no class folders"
    return f"{printable(root)}: {what}; it holds {found}. Give a folder with one folder of images per class."


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _suffixes() -> str:
    return " ".join(sorted(FORMAT_OF_SUFFIX))
