"""AffectNet: the csv of manual annotations, and the form with one .npy annotation per image.

Source: Mollahosseini, Hasani and Mahoor: AffectNet (IEEE Transactions on Affective Computing, 2019). The codes 8 (none), 9
(uncertain) and 10 (no face) are no expressions; such images are left out and counted.
"""

import contextlib
import os
from functools import partial
from pathlib import Path

import numpy as np

from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.data.images import printable
from fer_ignite.data.readers.csv_files import iter_rows
from fer_ignite.data.readers.listing import ListedFace, Listing, Survey, is_image_name
from fer_ignite.data.samples import SPLIT_OF_NAME, SPLITS, UNDECIDED
from fer_ignite.errors import DataError

__all__ = ["AFFECTNET_COLUMN", "find_affectnet", "read_affectnet_csv", "read_affectnet_npy"]

AFFECTNET_COLUMN = "subdirectory_filepath"
_CODES = NUMBERED_CLASSES["affectnet"]
_LEFT_OUT = {8: "none", 9: "uncertain", 10: "no face"}
_BOX = ("face_x", "face_y", "face_width", "face_height")
_LARGEST_NPY = 4096  # bytes; a label needs 130


def find_affectnet(survey: Survey) -> tuple[str, list[Path]] | None:
    """ "csv" and the tables of annotations, the nearest first, or "npy" and the annotation folders; None: no AffectNet."""
    tables = [file for file in survey.files if _is_annotations(file)]
    if tables:
        return "csv", tables
    labels = {file.parent for file in survey.files if file.name.endswith("_exp.npy")}
    return ("npy", sorted(labels)) if labels else None


def _is_annotations(file: Path) -> bool:
    if file.suffix.lower() != ".csv":
        return False
    try:
        with file.open("rb") as opened:
            # The first bytes alone: such a table has hundreds of thousands of rows.
            return AFFECTNET_COLUMN.encode() in opened.read(512).lower()
    except OSError:
        return False


def _split_of(name: str) -> int:
    # The published forms name their splits differently: training.csv, and the folder train_set.
    word = name.lower().removesuffix("_set").removesuffix("set").strip("_-")
    return SPLIT_OF_NAME.get(word, UNDECIDED)


def read_affectnet_csv(survey: Survey, tables: list[Path]) -> Listing:
    """The faces of the tables, cut to the boxes that stand there; a table's name says its split.

    The publication has ``automatically_annotated.csv`` beside ``training.csv`` and ``validation.csv``, or in a folder of its
    own: a network's labels, for no split. Rows of a table without a split are left out, and counted, where another table
    has one; so are those of a table in a farther folder than another table of its split.

    Args:
        tables: the nearest first.

    Raises:
        DataError: a column is missing, or none of the images is found.
    """
    root = survey.root
    listing = Listing(
        root, tuple(_CODES.values()), tables=list(tables), follow_links=survey.follow_links
    )
    left_out = _tables_left_out(root, tables)
    for table in tables:
        if table in left_out:
            listing.left_out[left_out[table]] += _count_rows(table)
            continue
        rows = iter_rows(
            table,
            columns=(AFFECTNET_COLUMN, "expression", *_BOX),
            broken=partial(_refuse_row, listing, table),
        )
        header = {name.strip().lower(): place for place, name in enumerate(next(rows, (1, []))[1])}
        missing = [name for name in (AFFECTNET_COLUMN, "expression") if name not in header]
        if missing:
            raise DataError(f"{printable(table)}, row 1: no column {', '.join(missing)}.")
        split = _split_of(table.stem)
        found: list[tuple[str, str, tuple[int, int, int, int] | None]] = []
        for number, row in rows:
            try:
                file = row[header[AFFECTNET_COLUMN]].strip()
                code = int(row[header["expression"]])
                box = _box(row, header)
            except (ValueError, IndexError, OverflowError):  # the last: a box of inf
                _refuse_row(listing, table, number, "no row of annotations")
                continue
            if code in _LEFT_OUT:
                listing.left_out[f"no expression: {code}, {_LEFT_OUT[code]}"] += 1
                continue
            if not file or "\0" in file:
                reason = f"{AFFECTNET_COLUMN} is empty or holds a zero byte"
                _refuse_row(listing, table, number, reason)
                continue
            if code not in _CODES:
                _refuse_row(listing, table, number, f"{code} is no code 0 to 10")
                continue
            found.append((file, _CODES[code], box))
        # Of each table: every list was published with images of its own.
        folder = _folder_of(survey, table, files=[row[0] for row in found]) if found else root
        listing.faces += [
            ListedFace(os.path.relpath(folder / file, root), label, split, box=box)
            for file, label, box in found
        ]
    return listing


def _count_rows(table: Path) -> int:
    """Rows below the header of a table that is not read, so that none is refused either; up to one that can't be read."""
    count = 0
    with contextlib.suppress(DataError):
        for _ in iter_rows(table, columns=(), broken=lambda *_: None):
            count += 1
    return max(count - 1, 0)


def _refuse_row(listing: Listing, table: Path, number: int, reason: str) -> None:
    listing.refused.append((f"{table.name} row {number}", reason))


def _tables_left_out(root: Path, tables: list[Path]) -> dict[Path, str]:
    """The tables that are not read, each with the reason under which its rows are counted."""
    first_of: dict[int, Path] = {}
    for table in tables:
        first_of.setdefault(_split_of(table.stem), table)
    left_out = {}
    for table in tables:
        split = _split_of(table.stem)
        first = first_of[split]
        if split == UNDECIDED and len(first_of) > 1:
            left_out[table] = f"of {table.name}, whose name gives no split"
        elif table.parent != first.parent:
            own, other = (printable(one.relative_to(root)) for one in (table, first))
            what = "the images" if split == UNDECIDED else SPLITS[split]
            left_out[table] = f"of {own}, as {other} lists {what}"
    return left_out


def _box(row: list[str], header: dict[str, int]) -> tuple[int, int, int, int] | None:
    if any(name not in header for name in _BOX):
        return None
    left, top, width, height = (round(float(row[header[name]])) for name in _BOX)
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None


def _folder_of(survey: Survey, table: Path, *, files: list[str]) -> Path:
    """The folder that the paths of a table start from."""
    found = survey.folder_holding(files)
    if found is None:
        raise DataError(
            f"{printable(table)} (AffectNet): {printable(files[0])} and the images after it are in no folder of {printable(survey.root)}; "
            f"{survey.missing_images('unpack the images beside the csv')}."
        )
    return found


def read_affectnet_npy(survey: Survey, folders: list[Path]) -> Listing:
    """The images with `annotations/<name>_exp.npy` beside `images/<name>.jpg`."""
    root = survey.root
    listing = Listing(root, tuple(_CODES.values()), follow_links=survey.follow_links)
    for folder in folders:
        split = _split_of(folder.parent.name)
        images = folder.parent / "images"
        for name in listing.walk(images) if images.is_dir() else ():
            if not is_image_name(name):
                continue
            label = folder / f"{os.path.splitext(name)[0]}_exp.npy"
            if not label.is_file():
                listing.left_out["without annotation"] += 1
                continue
            # An annotation is part of the stamp: one that is corrected makes another dataset
            # cache.
            listing.tables.append(label)
            code = _code_in(label)
            if code in _LEFT_OUT:
                listing.left_out[f"no expression: {code}, {_LEFT_OUT[code]}"] += 1
            elif code not in _CODES:
                listing.refused.append((str(label.relative_to(root)), "holds no code 0 to 10"))
            else:
                listing.faces.append(
                    ListedFace(os.path.relpath(images / name, root), _CODES[code], split)
                )
    return listing


def _code_in(file: Path) -> int:
    """The code in a .npy file, which holds a number or its text; -1 where it holds neither."""
    try:
        if file.stat().st_size > _LARGEST_NPY:
            return -1
        return int(np.load(file, allow_pickle=False).reshape(-1)[0])
    except (OSError, ValueError, IndexError, TypeError, EOFError):
        return -1
