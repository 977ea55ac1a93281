"""RAF-DB, basic expressions: `list_patition_label.txt` beside aligned images.

Source: Li, Deng and Du: Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the
Wild (CVPR 2017). A line of the list is `train_00001.jpg 5`; the aligned image is `train_00001_aligned.jpg`.
"""

from pathlib import Path

from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.data.images import printable
from fer_ignite.data.readers.listing import ListedFace, Listing, Survey
from fer_ignite.data.samples import SPLIT_OF_NAME
from fer_ignite.errors import DataError

__all__ = ["find_rafdb_list", "read_rafdb"]

# The first spelling is the published one.
_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_CODES = NUMBERED_CLASSES["rafdb"]


def find_rafdb_list(survey: Survey) -> Path | None:
    """The list of labels, in the folder or below it."""
    return survey.file(lambda name: name in _LISTS)


def read_rafdb(survey: Survey, table: Path) -> Listing:
    """The faces that the list names.

    Raises:
        DataError: the list can't be read, or there is no image of it.
    """
    root = survey.root
    listing = Listing(
        root, tuple(_CODES.values()), tables=[table], follow_links=survey.follow_links
    )
    entries = _rows(table, refused=listing.refused)
    if not entries:
        return listing
    folder, ending = _images(survey, [name for name, _ in entries])
    for name, code in entries:
        split = SPLIT_OF_NAME.get(name.partition("_")[0].lower())
        if code not in _CODES or split is None:
            listing.refused.append(
                (name, f"{code} is no label from 1 to 7" if split is not None else "names no split")
            )
            continue
        file = folder / _with_ending(name, ending)
        listing.faces.append(ListedFace(str(file.relative_to(root)), _CODES[code], split))
    return listing


def _rows(table: Path, *, refused: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """Name and code of each row; rows of another form are added to `refused`."""
    try:
        # split, not splitlines: that also cuts at form feeds and U+2028, and rows would have
        # other numbers than in an editor.
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(table)}: can't be read ({error}).") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not words[1].isdecimal():
            reason = f"{printable(line[:60])!r}; a row is a file name and a label, as in 'train_00001.jpg 5'"
            refused.append((f"{table.name} row {number}", reason))
            continue
        rows.append((words[0], int(words[1])))
    return rows


def _images(survey: Survey, names: list[str]) -> tuple[Path, str]:
    """The folder of images and what stands between stem and suffix: aligned images before originals."""
    for ending in ("_aligned", ""):
        folder = survey.folder_holding(_with_ending(name, ending) for name in names)
        if folder is not None:
            return folder, ending
    raise DataError(
        f"{printable(survey.root)} (RAF-DB): none of the images that the list names is below it; "
        f"{survey.missing_images('unpack aligned.zip beside the list')}."
    )


def _with_ending(name: str, ending: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}{ending}.{suffix}"
