"""Shipped weights: `robust`, trained on FER2013 by the recipe of that name."""

from importlib.resources import files
from pathlib import Path

__all__ = ["SHIPPED", "shipped_checkpoint"]

SHIPPED = "robust"


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with the package; ``robust.md`` beside it describes it and its limits."""
    return Path(str(files(__name__) / f"{SHIPPED}.pt"))
