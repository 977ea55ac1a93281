"""A notebook as a page: its text as text, its code as code."""

import json
from pathlib import Path

__all__ = ["notebook_page"]


def notebook_page(file: Path) -> str:
    """Markdown of the cells; outputs are left out, since a test runs the notebook again."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else _code(cell)
        for cell in cells
    ]
    note = f"*This page is the notebook [{file.name}]({file.name}).*"
    return "\n\n".join([parts[0], note, *parts[1:]]) + "\n"


def _code(cell: dict[str, list[str]]) -> str:
    return "```python\n" + "".join(cell["source"]) + "\n```"
