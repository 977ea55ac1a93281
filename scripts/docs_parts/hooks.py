"""Hooks of mkdocs: pages generated from the code; comments for the tests are removed from written pages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import command_names, command_page, overview
from events import event_map
from mkdocs.structure.files import File
from notebook import notebook_page
from reference import reference_pages

__all__ = ["on_config", "on_files", "on_page_markdown"]

_NOTEBOOK = "notebooks/first_run.ipynb"
_BLOCK_OR_COMMENT = re.compile(
    r"^(?P<indent>[ ]*)```.*?^(?P=indent)```[ ]*$|(?P<comment>^[ ]*<!--.*?-->[ ]*\n*)",
    re.MULTILINE | re.DOTALL,
)


def on_config(config: Any) -> Any:
    """Completes the navigation: generated pages and unlisted ones are added; missing ones are left out."""
    docs = Path(config.docs_dir)
    made, named = _generated(docs), set(_targets(config.nav))
    unnamed = [file.name for file in sorted(docs.glob("*.md")) if file.name not in named]
    config.nav = _existing(config.nav, docs, set(made), {"*.md": unnamed, **_folders(made, named)})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made from the code."""
    for path, text in _generated(Path(config.docs_dir)).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Removes HTML comments outside of code blocks; they are notes for the tests."""
    return _BLOCK_OR_COMMENT.sub(lambda found: "" if found["comment"] else found[0], markdown)


def _generated(docs: Path) -> dict[str, str]:
    pages = {"commands/index.md": overview()}
    pages |= {f"commands/{name}.md": command_page(name) for name in command_names()}
    pages |= {"reference/events.md": event_map(), **reference_pages()}
    pages["notebooks/first_run.md"] = notebook_page(docs / _NOTEBOOK)
    return pages


def _targets(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from _targets(target) if isinstance(target, list) else [target]


def _folders(made: dict[str, str], named: set[str]) -> dict[str, list[str]]:
    """commands/* -> the pages made in it that the navigation doesn't name."""
    inside: dict[str, list[str]] = {}
    for path in made:
        if path not in named:
            inside.setdefault(f"{path.split('/')[0]}/*", []).append(path)
    return inside


def _existing(
    entries: list[Any], docs: Path, made: set[str], stars: dict[str, list[str]]
) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        title, target = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(target, list):
            kept.append({title: _existing(target, docs, made, stars)})
        elif "*" in target:
            kept.extend(stars.get(target, []))
        elif target in made or (docs / target).exists():
            kept.append(entry)
    return kept
