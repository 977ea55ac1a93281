"""Class names: matching by name and meaning, renaming, merging, and differences between two sets."""

# Dimensions: N images, K classes.

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fer_ignite.data.expressions import are_numbers, find_expression
from fer_ignite.errors import ConfigError, DataError

__all__ = [
    "LAYOUTS_OF_NUMBERS",
    "ClassMatch",
    "ClassPlan",
    "class_difference",
    "composed",
    "match_classes",
    "number_warning",
    "parse_classes",
    "relabel",
    "require_known_classes",
]

# Layouts that name the numbered class folders of a data set.
LAYOUTS_OF_NUMBERS = ("rafdb", "fer2013", "affectnet")

# Position in the new list of names, and the names of the source that it stands for.
ClassPlan = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassMatch:
    """Which of a network's classes each class of a data set is.

    Attributes:
        data_classes, known_classes: names in the data's and in the network's order.
        places_K: int64 [K of the data], position in ``known_classes``; -1 for a class that the network doesn't know.
    """

    data_classes: tuple[str, ...]
    known_classes: tuple[str, ...]
    places_K: npt.NDArray[np.int64]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes of the data that the network doesn't know."""
        return tuple(
            name for name, place in zip(self.data_classes, self.places_K, strict=True) if place < 0
        )

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes of the network that the data doesn't have."""
        found = set(self.places_K.tolist())
        return tuple(name for place, name in enumerate(self.known_classes) if place not in found)

    @property
    def renamed(self) -> str:
        """``anger = angry, joy = happy``: classes that were matched under another name; empty where none was."""
        pairs = zip(self.data_classes, self.places_K.tolist(), strict=True)
        return ", ".join(
            f"{name} = {self.known_classes[place]}"
            for name, place in pairs
            if place >= 0 and self.known_classes[place] != name
        )


def match_classes(
    data_classes: Sequence[str], known_classes: Sequence[str], *, numbers_are_names: bool = False
) -> ClassMatch:
    """Matches the classes of a data set with a network's: by name, then by the expression that a name means.

    Args:
        numbers_are_names: numbers on one side are matched with nothing, in place of an error.
    Raises:
        DataError: one side has numbers and the other names, or a name means several of the network's classes.
    """
    # A number means another expression in each data set: 1 is disgust in FER2013, surprise in
    # RAF-DB.
    if not numbers_are_names and are_numbers(data_classes) != are_numbers(known_classes):
        raise DataError(_numbers_against_names(data_classes, known_classes))
    exact = {name: place for place, name in enumerate(known_classes)}
    by_case: dict[str, list[int]] = {}
    by_meaning: dict[str, list[int]] = {}
    for place, name in enumerate(known_classes):
        by_case.setdefault(composed(name).strip().casefold(), []).append(place)
        if (meaning := find_expression(name)) is not None:
            by_meaning.setdefault(meaning, []).append(place)
    places = []
    for name in data_classes:
        # Exact names first: two classes of a network may differ in case alone, or mean the same.
        found = (
            [exact[name]]
            if name in exact
            else by_case.get(composed(name).strip().casefold())
            or by_meaning.get(find_expression(name) or "", [])
        )
        if len(found) > 1:
            raise DataError(
                f"the data's class {name} may be any of the network's {', '.join(known_classes[place] for place in found)}; "
                f"say which with --classes, e.g. --classes '{known_classes[found[0]]}={name}, ...'."
            )
        places.append(found[0] if found else -1)
    return ClassMatch(tuple(data_classes), tuple(known_classes), np.array(places, dtype=np.int64))


def number_warning(classes: Sequence[str]) -> str | None:
    """What to say about classes that are numbers; None for names."""
    if not are_numbers(classes):
        return None
    example = ",".join(
        f"{name}={number}" for name, number in zip(("angry", "disgust"), classes, strict=False)
    )
    return (
        f"the classes are numbers ({', '.join(classes)}), whose meaning is not guessed: the network will name numbers, and is "
        f"evaluated on other data only where --classes says that its numbers are the same. Name them with --layout {' or '.join(LAYOUTS_OF_NUMBERS)} where the data is one of these, "
        f"or with --classes '{example},...'."
    )


def require_known_classes(match: ClassMatch, *, remedy: str) -> None:
    """Refuses classes that the network doesn't know.

    Args:
        remedy: what to do about it; it follows a semicolon.
    Raises:
        DataError: naming these classes and the network's.
    """
    if match.unknown:
        raise DataError(
            f"the network doesn't know {', '.join(match.unknown)} (it knows {', '.join(match.known_classes)}); {remedy}."
        )


def _numbers_against_names(data_classes: Sequence[str], known_classes: Sequence[str]) -> str:
    if are_numbers(data_classes):
        example = ", ".join(
            f"{name}={number}"
            for name, number in zip(known_classes[:2], data_classes, strict=False)
        )
        return (
            f"the data's classes are numbers ({', '.join(data_classes)}), whose meaning is not guessed; name them with "
            f"--layout {'|'.join(LAYOUTS_OF_NUMBERS)} where the data is one of these, or with --classes '{example}, ...'."
        )
    return (
        f"the network's classes are numbers ({', '.join(known_classes)}), whose meaning is not guessed, and the data's are "
        f"names ({', '.join(data_classes)}); train the network on named classes (--layout or --classes of `fer-ignite train`)."
    )


def class_difference(expected: Iterable[str], found: Iterable[str]) -> str:
    """What `found` lacks and has too much against `expected`, in words; empty where the sets agree."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"unknown {', '.join(extra)}"] if extra else []
    return "; ".join(parts)


def parse_classes(text: str, source_classes: Sequence[str]) -> ClassPlan:
    """The given list of classes from its text form.

    Args:
        text: comma-separated names in their order; `new=old` renames, `new=old+old` merges; what isn't named is
            left out.
        source_classes: the names that there are.
    Raises:
        ConfigError: the text has no such form, or uses a name twice.
        DataError: it names a class that the source doesn't have.
    """
    plan: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        new, _, olds = (piece.strip() for piece in part.partition("="))
        names = tuple(old.strip() for old in olds.split("+")) if "=" in part else (new,)
        if not new or not all(names) or new in plan:
            raise ConfigError(
                f"--classes: {part.strip()!r} in {text!r} is empty or comes twice; write name or new=old+old."
            )
        plan[new] = names
    plan = {
        new: tuple(_known_name(old, source_classes) for old in olds) for new, olds in plan.items()
    }
    used = [old for names in plan.values() for old in names]
    twice = sorted({old for old in used if used.count(old) > 1})
    if twice:
        raise ConfigError(
            f"--classes uses {', '.join(twice)} twice; each class of the data goes to one name."
        )
    absent = [old for old in used if old not in source_classes]
    if absent:
        raise DataError(
            f"--classes names {', '.join(absent)}; the data has {', '.join(source_classes)}."
        )
    if len(plan) < 2:
        raise ConfigError(f"--classes gives {len(plan)} class; two or more can be distinguished.")
    return plan


def _known_name(name: str, source_classes: Sequence[str]) -> str:
    """A class of the data by its name, else the only one that means the same expression; else the name as it is."""
    if name in source_classes:
        return name
    same = [known for known in source_classes if composed(known) == composed(name)]
    if same or (meaning := find_expression(name)) is None:
        return same[0] if len(same) == 1 else name
    same = [known for known in source_classes if find_expression(known) == meaning]
    return same[0] if len(same) == 1 else name


def composed(name: str) -> str:
    """The name in Unicode's composed form: macOS writes é in file names as two characters, keyboards as one."""
    return unicodedata.normalize("NFC", name)


def relabel(
    plan: ClassPlan,
    source_classes: Sequence[str],
    *,
    labels_N: npt.NDArray[np.int64],
    soft_NK: npt.NDArray[np.float32] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    """Labels (-1 for what is left out) and vote shares (renormalised) in the order of the plan."""
    place = {old: new for new, olds in enumerate(plan.values()) for old in olds}
    table_K = np.array([place.get(name, -1) for name in source_classes], dtype=np.int64)
    if soft_NK is None:
        return table_K[labels_N], None
    merged_NK = np.zeros((len(soft_NK), len(plan)), dtype=np.float32)
    for old, new in enumerate(table_K):
        if new >= 0:
            merged_NK[:, new] += soft_NK[:, old]
    # A face all of whose votes went to classes that are left out keeps zeros; 0 / 0 would be NaN.
    total_N = merged_NK.sum(axis=1, keepdims=True)
    return table_K[labels_N], (merged_NK / np.where(total_N > 0, total_N, 1)).astype(np.float32)
