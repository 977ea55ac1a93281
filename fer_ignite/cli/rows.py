"""Csv rows of command output."""

import csv
import io
from collections.abc import Sequence
from typing import Any

__all__ = ["csv_line", "describe_box"]


def csv_line(cells: Sequence[str]) -> str:
    """One row of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def describe_box(box: Any) -> str:
    """A face's size and place in its picture, in px."""
    return f"{box.width:.0f} x {box.height:.0f} at {box.left:.0f}, {box.top:.0f}"
