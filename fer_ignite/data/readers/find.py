"""Detection of the source that ``--data`` names."""

import hashlib
import re
from pathlib import Path

import numpy as np

from fer_ignite.data.cache.format import is_cache, open_cache
from fer_ignite.data.images import printable
from fer_ignite.data.readers.csv_files import FerCsvSource, ManifestSource, file_stamp, read_columns
from fer_ignite.data.readers.folders import FolderSource, visible
from fer_ignite.data.samples import UNDECIDED, Samples, Source
from fer_ignite.errors import DataError
from fer_ignite.imports import optional_library

__all__ = ["DEMO_COUNT", "find_source"]

DEMO_COUNT = 3500
_DEMO = re.compile(r"^demo(?::(\d{1,7}))?$")
_KAGGLE = re.compile(r"^kaggle:([\w.-]+/[\w.-]+)$")
_FACE_FILES = ("fer2013.csv", "icml_face_data.csv", "fer2013.csv.gz", "icml_face_data.csv.gz")


def find_source(
    data: str, *, votes: str | None = None, vote_mode: str = "majority", any_classes: bool = False
) -> Source:
    """The source that a text names.

    Args:
        data: a path, demo, demo:N or kaggle:owner/name.
        votes: path of fer2013new.csv.
        any_classes: the user names the classes, so that class folders may differ or be empty.
    Raises:
        DataError: there is no such thing, or it is nothing that can be read.
    """
    source = _find(
        data,
        votes=None if votes is None else Path(votes),
        vote_mode=vote_mode,
        any_classes=any_classes,
    )
    if votes is not None and not isinstance(source, FerCsvSource):
        raise DataError(
            f"--votes goes with the rows of fer2013.csv or icml_face_data.csv; {data} is {source.kind}."
        )
    return source


def _find(data: str, *, votes: Path | None, vote_mode: str, any_classes: bool) -> Source:
    if match := _DEMO.match(data):
        return DemoSource(int(match[1] or DEMO_COUNT))
    if match := _KAGGLE.match(data):
        path = _download(match[1])
    elif "\0" in data or not Path(data).exists():
        raise DataError(
            f"data {printable(data)}: there is no such file or folder; give one, demo, demo:N, or kaggle:owner/name."
        )
    else:
        path = Path(data)
    if path.is_dir():
        if is_cache(path):
            return CacheSource(path)
        table = _face_table(path)
        return (
            FerCsvSource(table, votes=votes, vote_mode=vote_mode)
            if table
            else FolderSource(path, any_classes=any_classes)
        )
    return _csv_source(path, votes=votes, vote_mode=vote_mode)


def _csv_source(path: Path, *, votes: Path | None, vote_mode: str) -> Source:
    columns = read_columns(path)
    if "emotion" in columns or "pixels" in columns:
        return FerCsvSource(path, votes=votes, vote_mode=vote_mode)
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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

        images_NHWC, labels_N = draw_faces(self._count, seed=0)
        return Samples(
            classes=DEMO_CLASSES,
            ids=[b"face %d" % index for index in range(self._count)],
            labels_N=labels_N.astype(np.int64),
            splits_N=np.full(self._count, UNDECIDED, dtype=np.uint8),
            pixels_NHWC=images_NHWC,
        )


class CacheSource:
    """An existing pack, packed again under other class names."""

    kind = "pack"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.path = path

    def stamp(self) -> bytes:
        return hashlib.sha256(open_cache(self.path).fingerprint.encode()).digest()

    def samples(self) -> Samples:
        pack = open_cache(self.path)
        everything = np.arange(len(pack))
        return Samples(
            classes=pack.classes,
            ids=[pack.id_bytes(index) for index in range(len(pack))],
            labels_N=np.array(pack.labels),
            splits_N=np.array(pack.splits),
            pixels_NHWC=pack.pixels if pack.is_memmap else pack.read(everything),
            groups_N=None if pack.groups is None else np.array(pack.groups),
            soft_NK=None if pack.soft is None else np.array(pack.soft),
            left_out=dict(pack.manifest["left_out"]),
        )
