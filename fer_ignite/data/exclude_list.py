"""Exclude list: a csv of image ids that training leaves out, with its digest.

In a run's configuration the list stands as ``audit.csv#<digest>``: the digest is of the ids, so the file may move, and a
list that was changed is another setting.
"""

# Dimensions: N images.

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.images import printable
from fer_ignite.data.readers.csv_files import iter_rows
from fer_ignite.data.samples import SPLITS
from fer_ignite.errors import ConfigError, DataError

__all__ = ["ExcludeList", "formula_safe", "is_same_list", "read_exclude_list"]

_PINNED = re.compile(r"^(?P<path>.+)#(?P<digest>[0-9a-f]{16})$", re.DOTALL)
# Ids are file names, and a spreadsheet evaluates a cell that begins with one of these.
_FORMULA = ("=", "+", "-", "@")
# An empty cell drops nothing: only a yes leaves an image out.
_ANSWERS = {"yes": True, "no": False, "": False}


@dataclass(frozen=True)
class ExcludeList:
    """The ids that a list says to leave out.

    Attributes:
        path: of the csv.
        ids: sorted, each once.
    """

    path: str
    ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that follow from the ids alone."""
        # surrogateescape: ids may hold bytes that aren't UTF-8.
        return hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogateescape")).hexdigest()[
            :16
        ]

    @property
    def with_digest(self) -> str:
        """The setting that means this very list."""
        return f"{self.path}#{self.digest}"

    def positions(self, dataset_cache: DatasetCache) -> npt.NDArray[np.int64]:
        """Where the listed images stand in a dataset cache, in any split.

        Raises:
            DataError: an id is none of the dataset cache's.
        """
        wanted, names = (
            set(self.ids),
            [dataset_cache.sample_id(index) for index in range(len(dataset_cache))],
        )
        unknown = sorted(wanted.difference(names))
        # Not passed over: with a list of other data, all that it names would stay in training.
        if unknown:
            raise DataError(
                f"--exclude: {len(unknown)} ids of {printable(self.path)} are none of the data's, such as "
                f"{printable(unknown[0])!r}; make the list from this data (fer-ignite audit), or mend these rows."
            )
        return np.array(
            [index for index, name in enumerate(names) if name in wanted], dtype=np.int64
        )

    def describe(self, dataset_cache: DatasetCache) -> str:
        """How many train images go, and how many of val and test are listed and stay.

        Raises:
            DataError: see :meth:`positions`; or no train image would be left.
        """
        counts = np.bincount(
            dataset_cache.splits[self.positions(dataset_cache)], minlength=len(SPLITS)
        )
        if counts[0] == len(dataset_cache.indices("train")):
            raise DataError(
                f"--exclude: {printable(self.path)} lists all {counts[0]} train images; leave some of them."
            )
        stay = (
            f"; {counts[1]} listed val and {counts[2]} test images stay" if counts[1:].any() else ""
        )
        return f"exclude     {printable(self.path)}: {counts[0]} of {len(dataset_cache.indices('train'))} train images left out{stay}"


def read_exclude_list(text: str) -> ExcludeList:
    """The list that ``--exclude`` names.

    Args:
        text: a csv with a column ``id`` and, maybe, ``drop``: only rows that say yes there count. ``PATH#DIGEST`` means
            that very list and no changed one.
    Raises:
        ConfigError: no such file, or not these columns.
        DataError: a row that says neither yes nor no, or the list has changed.
    """
    # A file of that very name comes first: its name may end like a digest.
    pinned = None if Path(text).exists() else _PINNED.match(text)
    path = pinned["path"] if pinned else text
    try:
        rows = list(iter_rows(Path(path), columns=("id", "drop")))
    except DataError as error:
        raise ConfigError(f"--exclude: {error}") from None
    exclusion = ExcludeList(path, _ids(printable(path), rows))
    if pinned and exclusion.digest != pinned["digest"]:
        raise DataError(
            f"--exclude: {printable(path)} lists other images than the run began with ({exclusion.digest}, was "
            f"{pinned['digest']}); restore it, or give it again with --exclude and allow it with --override exclude."
        )
    return exclusion


def _ids(name: str, rows: Sequence[tuple[int, list[str]]]) -> tuple[str, ...]:
    header = [column.strip().lower() for column in rows[0][1]] if rows else []
    if "id" not in header:
        raise ConfigError(
            f"--exclude: {name} has no column id (it has {', '.join(map(printable, header[:8])) or 'none'}); "
            "name an audit.csv of fer-ignite audit, or a csv with the columns id and, maybe, drop (yes or no)."
        )
    ids = set()
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(
                f"--exclude: {name}, row {number}: {len(row)} fields; the header has {len(header)}."
            )
        answer = row[header.index("drop")].strip().lower() if "drop" in header else "yes"
        if answer not in _ANSWERS:
            raise DataError(
                f"--exclude: {name}, row {number}: drop is {printable(answer[:20])!r}; write yes or no."
            )
        if _ANSWERS[answer]:
            ids.add(_plain(row[header.index("id")]))
    return tuple(sorted(ids))


def is_same_list(one: str | None, other: str | None) -> bool:
    """Whether two settings mean lists of the same ids, wherever the files lie."""
    digests = [
        match["digest"]
        for text in (one, other)
        if text is not None and (match := _PINNED.match(text))
    ]
    return len(digests) == 2 and digests[0] == digests[1]


def formula_safe(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; :func:`read_exclude_list` reads it back."""
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell
