"""What mkdocs calls while it builds the site: pages made from the code, and what the tests do beneath each code block."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocks import Block, as_tested, blocks_of, command_lines, reason_not_to_run
from commands import command_names, command_page, overview
from events import event_map
from mkdocs.structure.files import File
from notebook import notebook_page
from reference import reference_pages

__all__ = ["on_config", "on_files", "on_page_markdown"]

_NOTEBOOK = "notebooks/first_run.ipynb"


def on_config(config: Any) -> Any:
    """Completes the navigation: what is made here, and what nobody has listed, is added; what isn't there is left out."""
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
    """Writes beneath each block what the tests run in its place, or why they don't."""
    if page.file.src_uri.startswith(("commands/", "reference/")):
        return markdown
    for block in reversed(blocks_of(markdown)):
        markdown = markdown[: block.end] + _note(block) + markdown[block.end :]
    return markdown


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


def _existing(entries: list[Any], docs: Path, made: set[str], stars: dict[str, list[str]]) -> list[Any]:
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


def _note(block: Block) -> str:
    if block.reason is not None:
        return _small(block, f"The tests leave this out: {block.reason}.")
    if block.language != "bash":
        return ""
    lines = []
    for command in command_lines(block.text):
        reason = reason_not_to_run(command)
        if reason is not None:
            lines.append(f"`{command.split('#')[0].strip()}`: left out by the tests, {reason}.")
        elif "--" in (form := as_tested(command)) and form != command.split(" #")[0].strip():
            lines.append(f"`{form}`")
    head = "As the tests run it, on drawn faces:<br>" if any(line.endswith("`") for line in lines) else ""
    return _small(block, head + "<br>".join(lines)) if lines else ""


def _small(block: Block, text: str) -> str:
    return f"\n\n{block.indent}<small markdown>{text}</small>\n"
