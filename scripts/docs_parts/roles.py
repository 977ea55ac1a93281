"""Docstrings name their kin as :class:`Session` does; on the site that is plain code."""

import re
from typing import Any

import griffe
from markup import plain_roles

__all__ = ["Splits"]

_SHAPE = re.compile(r"(\[\w+\])\[")


class Splits(griffe.Extension):
    """Turns Sphinx roles into code, before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            # [K][K] is a shape, to Markdown it would be a link.
            obj.docstring.value = _SHAPE.sub(r"\1\\[", plain_roles(obj.docstring.value))
