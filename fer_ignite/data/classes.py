"""Class names: matching by name, renaming, merging, and differences between two sets."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fer_ignite.errors import ConfigError, DataError

__all__ = ["ClassPlan", "class_difference", "map_classes", "parse_classes", "relabel"]

# Position in the new list of names, and the names of the source that it stands for.
ClassPlan = dict[str, tuple[str, ...]]


def map_classes(data_classes: Sequence[str], known_classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each class of a data set stands in another list of the same names.

    Args:
        data_classes: names in the data's order.
        known_classes: names in the order that is wanted, a checkpoint's for instance.
    Returns:
        int64 [K]: known label = result[data label].
    Raises:
        DataError: the two don't hold the same names.
    """
    difference = class_difference(known_classes, data_classes)
    if difference:
        raise DataError(
            f"The data has {len(data_classes)} classes, {len(known_classes)} are known: {difference}. "
            "Both must have the same; `fer-ignite pack DATA --classes 'new=old, ...'` makes a pack with other names."
        )
    place = {name: position for position, name in enumerate(known_classes)}
    return np.array([place[name] for name in data_classes], dtype=np.int64)


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


def relabel(
    plan: ClassPlan,
    source_classes: Sequence[str],
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
    total_N = merged_NK.sum(axis=1, keepdims=True)
    return table_K[labels_N], (merged_NK / np.where(total_N > 0, total_N, 1)).astype(np.float32)
