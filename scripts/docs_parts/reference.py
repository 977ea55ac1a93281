"""The reference: for the public names, and for every module, a page with the docstrings, by mkdocstrings."""

import ast
from pathlib import Path

from markup import literal, plain_roles

import fer_ignite

__all__ = ["reference_pages"]

_HEAD = """\
# Public names

What `from fer_ignite import ...` gives; each name leads to its docstring. `Events` are Ignite's own, handed on. `Config` has
one field per setting: the options of [`fer-ignite train`](../commands/train.md) with `_` for `-`. The members of `StepEvents`
and `RunEvents` are in the [event map](events.md).

"""
PACKAGE = Path(fer_ignite.__file__).parent


def reference_pages() -> dict[str, str]:
    """Path within the site -> Markdown, the public names first, then a page per folder of the package."""
    made = {"reference/api.md": _public_names()}
    for folder in (PACKAGE, *sorted(file.parent for file in PACKAGE.glob("*/__init__.py"))):
        modules = [
            _module_name(file)
            for file in sorted(folder.glob("*.py"))
            if not file.name.startswith("__")
        ]
        if modules and folder.name != "cli":  # the commands have pages of their own
            made[f"reference/{folder.name}.md"] = _modules_page(folder, modules)
    return made


def _public_names() -> str:
    rows = [
        f"| [`{name}`][{fer_ignite._HOMES[name]}.{name}] | {_idea(name)} |"
        for name in fer_ignite.__all__
        if name != "Events"
    ]
    return _HEAD + "\n".join(["| name | what it is |", "|---|---|", *rows, ""])


def _idea(name: str) -> str:
    thing = getattr(fer_ignite, name)
    return literal(plain_roles(" ".join((thing.__doc__ or "").split("\n\n")[0].split())))


def _modules_page(folder: Path, modules: list[str]) -> str:
    title = "fer_ignite" if folder == PACKAGE else f"fer_ignite.{folder.name}"
    idea = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    entries = [f"::: {module}" for module in modules]
    return f"# {title}\n\n{idea.split(chr(10) * 2)[0]}\n\n" + "\n\n".join(entries) + "\n"


def _module_name(file: Path) -> str:
    return ".".join(("fer_ignite", *file.relative_to(PACKAGE).with_suffix("").parts))
