"""JAFFE and KDEF, whose file names carry person and expression.

Sources: Lyons, Akamatsu, Kamachi and Gyoba: Coding Facial Expressions with Gabor Wavelets (FG 1998): `KA.AN1.39.tiff` is
person KA, angry. Lundqvist, Flykt and Öhman: The Karolinska Directed Emotional Faces (1998): `AF01ANS.JPG` is session A,
woman 01, angry, straight.
"""

# Dimensions: N images.

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.expressions import find_expression
from fer_ignite.data.readers.listing import ListedFace, Listing, Survey, is_image_name

__all__ = ["PERSON_PATTERNS", "Persons", "find_named_files", "find_persons", "read_named_files"]

# Named groups: person, code. KDEF's two sessions (A, B) show the same people.
_PATTERNS = {
    "JAFFE": re.compile(
        r"^(?P<person>[A-Z]{2})[.-](?P<code>AN|DI|FE|HA|NE|SA|SU)\d?[.-]\d+\.", re.I
    ),
    "KDEF": re.compile(
        r"^[AB](?P<person>[FM]\d\d)(?P<code>AF|AN|DI|HA|NE|SA|SU)(?:S|HL|HR|FL|FR)\.", re.I
    ),
}
PERSON_PATTERNS = {**_PATTERNS, "CK+": re.compile(r"^(?P<person>S\d{3})_\d{3}_\d{8}", re.I)}
# All of them as one: the only group that matches is the person.
_ANY_PERSON = re.compile(
    "|".join(pattern.pattern for pattern in PERSON_PATTERNS.values())
    .replace("?P<person>", "")
    .replace("?P<code>", "?:"),
    re.I,
)
_ORDER = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_SESSION = re.compile(r"^[AB][FM]\d\d$", re.I)


class Persons(NamedTuple):
    """Persons found in file names: int64 number of each image's person, and the names that carry none."""

    numbers_N: NDArray[np.int64]
    unknown: list[str]


def find_named_files(survey: Survey) -> str | None:
    """ "JAFFE" or "KDEF" where most images below the folder are named so and lie in no folders of classes."""
    count = sum(map(len, survey.images.values()))
    for kind, pattern in _PATTERNS.items():
        folders = [
            folder.name
            for folder, names in survey.images.items()
            for name in names
            if pattern.match(name)
        ]
        # In folders of classes the folders' names are the labels, and the file names only say the
        # person.
        if 2 * len(folders) > count and (
            len(set(folders)) == 1 or all(_SESSION.match(folder) for folder in folders)
        ):
            return kind
    return None


def read_named_files(survey: Survey, kind: str) -> Listing:
    """The images whose names are the data set's; the person is the group."""
    listing = Listing(survey.root, _ORDER, follow_links=survey.follow_links)
    for name in listing.walk(survey.root):
        if not is_image_name(name):
            listing.left_out["no image by name"] += 1
            continue
        match = _PATTERNS[kind].match(os.path.basename(name))
        if match is None:
            listing.left_out[f"not named as {kind} names its images"] += 1
            continue
        label = find_expression(match["code"])
        assert label is not None
        listing.faces.append(ListedFace(name, label, group=match["person"].upper()))
    return listing


def find_persons(names: Sequence[str]) -> Persons | None:
    """The person of each image by its file's name, as CK+, JAFFE and KDEF write it; None where no person has two images.

    An image whose name carries no person is a group of its own.
    """
    found = [_ANY_PERSON.match(name.rpartition(os.sep)[2]) for name in names]
    persons = [match and match[match.lastindex or 0].upper() for match in found]
    unknown = [name for name, person in zip(names, persons, strict=True) if person is None]
    if len(unknown) + len({*persons} - {None}) == len(names):
        return None
    numbers: dict[str, int] = {}
    # A path has a suffix, so it equals no person.
    groups = (person or name for name, person in zip(names, persons, strict=True))
    numbers_N = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return Persons(numbers_N.astype(np.int64), unknown)
