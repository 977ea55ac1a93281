"""FER+ votes of single images as text."""

import re
from collections.abc import Sequence
from pathlib import Path

from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.expressions import FERPLUS_COLUMNS, find_expression
from fer_ignite.data.readers.csv_files import iter_rows
from fer_ignite.data.readers.ferplus import read_votes
from fer_ignite.errors import DataError

__all__ = ["describe_votes"]

_ROW = re.compile(r"row (\d+)")


def describe_votes(
    votes: str, cache: DatasetCache | None, *, places: Sequence[int]
) -> dict[int, str]:
    """The votes of the faces at ``places``, most first, such as "fear 5, surprise 4, neutral 1".

    Args:
        votes: path of fer2013new.csv, whose rows are those of the csv that the dataset cache was made from.
    Raises:
        DataError: the faces don't come from fer2013.csv's rows, or the votes file has fewer rows.
    """
    numbers = {place: _row_number(cache, place) for place in places}
    if cache is None or any(number is None for number in numbers.values()):
        raise DataError(
            f"--votes: {votes} goes with the rows of fer2013.csv; the faces come from elsewhere. Leave it out."
        )
    counts_NV = read_votes(Path(votes), iter_rows(Path(votes))).counts_NV
    vote_texts = {}
    for place, number in numbers.items():
        index = (number or 0) - 2  # a row's number is a spreadsheet's: the header is row 1
        if not 0 <= index < len(counts_NV):
            raise DataError(
                f"--votes: {votes} has {len(counts_NV)} rows, the data has a row {number}; name its own votes."
            )
        pairs = [
            (int(count), name)
            for name, count in zip(FERPLUS_COLUMNS, counts_NV[index], strict=True)
            if count
        ]
        pairs.sort(key=lambda pair: -pair[0])
        vote_texts[place] = (
            ", ".join(f"{_plain(name)} {count}" for count, name in pairs) or "no votes"
        )
    return vote_texts


def _plain(column: str) -> str:
    return "not a face" if column == "NF" else find_expression(column) or column


def _row_number(cache: DatasetCache | None, place: int) -> int | None:
    # Only rows of a csv have such ids; images of folders have no row in the votes file.
    found = None if cache is None else _ROW.fullmatch(cache.sample_id(place))
    return int(found[1]) if found else None
