"""Text of docstrings and help texts as Markdown that shows the same characters."""

import re

__all__ = ["literal", "plain_roles"]

_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`~?([^`]+)`")
_CODE_SPAN = re.compile(r"(`[^`]*`)")
# Character references and no backslashes: Python-Markdown keeps a backslash before "<", and before any character in a code span.
_REFERENCES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", "|": "&#124;", "*": "&#42;", "_": "&#95;", "[": "&#91;"}
)


def plain_roles(text: str) -> str:
    """:class:`Session` -> `Session`."""
    return _ROLE.sub(r"`\1`", text)


def literal(text: str) -> str:
    """Escapes Markdown outside of code spans; the result also stands in a table cell."""
    parts = _CODE_SPAN.split(text)
    return "".join(
        part
        if part.startswith("`") and part.endswith("`") and len(part) > 1
        else part.translate(_REFERENCES)
        for part in parts
    )
