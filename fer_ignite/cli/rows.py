"""Csv rows of command output."""

import csv
import io
from collections.abc import Sequence
from typing import Any

__all__ = ["csv_line", "describe_box", "top_cells", "top_columns"]


def csv_line(cells: Sequence[str]) -> str:
    """One row of a csv file."""
    text = io.StringIO()
    # The csv module's own line end is \r\n on every system.
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def top_columns(count: int) -> list[str]:
    """Names of the columns of the ``count`` most probable expressions."""
    return [f"{what}_{place}" for place in range(1, count + 1) for what in ("label", "p")]


def top_cells(top: Sequence[tuple[str, float]], count: int) -> list[str]:
    """Cells of these columns, empty where there are fewer expressions."""
    cells = [cell for name, share in top for cell in (name, f"{share:.6f}")]
    return cells + [""] * (2 * count - len(cells))


def describe_box(box: Any) -> str:
    """A face's size and place in its picture, in px."""
    return f"{box.width:.0f} x {box.height:.0f} at {box.left:.0f}, {box.top:.0f}"
