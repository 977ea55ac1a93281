#!/usr/bin/env python3
"""Writes the README's file tree from the modules' own docstrings; ``--check`` only says whether it is up to date."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree:begin -->\n", "<!-- tree:end -->\n"
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
    """Rewrites README.md, or compares; the exit code says whether it was up to date."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    lines = "\n".join(["    fer_ignite/", *tree(ROOT / "fer_ignite", 1)])
    new = f"{before}{BEGIN}\n{lines}\n\n{END}{after}"
    if "--check" not in sys.argv:
        readme.write_text(new, encoding="utf-8")
    return int("--check" in sys.argv and new != old)


if __name__ == "__main__":
    sys.exit(main())
