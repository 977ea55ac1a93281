"""Cells of the rows that commands print: one line each, whatever a file is called."""

import csv
import io
from collections.abc import Sequence

__all__ = ["csv_line", "harmless", "printable"]


def printable(text: str) -> str:
    """A path on one line, whatever its name holds."""
    return text if text.isprintable() else ascii(text)[1:-1]


def csv_line(cells: Sequence[str]) -> str:
    """One row of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def harmless(cell: str) -> str:
    """The cell with an apostrophe in front where a spreadsheet would run it as a formula."""
    return "'" + cell if cell[:1] in ("=", "+", "-", "@") else cell
