"""Detection of the source that ``--data`` names."""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fer_ignite.data.cache.format import is_cache, open_cache
from fer_ignite.data.cache.pool import usable_memory
from fer_ignite.data.classes import LAYOUTS_OF_NUMBERS
from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.data.images import printable
from fer_ignite.data.readers.affectnet import (
    AFFECTNET_COLUMN,
    find_affectnet,
    read_affectnet_csv,
    read_affectnet_npy,
)
from fer_ignite.data.readers.ckplus import find_ckplus, read_ckplus
from fer_ignite.data.readers.csv_files import FerCsvSource, ManifestSource, file_stamp, read_columns
from fer_ignite.data.readers.expw import find_expw_list, read_expw
from fer_ignite.data.readers.folders import FolderSource, visible
from fer_ignite.data.readers.listing import ListingSource, Survey
from fer_ignite.data.readers.named_files import find_named_files, read_named_files
from fer_ignite.data.readers.rafdb import find_rafdb_list, read_rafdb
from fer_ignite.data.samples import UNDECIDED, Samples, Source
from fer_ignite.data.shards.remote import PREFIX, is_shards, require_url
from fer_ignite.errors import DataError, first_line
from fer_ignite.imports import is_object_name, optional_library, split_names
from fer_ignite.stores.store import is_url, require_store_library

__all__ = [
    "DEMO_COUNT",
    "CacheSource",
    "ReadOptions",
    "find_source",
    "is_drawn",
    "is_user_dataset",
    "require_memory",
    "require_source",
    "split_sources",
]

DEMO_COUNT = 3500
_DEMO = re.compile(r"^demo(?::(\d{1,7}))?$")
_KAGGLE = re.compile(r"^kaggle:([\w.-]+/[\w.-]+)$")
_FACE_FILES = ("fer2013.csv", "icml_face_data.csv", "fer2013.csv.gz", "icml_face_data.csv.gz")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How data is read.

    Args:
        votes: path of fer2013new.csv.
        layout: how a folder is read, see :class:`CacheSpec`.
        any_classes: the user names the classes, so that class folders may differ or be empty.
    """

    votes: str | None = None
    vote_mode: str = "majority"
    layout: str = "auto"
    any_classes: bool = False
    peak_frames: int = 3
    neutral_frames: bool = False
    follow_links: bool = False


def find_source(data: str, options: ReadOptions = ReadOptions()) -> Source:
    """The source that a text names.

    Args:
        data: a path, demo, demo:N or kaggle:owner/name; URLs are resolved by the caller.
    Raises:
        DataError: there is no such thing, it is nothing that can be read, or it has another layout than was named.
    """
    source = _find(data, options)
    if options.votes is not None and not isinstance(source, FerCsvSource):
        raise DataError(
            f"--votes goes with the rows of fer2013.csv or icml_face_data.csv; {data} is {source.kind}."
        )
    return source


def require_source(data: str) -> None:
    """Refuses a path under which nothing lies; called before torch is imported.

    Raises:
        DataError: it is neither a path that exists, nor a URL, demo, demo:N, kaggle:owner/name, shards:URL or a user's class.
        ConfigError: a URL whose library is not installed.
    """
    for part in split_sources(data):
        if is_shards(part):
            require_url(part)
        elif is_url(part):
            require_store_library(part)
        elif not (_DEMO.match(part) or _KAGGLE.match(part) or is_user_dataset(part)):
            _require_path(part)


def is_drawn(data: str) -> bool:
    """Whether ``--data`` names nothing but drawn demo faces."""
    return all(_DEMO.match(part) for part in split_names(data))


def is_user_dataset(data: str) -> bool:
    """Whether ``--data`` names a user's class; ``demo:100``, ``kaggle:a/b`` and ``shards:folder`` don't."""
    # A file may have a name that looks like module:Class.
    return (
        is_object_name(data)
        and not data.startswith(("demo:", "kaggle:", PREFIX))
        and not os.path.exists(data)
    )


def split_sources(data: str) -> tuple[str, ...]:
    """The data sets that a setting names: one, or several that are comma separated.

    A name under which something lies is one data set, whatever characters it has.

    Raises:
        DataError: an empty part.
    """
    parts = split_names(data)
    if not all(parts):
        raise DataError(
            f"data {printable(data)}: one of the data sets between the commas has no name; write --data A --data B."
        )
    return parts


def _require_path(data: str) -> None:
    if "\0" in data or not Path(data).exists():
        raise DataError(
            f"data {printable(data)}: there is no such file or folder; give one, a URL, demo, demo:N, or kaggle:owner/name."
        )


def _find(data: str, options: ReadOptions) -> Source:
    if match := _DEMO.match(data):
        return DemoSource(int(match[1] or DEMO_COUNT))
    if match := _KAGGLE.match(data):
        path = _download(match[1])
    else:
        _require_path(data)
        path = Path(data)
    if not path.is_dir():
        return _csv_source(path, options)
    if is_cache(path):
        return CacheSource(path)
    return _folder_source(path, options)


def _folder_source(path: Path, options: ReadOptions) -> Source:
    """A folder in the layout that is named, else in the one that its files show."""
    layout = options.layout
    if layout in ("auto", "csv", "fer2013") and (table := _face_table(path)):
        return _face_csv(table, options)
    if layout not in ("auto", "folders", "csv"):
        path = Path(os.path.realpath(path))
    source = None if layout in ("folders", "csv") else _published(path, options)
    if source is not None:
        return source
    if layout == "csv" or (layout in _PUBLISHED and layout not in LAYOUTS_OF_NUMBERS):
        raise DataError(
            f"--layout {layout}: {printable(path)} does not hold {_PUBLISHED.get(layout, 'fer2013.csv')}; leave --layout out to "
            "see what it is recognised as."
        )
    return FolderSource(path, any_classes=options.any_classes, follow_links=options.follow_links)


_PUBLISHED = {
    "jaffe": "images named as KA.AN1.39.tiff",
    "kdef": "images named as AF01ANS.JPG",
    "ckplus": "the folders cohn-kanade-images and Emotion",
    "rafdb": "list_patition_label.txt",
    "affectnet": "a csv with the column subDirectory_filePath, or annotations/*_exp.npy",
    "expw": "label.lst",
}


def _published(path: Path, options: ReadOptions) -> Source | None:
    """The data set whose files lie in a folder; None: none that is known."""
    wanted = None if options.layout == "auto" else options.layout
    survey = Survey(Path(os.path.realpath(path)), follow_links=options.follow_links)
    if wanted in (None, "rafdb"):
        if table := find_rafdb_list(survey):
            return ListingSource("RAF-DB", path, read=partial(read_rafdb, survey, table))
        if survey.file(lambda name: name == "train_labels.csv") and _has_rafdb_numbers(survey):
            return FolderSource(
                path,
                any_classes=options.any_classes,
                follow_links=options.follow_links,
                numbering="rafdb",
                kind="RAF-DB folders",
            )
    if wanted in (None, "affectnet") and (found := find_affectnet(survey)):
        form, files = found
        read = read_affectnet_csv if form == "csv" else read_affectnet_npy
        return ListingSource("AffectNet", path, read=partial(read, survey, files))
    if wanted in (None, "ckplus") and (folders := find_ckplus(survey)):
        read_sequences = partial(
            read_ckplus,
            survey,
            images=folders[0],
            labels=folders[1],
            peak_frames=options.peak_frames,
            neutral_frames=options.neutral_frames,
        )
        return ListingSource("CK+", path, read=read_sequences)
    if wanted in (None, "expw") and (table := find_expw_list(survey)):
        return ListingSource("ExpW", path, read=partial(read_expw, survey, table))
    # Last: the other layouts have tables or folders of their own, this one only names.
    kind = find_named_files(survey)
    if kind is not None and wanted in (None, kind.lower()):
        return ListingSource(kind, path, read=partial(read_named_files, survey, kind))
    return None


def _has_rafdb_numbers(survey: Survey) -> bool:
    """Whether the folders of images are exactly 1 to 7; other numbers are those of another data set."""
    return {folder.name for folder in survey.images} == set(map(str, NUMBERED_CLASSES["rafdb"]))


def _face_csv(table: Path, options: ReadOptions) -> Source:
    votes = None if options.votes is None else Path(options.votes)
    return FerCsvSource(table, votes=votes, vote_mode=options.vote_mode)


def _csv_source(path: Path, options: ReadOptions) -> Source:
    columns = read_columns(path)
    # The numbers of a manifest's labels may be any data set's.
    numbered = NUMBERED_CLASSES if {"path", "label"} <= set(columns) else ()
    if options.layout not in ("auto", "csv", "fer2013", "affectnet", *numbered):
        raise DataError(
            f"--layout {options.layout}: {printable(path)} is a file; name the folder that holds the data set."
        )
    if "emotion" in columns or "pixels" in columns:
        _require_layout(options.layout, path, is_kind="fer2013")
        return _face_csv(path, options)
    if AFFECTNET_COLUMN in columns:
        _require_layout(options.layout, path, is_kind="affectnet")
        survey = Survey(path.resolve().parent, follow_links=options.follow_links)
        return ListingSource(
            "AffectNet", path, read=partial(read_affectnet_csv, survey, [path.resolve()])
        )
    if "path" in columns or "label" in columns:
        return ManifestSource(path)
    if "image name" in columns:
        raise DataError(
            f"{printable(path)}: FER+ votes, which hold no images; pass --data fer2013.csv with it as --votes."
        )
    raise DataError(
        f"{printable(path)}, row 1: columns {', '.join(map(printable, list(columns)[:8]))}; "
        "read are emotion,pixels,Usage (fer2013.csv) or path,label[,split][,group]."
    )


def _require_layout(layout: str, path: Path, *, is_kind: str) -> None:
    """Refuses the layout of another data set than a csv file's columns show."""
    if layout not in ("auto", "csv", is_kind):
        raise DataError(
            f"--layout {layout}: {printable(path)} has the columns of {is_kind}; give --layout {is_kind}, or leave it out."
        )


def _face_table(folder: Path) -> Path | None:
    """fer2013.csv in an unpacked archive, at its top or one folder down."""
    folders, _ = visible(folder)
    for place in (folder, *(folder / name for name in folders[:1] if len(folders) == 1)):
        for name in _FACE_FILES:
            if (place / name).is_file():
                return place / name
    return None


def _download(name: str) -> Path:
    kagglehub = optional_library("kagglehub", extra="kaggle", purpose=f"--data kaggle:{name}")
    try:
        return Path(kagglehub.dataset_download(name))
    except (
        Exception
    ) as error:  # network, login, licence, name: kagglehub has a kind of error for each
        reason = first_line(error)
        raise DataError(
            f"kaggle:{name}: can't be downloaded ({reason}); check the network, the name and the login."
        ) from None


class DemoSource:
    """Drawn faces: the same number gives the same pixels."""

    kind = "demo"

    def __init__(self, count: int) -> None:
        self.where = f"demo:{count}"
        if count < 70:
            raise DataError(
                f"demo:{count} is too few for seven classes in three splits; give demo:70 or more."
            )
        self._count = count

    def stamp(self) -> bytes:
        from fer_ignite.data import drawn_faces

        # The drawing is part of the data: a changed program draws other faces.
        return hashlib.sha256(file_stamp(Path(drawn_faces.__file__)) + b"%d" % self._count).digest()

    def samples(self) -> Samples:
        from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

        # Seed 0, not the run's: demo:N names the same faces in every run.
        images_NHWC, labels_N = draw_faces(self._count, seed=0)
        return Samples(
            classes=DEMO_CLASSES,
            ids=[b"face %d" % index for index in range(self._count)],
            labels_N=labels_N.astype(np.int64),
            splits_N=np.full(self._count, UNDECIDED, dtype=np.uint8),
            pixels_NHWC=images_NHWC,
        )


def require_memory(needed_bytes: int, where: str, *, remedy: str) -> None:
    """Refuses images that the machine's memory can't hold; without it the system ends the process.

    Args:
        needed_bytes: of all images, decoded.
        remedy: what to do about it; it follows a semicolon.
    Raises:
        DataError: there is less memory.
    """
    memory = usable_memory()
    if memory is not None and needed_bytes > memory:
        raise DataError(
            f"{printable(where)}: its images take {needed_bytes / 1e9:.3g} GB of memory once decoded, and there are {memory / 1e9:.3g} GB; "
            f"{remedy}."
        )


class CacheSource:
    """An existing dataset cache, packed again under other class names; encoded images are decoded into memory, all of them."""

    kind = "pack"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.path = path

    def stamp(self) -> bytes:
        dataset_cache = open_cache(self.path)
        digest = hashlib.sha256(dataset_cache.fingerprint.encode())
        # The fingerprint doesn't cover the groups, which a union or other classes take over.
        if dataset_cache.groups is not None:
            digest.update(dataset_cache.groups.astype("<i8").tobytes())
        return digest.digest()

    def samples(self) -> Samples:
        dataset_cache = open_cache(self.path)
        if dataset_cache.shards is not None:
            raise DataError(
                f"{printable(self.where)}: faces in shards are read as they are; join data sets and choose --classes and --split when "
                "the shards are written: fer-ignite pack DATA --shards FOLDER."
            )
        if not dataset_cache.is_memmap:
            require_memory(
                dataset_cache.decoded_bytes,
                self.where,
                remedy="name the files that the dataset cache was made from in its place",
            )
        everything = np.arange(len(dataset_cache))
        return Samples(
            classes=dataset_cache.classes,
            ids=[dataset_cache.id_bytes(index) for index in range(len(dataset_cache))],
            labels_N=np.array(dataset_cache.labels),
            splits_N=np.array(dataset_cache.splits),
            # Pixels stay mapped; encoded images are decoded here.
            pixels_NHWC=dataset_cache.pixels
            if dataset_cache.is_memmap
            else dataset_cache.read(everything),
            groups_N=None if dataset_cache.groups is None else np.array(dataset_cache.groups),
            soft_NK=None if dataset_cache.soft is None else np.array(dataset_cache.soft),
            skipped=tuple(dataset_cache.manifest["skipped"]),
            left_out=dict(dataset_cache.manifest["left_out"]),
        )
