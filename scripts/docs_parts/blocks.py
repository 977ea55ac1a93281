"""The code blocks of a page: found, classified, and put into the form in which the tests run them.

The site does not show that form. A block is left out only where the line above it says why: ``<!-- not run: needs a GPU -->``.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LANGUAGES",
    "Block",
    "as_tested",
    "blocks_of",
    "command_lines",
    "pages",
    "reason_not_to_run",
]

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("bash", "python", "yaml")

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_WITHOUT_TRAINING = ("--help", "--print-config", "--plot-lr", "--fast-dev-run")
# What the tests add to a command that lacks it. The data is then small too: the files of that name are drawn faces.
_ADDED = {
    "train": {"--max-train-samples": "140", "--epochs": "1"},
    "audit": {"--folds": "2", "--epochs": "1"},
    "find-lr": {"--iterations": "20", "--max-train-samples": "140"},
    "tune": {"--max-train-samples": "140", "--epochs": "1", "--trials": "2"},
}
# What the tests put in the place of what stands there.
_CHANGED = {"tune": {"--trials": "2", "--epochs": "1"}, "train": {"--folds": "2"}}
_LARGE_RECIPE = {"--max-train-samples": "16", "--epochs": "1"}
# Added to every training, and said once for all of them on the first page.
_SPARED = {"--tta": "none", "--no-plots": ""}
# Programs that are run elsewhere, or that would change the machine.
_NOT_RUN = {
    "scripts/test": "it is what runs these tests",
    "scripts/docs": "it builds this site",
    "scripts/bench": "it measures for minutes",
    "scripts/faults": "it measures for minutes",
    "pip": "it installs",
    "git": "it downloads",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its text without the fence's indentation, and the reason why it is not run, if it has one."""

    line: int
    end: int
    indent: str
    language: str
    text: str
    reason: str | None


def pages() -> list[Path]:
    """README.md and every written page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(markdown: str) -> list[Block]:
    """The fenced blocks that name a language, in their order."""
    return [
        Block(
            markdown.count("\n", 0, found.start("language")) + 1,
            found.end(),
            found["indent"],
            found["language"],
            textwrap.dedent(found["text"]),
            found["reason"],
        )
        for found in _BLOCK.finditer(markdown)
    ]


def command_lines(text: str) -> Iterator[str]:
    """The commands of a bash block; lines that a backslash continues are one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def reason_not_to_run(command: str) -> str | None:
    """Why a command is left out wherever it stands, or None."""
    return _NOT_RUN.get(command.split()[0])


def as_tested(command: str, *, spare: bool = False) -> str:
    """The command as the tests run it: short trainings, and drawn faces where it names no data.

    Args:
        spare: also without pictures and without averaging views, which takes more time than such a training.
    """
    plain = re.sub(r"\s+#.*$", "", command)
    words = plain.split()
    name = _subcommand(words)
    if name not in _ADDED or any(word in _WITHOUT_TRAINING for word in words):
        return plain
    plain = _changed(plain, _CHANGED.get(name, {}))
    added = dict(_ADDED[name])
    if name == "train":
        if "--recipe" in words and "quick" not in words:
            added = _LARGE_RECIPE
        if not {"--data", "--config", "--resume"} & set(words):
            added = {"--data": "demo:700", **added}
        if "--epochs" in words and re.search(r"--data demo:\d{1,3}\b", plain):  # small as it stands
            del added["--max-train-samples"]
            # of a page's commands in turn, those behind the training need no network that has learned something
            plain = (
                re.sub(r"--epochs \d\b", "--epochs 1", plain)
                if spare and "cut" not in words
                else plain
            )
    missing = [f"{flag} {value}".strip() for flag, value in added.items() if flag not in words]
    spared = _SPARED if spare and name == "train" and "--resume" not in words else {}
    return " ".join(
        [
            plain,
            *missing,
            *(f"{flag} {value}".strip() for flag, value in spared.items() if flag not in words),
        ]
    )


def _changed(command: str, values: dict[str, str]) -> str:
    for flag, value in values.items():
        command = re.sub(rf"{flag}[ =]\S+", f"{flag} {value}", command)
    return command


def _subcommand(words: list[str]) -> str | None:
    for position, word in enumerate(words):
        if word in ("fer-ignite", "scripts/fer-ignite", "fer_ignite") and position + 1 < len(words):
            return words[position + 1]
    return None
