"""Colours, wrapped lines, bars that stay fresh, and output that is no terminal."""

import io
import logging
import re
import sys
import time

import pytest

from fer_ignite import terminal

ESCAPE = "\033["


class Screen(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def logged(stream, text, *, level=logging.INFO, **extra):
    handler = terminal.TerminalHandler(stream)
    record = logging.LogRecord("x", level, __file__, 1, text, (), None)
    vars(record).update(extra)
    handler.emit(record)
    return stream.getvalue()


def test_warnings_errors_and_styles_are_coloured_on_a_terminal_alone(monkeypatch):
    assert ESCAPE in logged(Screen(), "w", level=logging.WARNING)
    assert ESCAPE in logged(Screen(), "row", style="best")
    assert logged(Screen(), "plain") == "plain\n"
    assert logged(io.StringIO(), "w", level=logging.ERROR) == "w\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert logged(Screen(), "w", level=logging.WARNING) == "w\n"
    monkeypatch.setenv("NO_COLOR", "")  # empty counts as unset: no-color.org
    monkeypatch.setenv("TERM", "dumb")
    assert logged(Screen(), "w", level=logging.WARNING) == "w\n"


def test_no_color_is_for_the_started_processes_too(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    terminal.forbid_colours()
    assert not terminal.colours(Screen())


def test_records_for_the_file_are_not_shown():
    assert logged(Screen(), "groups", file_only=True) == ""


def test_long_lines_are_broken_at_blanks_and_indented(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    words = " ".join(f"word{number}" for number in range(30))
    lines = logged(screen, f"data        {words}").splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"data {words}"


def test_commands_stay_one_line(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    command = f"next        fer-ignite evaluate {'x/' * 60}best.pt"
    assert logged(screen, command) == command + "\n"


def test_the_width_is_at_least_80_and_unknown_for_a_file(monkeypatch):
    monkeypatch.setattr("sys.stderr", Screen())
    for columns, width in (("40", 80), ("132", 132)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal.terminal_width() == width
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert terminal.terminal_width() is None


def test_a_bar_is_drawn_again_while_nothing_is_counted(monkeypatch):
    """A slow batch: the elapsed time goes on."""
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    bar = terminal.bar_class()(
        total=5, file=screen, bar_format="{desc} {elapsed_s:.1f}", leave=False, dynamic_ncols=True
    )
    end = time.monotonic() + 30
    while len(set(re.findall(r"\d+\.\d", screen.getvalue()))) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    bar.close()
    assert len(set(re.findall(r"\d+\.\d", screen.getvalue()))) >= 4
    before = screen.getvalue()
    time.sleep(2 * terminal.REFRESH_S)
    assert screen.getvalue() == before  # its thread has ended


def test_a_closed_bar_leaves_no_thread():
    import threading

    before = threading.active_count()
    bars = [terminal.bar_class()(total=3, file=Screen()) for _ in range(4)]
    assert threading.active_count() >= before + 4
    for bar in bars:
        bar.close()
    assert threading.active_count() <= before + 1  # tqdm's own monitor stays


def test_bars_and_status_are_silent_where_output_is_no_terminal(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    with terminal.progress(3, "work") as bar, terminal.status("loading"):
        bar.update(3)
    assert pipe.getvalue() == ""


def test_a_status_is_erased(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with terminal.status("loading torch"):
        assert "loading torch" in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")


def test_without_tqdm_lines_are_written_and_no_bar_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(terminal, "bar_class", terminal.bar_class.__wrapped__)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.progress(2, "files") as bar:
        bar.update(2)
    bar.close()
    terminal.write_above_bars("a line", stream=screen)
    assert screen.getvalue() == "a line\n"
