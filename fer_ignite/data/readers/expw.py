"""ExpW (Expression in the Wild): `label.lst` with a box per face.

Source: Zhang, Luo, Loy and Tang: From Facial Expression Recognition to Interpersonal Relation Prediction (IJCV 2018). A row is
image name, number of the face in it, top, left, right, bottom, confidence of the box, expression.
"""

import os
from pathlib import Path

from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.data.images import printable
from fer_ignite.data.readers.listing import ListedFace, Listing, Survey
from fer_ignite.errors import DataError

__all__ = ["find_expw_list", "read_expw"]

_CODES = NUMBERED_CLASSES["expw"]


def find_expw_list(survey: Survey) -> Path | None:
    """The list of labels, in the folder or below it."""
    return survey.file(lambda name: name == "label.lst")


def read_expw(survey: Survey, table: Path) -> Listing:
    """The faces of the list, cut to their boxes; the faces of one picture are a group.

    Raises:
        DataError: the list can't be read, or none of its first images is found.
    """
    root = survey.root
    listing = Listing(
        root, tuple(_CODES.values()), tables=[table], follow_links=survey.follow_links
    )
    rows: list[tuple[str, int, str, tuple[int, int, int, int]]] = []
    try:
        # split, not splitlines: that also cuts at form feeds and U+2028, and rows would have
        # other numbers than in an editor.
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(table)}: can't be read ({error}).") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            image, face = words[0], int(words[1])
            # The list has top before left; boxes here begin with left.
            top, left, right, bottom = (round(float(word)) for word in words[2:6])
            label = _CODES[int(words[7])]
        except (ValueError, IndexError, KeyError, OverflowError):  # the last: a box of inf
            listing.refused.append((f"{table.name} row {number}", "no row of eight fields"))
            continue
        rows.append((image, face, label, (left, top, right, bottom)))
    folder = _folder_of(survey, [row[0] for row in rows]) if rows else root
    for image, face, label, box in rows:
        file = os.path.relpath(folder / image, root)
        listing.faces.append(ListedFace(file, label, group=image, box=box, name=f"{file}#{face}"))
    return listing


def _folder_of(survey: Survey, images: list[str]) -> Path:
    # One picture may have many rows.
    found = survey.folder_holding(dict.fromkeys(images))
    if found is None:
        raise DataError(
            f"{printable(survey.root)} (ExpW): {printable(images[0])} and the images after it in label.lst are not below it; "
            f"{survey.missing_images('unpack the images beside the list')}."
        )
    return found
