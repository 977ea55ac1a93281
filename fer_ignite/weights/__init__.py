"""Shipped weights: `quick`, trained on FER2013 by the default recipe."""

from importlib.resources import files
from pathlib import Path

__all__ = ["SHIPPED", "shipped_checkpoint"]

SHIPPED = "quick"


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with the package; ``quick.md`` beside it says what it is and what it is not for."""
    return Path(str(files(__name__) / f"{SHIPPED}.pt"))
