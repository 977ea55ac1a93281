"""Terminal output: progress bars, colours, the width, and lines above bars; in a notebook, its own bars and stdout; settings as flags."""

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = [
    "LINES_TO_STDOUT",
    "TerminalHandler",
    "bar_class",
    "bar_format",
    "colours",
    "flag_words",
    "forbid_colours",
    "in_notebook",
    "output_stream",
    "program_name",
    "progress",
    "shows_bars",
    "status",
    "styled",
    "terminal_width",
    "write_above_bars",
]

BAR_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"
LINES_TO_STDOUT = "FER_IGNITE_LINES_TO_STDOUT"  # set for the processes that a notebook starts
REFRESH_S = 0.4  # people take a display that stands still for longer as hanging
_CODES = {"error": "31;1", "warning": "33", "best": "32", "title": "1"}
_STYLE_OF_LEVEL = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "error"}


def program_name() -> str:
    """How commands that are advised begin: ``fer-ignite``, or the script that started the program where that is not on the path."""
    return os.environ.get("FER_IGNITE_PROGRAM", "fer-ignite")


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    # Looked up, not imported: a kernel has loaded IPython, and elsewhere it may not be installed.
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get is None else get()
    # IPython in a terminal has a shell too, but not this entry.
    return shell is not None and "IPKernelApp" in shell.config


def output_stream() -> TextIO:
    """Where lines and bars go: stderr, but stdout in a notebook, which shows stderr as an error."""
    return sys.stdout if in_notebook() or os.environ.get(LINES_TO_STDOUT) else sys.stderr


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # ValueError: closed
        return False


def shows_bars() -> bool:
    """Whether a line can be rewritten: not in a file, a pipe or a batch job's log."""
    return in_notebook() or _is_terminal(sys.stderr)


def terminal_width() -> int | None:
    """Columns of the terminal, at least 80; None where lines go to a file, a pipe or a notebook."""
    if not _is_terminal(output_stream()):
        return None
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def forbid_colours() -> None:
    """Switches colours off, also for the processes that this one starts."""
    os.environ["NO_COLOR"] = "1"


def colours(stream: Any) -> bool:
    """Whether text on a stream may be coloured: a terminal that can, and no NO_COLOR (https://no-color.org)."""
    able = _is_terminal(stream) and os.environ.get("TERM") != "dumb"
    return able and not os.environ.get("NO_COLOR")


def styled(text: str, style: str, *, stream: Any) -> str:
    """The text in a style (error, warning, best, title) where the stream shows colours."""
    return f"\033[{_CODES[style]}m{text}\033[0m" if colours(stream) else text


def _wrapped(text: str, width: int) -> str:
    """Lines that are too long are broken at blanks and continue below their text, 12 columns from the left."""
    return "\n".join(
        "\n".join(
            textwrap.wrap(
                line,
                width,
                subsequent_indent=" " * 12,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        if len(line) > width
        else line
        for line in text.split("\n")
    )


def write_above_bars(text: str, *, stream: TextIO) -> None:
    """Writes one line; bars that are shown are erased before and drawn again after it."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)  # without it there is no bar
    with contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode(file=stream):
        stream.write(f"{text}\n")
        stream.flush()


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable in Python 3.10
    """Writes log lines above the progress bars.

    Warnings, errors and records with ``style`` are coloured; records with ``file_only`` are left to the log file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        if getattr(record, "file_only", False):
            return
        try:
            text = self.format(record)
            width = terminal_width()
            # a command that wraps by itself can still be copied as one line
            if width is not None and "fer-ignite " not in text:
                text = _wrapped(text, width)
            style = getattr(record, "style", None) or _STYLE_OF_LEVEL.get(record.levelno)
            if style is not None:
                text = styled(text, style, stream=self.stream)
            write_above_bars(text, stream=self.stream)
        except Exception:
            # As logging's own handlers do: a line that can't be written must not end a run.
            self.handleError(record)


@functools.cache
def bar_class() -> Any:
    """tqdm's bar for a notebook, or for a terminal with the time left refreshed every 0.4 s, also within slow batches."""
    if in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar

    from tqdm import tqdm

    # tqdm draws when something is counted; its own monitor thread steps in after 10 s.
    class LiveBar(tqdm):  # type: ignore[type-arg]
        """A bar with a thread that draws it again while nothing is counted."""

        _closing: threading.Event | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if not self.disable:
                self._closing = threading.Event()
                # daemon: a bar that an error leaves open must not keep the program alive.
                self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
                self._thread.start()

        def _keep_fresh(self) -> None:
            assert self._closing is not None
            while not self._closing.wait(REFRESH_S):
                if time.time() - self.last_print_t >= REFRESH_S:
                    self.refresh()

        def close(self) -> None:
            """Erases the bar, after its thread has ended: a late refresh would draw it again."""
            if self._closing is not None:
                self._closing.set()
                self._thread.join()
                self._closing = None
            super().close()

    return LiveBar


class _NoBar:
    """In place of a bar, where tqdm is not installed."""

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *raised: object) -> None: ...

    def update(self, count: int = 1) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


def bar_format() -> str | None:
    """What a bar of a known length shows; a notebook's own bar has its own format."""
    return None if bar_class().__module__ == "tqdm.notebook" else BAR_FORMAT


def progress(
    total: int | None, what: str, *, unit: str = "image", quiet: bool = False, scaled: bool = False
) -> Any:
    """A tqdm bar that is erased when it closes; silent where output is no terminal, or tqdm is not installed.

    Args:
        total: steps; None where their number is unknown.
        what: what is done, in front of the bar.
        scaled: numbers as k, M and G, for bytes.
    """
    try:
        make = bar_class()
    except ModuleNotFoundError:  # prediction with an .onnx file needs few libraries
        return _NoBar()
    return make(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=scaled,
        leave=False,
        disable=quiet or not shows_bars(),
        dynamic_ncols=True,
        mininterval=0.1,
        file=output_stream(),
        bar_format=None if total is None else bar_format(),
    )


@contextlib.contextmanager
def status(text: str, *, quiet: bool = False) -> Iterator[None]:
    """Shows a line while something slow is done, and erases it; silent where output is no terminal."""
    live = not quiet and _is_terminal(sys.stderr)
    if live:
        sys.stderr.write(f"\r{text} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def flag_words(name: str, value: Any) -> list[str]:
    """A setting as words of a command line: ``["--gpus", "0,2"]``, or ``["--no-augment"]``."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    several = value if isinstance(value, (list, tuple)) else (value,)
    return [f"--{flag}", ",".join(map(str, several))]
