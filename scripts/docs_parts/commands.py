"""A page per command, written from the options that the program itself declares."""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from markup import literal

from fer_ignite.cli.main import program
from fer_ignite.cli.options import show_all_settings

__all__ = ["SEARCH_TERMS", "command_names", "command_page", "overview"]

# Terms of the field under which readers search for a flag whose help text does not contain them.
SEARCH_TERMS = {"--grad-accum-steps": "gradient accumulation"}

# Range, unit and default stand in brackets behind an option's text; brackets inside the text are part of it.
_BRACKETS = re.compile(r"(?:\s+\[[^\[\]]*\])+\s*$")


class _Collector(click.HelpFormatter):
    """Takes what a command would print as its options, section by section, instead of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, list[tuple[str, str]]] = {}
        self._title = ""

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._title = name
        yield

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: object, **__: object) -> None:
        self.sections.setdefault(self._title, []).extend(rows)


def command_names() -> list[str]:
    """The program's commands, in the order of its help."""
    return program.list_commands(click.Context(program))


def overview() -> str:
    """The page that lists the commands, with what the program says when it is called alone."""
    lines = ["# Commands", "", "| command | what it does |", "|---|---|"]
    formatter = _Collector()
    program.format_commands(click.Context(program, info_name="fer-ignite"), formatter)
    for name, text in formatter.sections["Commands"]:
        lines.append(f"| [`fer-ignite {name}`]({name}.md) | {_cell(text)} |")
    lines += ["", "The exit codes are in [a run's files](../howto/results.md#exit-codes).", ""]
    return "\n".join(lines)


def command_page(name: str) -> str:
    """Usage, help text and a table of options per topic of one command."""
    command = program.get_command(click.Context(program, info_name="fer-ignite"), name)
    assert command is not None
    context = click.Context(
        command, info_name=name, parent=click.Context(program, info_name="fer-ignite")
    )
    usage = " ".join(["fer-ignite", name, *command.collect_usage_pieces(context)])
    parts = [f"# fer-ignite {name}", "```text\n" + usage + "\n```", _prose(command.help or "")]
    show_all_settings(context)
    formatter = _Collector()
    command.format_options(context, formatter)
    for title, rows in formatter.sections.items():
        lines = [
            f"| `{flags}` | {_meaning(flags, text)} | {_cell(_facts(text))} |"
            for flags, text in rows
        ]
        parts += [
            f"## {title}",
            "\n".join(["| option | meaning | allowed, default |", "|---|---|---|", *lines]),
        ]
    if command.epilog:
        parts.append(_prose(command.epilog))
    return "\n\n".join(parts) + "\n"


def _facts(text: str) -> str:
    found = _BRACKETS.search(text)
    return "; ".join(re.findall(r"\[([^\[\]]*)\]", found[0])) if found else ""


def _cell(text: str) -> str:
    return literal(" ".join(text.split()))


def _meaning(flags: str, text: str) -> str:
    terms = next(
        (terms for flag, terms in SEARCH_TERMS.items() if flag in re.split(r"[\s,/=]+", flags)), ""
    )
    return _cell(_BRACKETS.sub("", text) + (f" ({terms})" if terms else ""))


def _prose(text: str) -> str:
    # click marks paragraphs that keep their lines with \b alone on a line.
    paragraphs = []
    for paragraph in inspect.cleandoc(text).replace("\f", "").split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            lines = paragraph.lstrip().removeprefix("\b").strip("\n")
            paragraphs.append("```text\n" + lines + "\n```")
        else:
            paragraphs.append(literal(paragraph))
    return "\n\n".join(paragraphs)
