"""Csv rows of command output."""

import csv
import io
from collections.abc import Sequence

__all__ = ["csv_line"]


def csv_line(cells: Sequence[str]) -> str:
    """One row of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
