#!/usr/bin/env python3
"""Writes docs/reference/files.md from the modules' docstrings; ``--check`` only compares."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "files.md"
HEAD = "# Files of the package\n\nWritten by `scripts/tree.py` from the first paragraph of each module's docstring.\n"
WIDTH = 24


def idea(file: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`").removesuffix(".")


def tree(folder: Path, depth: int) -> Iterator[str]:
    """One line per file and folder."""
    indent = "    " + "  " * depth
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield f"{indent}{file.name:<{WIDTH - 2 * depth}} {idea(file)}"
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield f"{indent}{inner.name + '/':<{WIDTH - 2 * depth}} {idea(inner / '__init__.py')}"
        yield from tree(inner, depth + 1)


def main() -> int:
    """Rewrites the page, or compares; the exit code says whether it was up to date."""
    lines = "\n".join(["    fer_ignite/", *tree(ROOT / "fer_ignite", 1)])
    new = f"{HEAD}\n{lines}\n"
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
